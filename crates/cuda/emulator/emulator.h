// Compiles a `.cu` file as C++ for the host: CUDA's execution model, with a fiber for each CUDA thread, and the functions through which
// the host launches the kernels of the file by name. A library has one `.cu` file; it is safe to launch from several host threads.
#pragma once
#include <utility>

#include "tensor_core.h"

// A pointer to the dynamic shared memory of the block, which begins at a multiple of 16 bytes.
#define SHARED(type, name) type* name = reinterpret_cast<type*>(::emulator::block->shared)

namespace emulator {

// A kernel of this library, in a list.
struct Kernel {
    const char* name;
    void (*call)(void* const* args);
    size_t parameters;
    Kernel* next;
};
static Kernel* kernels;

template <class... Parameters, size_t... I>
static void call_with(void (*kernel)(Parameters...), void* const* args, std::index_sequence<I...>) {
    kernel(*static_cast<Parameters*>(args[I])...);
}

template <class Function, Function FUNCTION>
struct Trampoline;

template <class... Parameters, void (*FUNCTION)(Parameters...)>
struct Trampoline<void (*)(Parameters...), FUNCTION> {
    static constexpr size_t COUNT = sizeof...(Parameters);
    static void call(void* const* args) { call_with(FUNCTION, args, std::index_sequence_for<Parameters...>{}); }
};

struct Registration {
    Kernel kernel;
    Registration(const char* name, void (*call)(void* const*), size_t parameters) : kernel{name, call, parameters, kernels} {
        kernels = &kernel;
    }
};

static int run_grid(Block& launch) {
    block = &launch;
    launch.fibers = stacks.get();
    if (!launch.fibers) return record_error("no memory for the stacks of threads"), 1;
    uint64_t blocks = uint64_t(launch.grid.x) * launch.grid.y * launch.grid.z;
    // Greedy: an affine permutation of the blocks, with a step that has no common divisor with their number.
    uint64_t step = 1, first = 0;
    if (!launch.schedule.lockstep && blocks > 1) {
        auto divisor = [](uint64_t a, uint64_t b) {
            while (b) {
                uint64_t rest = a % b;
                a = b, b = rest;
            }
            return a;
        };
        first = launch.random(0x7fffffff) % blocks;
        do step = 1 + launch.random(0x7fffffff) % blocks;
        while (divisor(step, blocks) != 1);
    }
    for (uint64_t i = 0; i < blocks && !launch.failed; i++) {
        uint64_t b = (first + i * step) % blocks;
        run_block({unsigned(b % launch.grid.x), unsigned(b / launch.grid.x % launch.grid.y), unsigned(b / launch.grid.x / launch.grid.y)});
    }
    block = nullptr;
    return launch.failed;
}

}  // namespace emulator

// Registers a kernel, so that it can be launched by name.
#define REGISTER_KERNEL(kernel) \
    static ::emulator::Registration kernel##_registration(#kernel, ::emulator::Trampoline<decltype(&kernel), &kernel>::call, \
                                                          ::emulator::Trampoline<decltype(&kernel), &kernel>::COUNT)

#define EXPORTED extern "C" __attribute__((visibility("default")))

// Returns the name of kernel `index` and its number of parameters, or null.
EXPORTED const char* vlct_emulator_kernel(size_t index, size_t* parameters) {
    const emulator::Kernel* kernel = emulator::kernels;
    while (kernel && index > 0) kernel = kernel->next, index--;
    if (!kernel) return nullptr;
    *parameters = kernel->parameters;
    return kernel->name;
}

// Runs a grid. Returns 0, or 1 after an error, whose text is then in `error`.
EXPORTED int vlct_emulator_launch(const char* name, const unsigned* grid, const unsigned* block, size_t shared_bytes,
                                  const emulator::Schedule* schedule, void* const* args, char* error, size_t error_bytes) {
    const emulator::Kernel* kernel = emulator::kernels;
    while (kernel && strcmp(kernel->name, name) != 0) kernel = kernel->next;
    if (!kernel) return snprintf(error, error_bytes, "unknown kernel %s", name), 1;
    emulator::Block launch = {};
    launch.kernel = kernel->name;
    launch.call = kernel->call;
    launch.args = args;
    launch.schedule = *schedule;
    launch.grid = {grid[0], grid[1], grid[2]};
    launch.block = {block[0], block[1], block[2]};
    launch.threads = block[0] * block[1] * block[2];
    launch.shared_bytes = shared_bytes;
    // The generator must not begin with zero.
    launch.random_state = schedule->seed * 2 + 1;
    launch.error = error;
    launch.error_bytes = error_bytes;
    return emulator::run_grid(launch);
}
