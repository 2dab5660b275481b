// Switches between stacks of one host thread: assembly on x86-64 with the System V ABI, `ucontext` elsewhere, which is slower because
// it makes a system call for each switch.
#pragma once
#include <cstddef>
#include <cstdint>

#if !(defined(__x86_64__) && (defined(__linux__) || defined(__APPLE__)))
#define EMULATOR_UCONTEXT 1
#endif

namespace emulator {

typedef void (*Entry)();

#ifdef EMULATOR_UCONTEXT
}
#include <ucontext.h>
namespace emulator {

struct Stack {
    ucontext_t context;

    void prepare(char* bottom, size_t bytes, Entry entry) {
        getcontext(&context);
        context.uc_stack.ss_sp = bottom;
        context.uc_stack.ss_size = bytes;
        context.uc_link = nullptr;
        makecontext(&context, entry, 0);
    }
};

static inline void switch_stack(Stack& from, Stack& to) { swapcontext(&from.context, &to.context); }

#else

// Saves the registers that a function must preserve, and the stack pointer; restores those of the other stack and returns there.
asm(".text\n"
    ".p2align 4\n"
    "vlct_emulator_switch:\n"
    "  pushq %rbp\n"
    "  pushq %rbx\n"
    "  pushq %r12\n"
    "  pushq %r13\n"
    "  pushq %r14\n"
    "  pushq %r15\n"
    "  movq %rsp, (%rdi)\n"
    "  movq %rsi, %rsp\n"
    "  popq %r15\n"
    "  popq %r14\n"
    "  popq %r13\n"
    "  popq %r12\n"
    "  popq %rbx\n"
    "  popq %rbp\n"
    "  retq\n");
extern "C" __attribute__((visibility("hidden"))) void emulator_switch(void** from, void* to) __asm__("vlct_emulator_switch");

struct Stack {
    void* pointer;

    void prepare(char* bottom, size_t bytes, Entry entry) {
        // At its first instruction, a function expects a stack pointer of 8 modulo 16 at a return address; `entry` never returns.
        void** top = reinterpret_cast<void**>((uintptr_t(bottom) + bytes) / 16 * 16);
        *--top = nullptr;
        *--top = reinterpret_cast<void*>(entry);
        for (int i = 0; i < 6; i++) *--top = nullptr;
        pointer = top;
    }
};

static inline void switch_stack(Stack& from, Stack& to) { emulator_switch(&from.pointer, to.pointer); }

#endif

}  // namespace emulator
