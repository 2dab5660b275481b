// One thread block: its fibers, barriers and scheduler. Each CUDA thread is a fiber, which runs until it waits for other threads.
//
// A kernel that does not synchronise as it must gives wrong results in some order of execution only, so a launch chooses an order:
//   greedy    warps in random order, each as far as its barriers let it; the threads of a warp in random order; blocks in random order
//   lockstep  all threads of a block advance together, in order
// A thread that has exited counts as arrived at every barrier, as on a device.
#pragma once
#include <sys/mman.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <vector>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

#include "fiber.h"
#include "types.h"

namespace emulator {

constexpr unsigned WARP = 32;
constexpr unsigned MAX_THREADS = 1024;
constexpr size_t STACK_BYTES = 64 << 10;
// Guard bytes on both sides of shared memory. AddressSanitizer has its own.
#ifdef __SANITIZE_ADDRESS__
constexpr size_t GUARD = 0;
#else
constexpr size_t GUARD = 256;
#endif
// Shared memory begins at a multiple of this: the largest alignment of a matrix that instructions read by a descriptor (`wgmma.h`).
constexpr size_t SHARED_ALIGNMENT = 1024;
// As f32 and as bf16, bytes of this value are a NaN.
constexpr unsigned char POISON = 0xff;
constexpr uint64_t STACK_MARK = 0x5afe57ac5afe57ac;

struct Schedule {
    uint32_t lockstep;
    // Whether asynchronous copies happen when they are issued; if not, they happen when a thread waits for them.
    uint32_t early_copies;
    uint64_t seed;
};

enum class State : uint8_t { ready, at_barrier, at_warp_operation, at_mbarrier, exited };

struct Warp;
// Computes the outputs of all threads of `mask` that take part.
typedef void (*Operation)(Warp& warp, unsigned mask, const void* parameter);

// An asynchronous copy; bytes after `from_bytes` become zeros.
struct Copy {
    void* to;
    const void* from;
    unsigned bytes, from_bytes;
};

struct Fiber {
    Stack stack;
    char* bottom;
    dim3 thread;
    unsigned index;
    State state;
    // Where the fiber waits.
    const char* what;
    const char* file;
    int line;
    // The warp operation.
    unsigned mask;
    Operation operation;
    alignas(16) unsigned char in[64], out[64];
    // Copies of the group that is not committed, and of committed groups, oldest first.
    std::vector<Copy> open;
    std::vector<std::vector<Copy>> groups;
};

struct Warp {
    Fiber* fibers;
    unsigned size;

    bool takes_part(unsigned mask, unsigned lane) const {
        return lane < size && (mask >> lane & 1) && fibers[lane].state != State::exited;
    }
};

struct Block {
    const char* kernel;
    void (*call)(void* const* args);
    void* const* args;
    Schedule schedule;
    dim3 grid, block, index;
    unsigned threads, alive, waiting;
    Stack scheduler;
    Fiber* current;
    Fiber* fibers;
    unsigned char* shared;
    size_t shared_bytes;
    uint64_t random_state;
    bool failed;
    char* error;
    size_t error_bytes;

    // xorshift64* (Vigna 2016).
    unsigned random(unsigned below) {
        random_state ^= random_state >> 12;
        random_state ^= random_state << 25;
        random_state ^= random_state >> 27;
        return unsigned((random_state * 2685821657736338717ull) >> 33) % below;
    }

    void shuffle(unsigned* values, unsigned count) {
        for (unsigned i = count; i > 1; i--) {
            unsigned j = random(i), t = values[i - 1];
            values[i - 1] = values[j];
            values[j] = t;
        }
    }

    Warp warp_of(const Fiber& fiber) {
        unsigned first = fiber.index / WARP * WARP;
        return {fibers + first, min(WARP, threads - first)};
    }
};

static thread_local Block* block;

// What instructions do besides their functions, if a file uses them: when a block begins and ends, and before a thread lets others run.
struct Hooks {
    void (*begin_block)();
    void (*end_block)();
    void (*before_leave)();
};
static Hooks hooks;

__attribute__((format(printf, 1, 2))) static void record_error(const char* format, ...) {
    if (block->failed) return;
    block->failed = true;
    int n = snprintf(block->error, block->error_bytes, "kernel %s, block (%u, %u, %u): ", block->kernel, block->index.x, block->index.y,
                     block->index.z);
    va_list list;
    va_start(list, format);
    if (n > 0 && size_t(n) < block->error_bytes) vsnprintf(block->error + n, block->error_bytes - n, format, list);
    va_end(list);
}

static inline void leave() {
    if (hooks.before_leave) hooks.before_leave();
    switch_stack(block->current->stack, block->scheduler);
}

// Ends the launch with an error; called by a fiber.
template <class... Values>
[[noreturn]] static void fail(const char* format, Values... values) {
    record_error(format, values...);
    for (;;) leave();
}

static void complete_if_all_arrived(Warp warp, unsigned mask) {
    const Fiber* first = nullptr;
    for (unsigned lane = 0; lane < warp.size; lane++) {
        if (!warp.takes_part(mask, lane)) continue;
        Fiber& fiber = warp.fibers[lane];
        if (fiber.state != State::at_warp_operation || fiber.mask != mask) return;
        if (!first) first = &fiber;
        if (fiber.operation != first->operation) {
            return record_error("threads of a warp execute different operations: %s (%s:%d) and %s (%s:%d)", first->what, first->file,
                                first->line, fiber.what, fiber.file, fiber.line);
        }
    }
    if (!first) return;
    first->operation(warp, mask, nullptr);
    for (unsigned lane = 0; lane < warp.size; lane++) {
        if (warp.takes_part(mask, lane)) warp.fibers[lane].state = State::ready;
    }
}

// Waits until all threads of `mask` execute the same operation. Returns the output of this thread.
static void* warp_operation(Operation operation, const char* what, unsigned mask, const void* in, size_t bytes, const char* file,
                            int line) {
    Fiber& fiber = *block->current;
    if (!(mask >> fiber.index % WARP & 1)) fail("%s (%s:%d): the mask %08x lacks thread %u", what, file, line, mask, fiber.index);
    fiber.state = State::at_warp_operation;
    fiber.mask = mask;
    fiber.operation = operation;
    fiber.what = what, fiber.file = file, fiber.line = line;
    if (bytes) memcpy(fiber.in, in, bytes);
    complete_if_all_arrived(block->warp_of(fiber), mask);
    if (fiber.state != State::ready || block->failed) leave();
    return fiber.out;
}

static void release_barrier_if_all_arrived() {
    if (block->waiting == 0 || block->waiting < block->alive) return;
    const Fiber* first = nullptr;
    for (unsigned i = 0; i < block->threads; i++) {
        Fiber& fiber = block->fibers[i];
        if (fiber.state != State::at_barrier) continue;
        if (!first) first = &fiber;
        if (fiber.line != first->line || strcmp(fiber.file, first->file) != 0) {
            return record_error("threads %u and %u wait at different barriers: %s:%d and %s:%d", first->index, fiber.index, first->file,
                                first->line, fiber.file, fiber.line);
        }
        fiber.state = State::ready;
    }
    block->waiting = 0;
}

static void barrier(const char* file, int line) {
    Fiber& fiber = *block->current;
    fiber.state = State::at_barrier;
    fiber.what = "__syncthreads", fiber.file = file, fiber.line = line;
    block->waiting++;
    release_barrier_if_all_arrived();
    leave();
}

static void run_fiber() {
    block->call(block->args);
    Fiber& fiber = *block->current;
    fiber.state = State::exited;
    block->alive--;
    Warp warp = block->warp_of(fiber);
    for (unsigned lane = 0; lane < warp.size; lane++) {
        if (warp.fibers[lane].state == State::at_warp_operation) complete_if_all_arrived(warp, warp.fibers[lane].mask);
    }
    release_barrier_if_all_arrived();
    for (;;) leave();
}

// The stacks of a host thread, kept between launches.
struct Stacks {
    char* memory = nullptr;
    Fiber* fibers = nullptr;

    Fiber* get() {
        if (!memory) {
            void* map = mmap(nullptr, MAX_THREADS * STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
            if (map == MAP_FAILED) return nullptr;
            memory = static_cast<char*>(map);
            fibers = new Fiber[MAX_THREADS];
        }
        return fibers;
    }

    ~Stacks() {
        delete[] fibers;
        if (memory) munmap(memory, MAX_THREADS * STACK_BYTES);
    }
};
static thread_local Stacks stacks;

static void resume(Fiber& fiber) {
    block->current = &fiber;
    switch_stack(block->scheduler, fiber.stack);
    if (*reinterpret_cast<uint64_t*>(fiber.bottom) != STACK_MARK) record_error("thread %u has overflowed its stack", fiber.index);
}

// Runs the threads of a warp until all of them wait for other warps. Returns whether any thread ran.
static bool run_warp(unsigned first) {
    bool ran = false;
    for (;;) {
        unsigned ready[WARP], count = 0;
        for (unsigned i = first; i < min(first + WARP, block->threads); i++) {
            if (block->fibers[i].state == State::ready) ready[count++] = i;
        }
        if (count == 0 || block->failed) return ran;
        ran = true;
        block->shuffle(ready, count);
        for (unsigned i = 0; i < count && !block->failed; i++) resume(block->fibers[ready[i]]);
    }
}

static bool run_greedy() {
    unsigned firsts[MAX_THREADS / WARP], count = 0;
    for (unsigned first = 0; first < block->threads; first += WARP) firsts[count++] = first;
    block->shuffle(firsts, count);
    bool ran = false;
    for (unsigned i = 0; i < count; i++) ran |= run_warp(firsts[i]);
    return ran;
}

static bool run_lockstep() {
    static thread_local bool ready[MAX_THREADS];
    bool ran = false;
    for (unsigned i = 0; i < block->threads; i++) ready[i] = block->fibers[i].state == State::ready;
    for (unsigned i = 0; i < block->threads && !block->failed; i++) {
        if (!ready[i]) continue;
        ran = true;
        resume(block->fibers[i]);
    }
    return ran;
}

static void report_deadlock() {
    for (unsigned i = 0; i < block->threads; i++) {
        const Fiber& a = block->fibers[i];
        if (a.state == State::exited) continue;
        for (unsigned j = i + 1; j < block->threads; j++) {
            const Fiber& b = block->fibers[j];
            if (b.state != State::exited && (b.state != a.state || b.mask != a.mask)) {
                return record_error("deadlock: thread %u waits in %s (%s:%d), thread %u in %s (%s:%d)", a.index, a.what, a.file, a.line,
                                    b.index, b.what, b.file, b.line);
            }
        }
        return record_error("deadlock: thread %u waits in %s (%s:%d)", a.index, a.what, a.file, a.line);
    }
}

static void check_guard(const unsigned char* guard, const char* side) {
    for (size_t i = 0; i < GUARD; i++) {
        if (guard[i] != POISON) return record_error("a thread wrote %s the %zu bytes of shared memory", side, block->shared_bytes);
    }
}

static void run_block(dim3 index) {
    block->index = index;
    block->alive = block->threads;
    block->waiting = 0;
    constexpr size_t BEFORE = GUARD ? SHARED_ALIGNMENT : 0;
    void* memory = nullptr;
    if (posix_memalign(&memory, SHARED_ALIGNMENT, BEFORE + block->shared_bytes + GUARD) != 0)
        return record_error("no memory for %zu bytes of shared memory", block->shared_bytes);
    memset(memory, POISON, BEFORE + block->shared_bytes + GUARD);
    block->shared = static_cast<unsigned char*>(memory) + BEFORE;
    if (hooks.begin_block) hooks.begin_block();
    for (unsigned i = 0; i < block->threads; i++) {
        Fiber& fiber = block->fibers[i];
        fiber.bottom = stacks.memory + i * STACK_BYTES;
#ifdef __SANITIZE_ADDRESS__
        // Functions that a fiber has not left keep the ends of their variables marked.
        __asan_unpoison_memory_region(fiber.bottom, STACK_BYTES);
#endif
        *reinterpret_cast<uint64_t*>(fiber.bottom) = STACK_MARK;
        // Different offsets within a page, so that the stacks do not share the sets of the L1 cache.
        fiber.stack.prepare(fiber.bottom, STACK_BYTES - i * 192 % 4096, run_fiber);
        fiber.thread = {i % block->block.x, i / block->block.x % block->block.y, i / block->block.x / block->block.y};
        fiber.index = i;
        fiber.state = State::ready;
        fiber.mask = 0;
        fiber.open.clear();
        fiber.groups.clear();
    }
    while (block->alive > 0 && !block->failed) {
        bool ran = block->schedule.lockstep ? run_lockstep() : run_greedy();
        if (!ran && !block->failed) report_deadlock();
    }
    if (hooks.end_block && !block->failed) hooks.end_block();
    check_guard(block->shared - GUARD, "before");
    check_guard(block->shared + block->shared_bytes, "after");
    free(memory);
}

}  // namespace emulator
