// Barriers and warp operations: shuffles, votes, and the twins of tensor core instructions, from the fragment layouts of the PTX ISA.
//
// A value that a device leaves undefined (a shuffle from a thread that does not take part) is a NaN here.
#pragma once
#include "block.h"

#define threadIdx (::emulator::block->current->thread)
#define blockIdx (::emulator::block->index)
#define blockDim (::emulator::block->block)
#define gridDim (::emulator::block->grid)
#define warpSize 32

#define SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

static inline void __syncthreads(SITE) { emulator::barrier(file, line); }

namespace emulator {

struct Shuffle {
    uint64_t value;
    uint32_t source;
};

// Each thread reads the value of the thread `source`.
static void exchange(Warp& warp, unsigned mask, const void*) {
    for (unsigned lane = 0; lane < warp.size; lane++) {
        if (!warp.takes_part(mask, lane)) continue;
        Shuffle shuffle;
        memcpy(&shuffle, warp.fibers[lane].in, sizeof shuffle);
        memset(warp.fibers[lane].out, POISON, sizeof(uint64_t));
        if (shuffle.source < WARP && warp.takes_part(mask, shuffle.source))
            memcpy(warp.fibers[lane].out, warp.fibers[shuffle.source].in, sizeof(uint64_t));
    }
}

static void vote(Warp& warp, unsigned mask, const void*) {
    unsigned bits = 0;
    for (unsigned lane = 0; lane < warp.size; lane++) {
        if (warp.takes_part(mask, lane) && warp.fibers[lane].in[0]) bits |= 1u << lane;
    }
    for (unsigned lane = 0; lane < warp.size; lane++) {
        if (warp.takes_part(mask, lane)) memcpy(warp.fibers[lane].out, &bits, sizeof bits);
    }
}

static void meet(Warp&, unsigned, const void*) {}

template <class T>
static T shuffle(const char* what, unsigned mask, T value, unsigned source, const char* file, int line) {
    static_assert(sizeof(T) <= 8, "shuffles exchange 4 or 8 bytes");
    Shuffle in = {0, source};
    memcpy(&in.value, &value, sizeof value);
    T result;
    memcpy(&result, warp_operation(exchange, what, mask, &in, sizeof in, file, line), sizeof result);
    return result;
}

// The index of the calling thread within its warp, and the part of the warp of `width` threads that contains it.
static inline unsigned lane() { return block->current->index % WARP; }
static inline unsigned part(int width) { return lane() & ~unsigned(width - 1); }

}  // namespace emulator

static inline void __syncwarp(unsigned mask = ~0u, SITE) {
    emulator::warp_operation(emulator::meet, "__syncwarp", mask, nullptr, 0, file, line);
}
template <class T>
static inline T __shfl_sync(unsigned mask, T value, int source, int width = 32, SITE) {
    return emulator::shuffle("__shfl_sync", mask, value, emulator::part(width) + (source & (width - 1)), file, line);
}
template <class T>
static inline T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, SITE) {
    unsigned source = emulator::lane() ^ unsigned(bits);
    bool in_part = source < emulator::part(width) + unsigned(width);
    return emulator::shuffle("__shfl_xor_sync", mask, value, in_part ? source : emulator::lane(), file, line);
}
template <class T>
static inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, SITE) {
    unsigned source = emulator::lane() + delta;
    bool in_part = source < emulator::part(width) + unsigned(width);
    return emulator::shuffle("__shfl_down_sync", mask, value, in_part ? source : emulator::lane(), file, line);
}
template <class T>
static inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, SITE) {
    bool in_part = emulator::lane() >= emulator::part(width) + delta;
    return emulator::shuffle("__shfl_up_sync", mask, value, in_part ? emulator::lane() - delta : emulator::lane(), file, line);
}
static inline unsigned __ballot_sync(unsigned mask, int condition, SITE) {
    unsigned char in = condition != 0;
    unsigned bits;
    memcpy(&bits, emulator::warp_operation(emulator::vote, "__ballot_sync", mask, &in, 1, file, line), sizeof bits);
    return bits;
}
static inline int __any_sync(unsigned mask, int condition, SITE) { return __ballot_sync(mask, condition, file, line) != 0; }
static inline int __all_sync(unsigned mask, int condition, SITE) { return __ballot_sync(mask, !condition, file, line) == 0; }
