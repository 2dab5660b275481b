// Twins of `mma.sync`, `ldmatrix` and `cp.async`, from the PTX ISA 9.0 (sections 9.7.14.5.8, 9.7.14.5.15 and 9.7.9.25).
//
// The sum of a tensor core has another order and other roundings than the sum here, so results agree up to rounding only.
#pragma once
#include "warp.h"

namespace emulator {

struct Mma {
    uint32_t a[4], b[2];
    float c[4];
};

static inline float half_of(uint32_t pair, unsigned half) { return bit_cast<float>(half ? pair & 0xffff0000u : pair << 16); }

// With g = lane / 4 and t = lane % 4: register i of A has row g + 8·(i % 2) and columns 2t + 8·(i / 2) + {0, 1}; register i of B has rows
// 2t + 8·i + {0, 1} and column g; value i of C has row g + 8·(i / 2) and column 2t + i % 2.
static void multiply(Warp& warp, unsigned, const void*) {
    float a[16][16], b[16][8];
    Mma in[WARP];
    for (unsigned lane = 0; lane < WARP; lane++) {
        memcpy(&in[lane], warp.fibers[lane].in, sizeof(Mma));
        unsigned g = lane / 4, t = lane % 4;
        for (unsigned i = 0; i < 4; i++)
            for (unsigned half = 0; half < 2; half++) a[g + 8 * (i % 2)][2 * t + 8 * (i / 2) + half] = half_of(in[lane].a[i], half);
        for (unsigned i = 0; i < 2; i++)
            for (unsigned half = 0; half < 2; half++) b[2 * t + 8 * i + half][g] = half_of(in[lane].b[i], half);
    }
    for (unsigned lane = 0; lane < WARP; lane++) {
        unsigned g = lane / 4, t = lane % 4;
        float d[4];
        for (unsigned i = 0; i < 4; i++) {
            d[i] = in[lane].c[i];
            for (unsigned k = 0; k < 16; k++) d[i] += a[g + 8 * (i / 2)][k] * b[k][2 * t + i % 2];
        }
        memcpy(warp.fibers[lane].out, d, sizeof d);
    }
}

// Thread 8·j + r has the address of row r of matrix j. Register j of thread l is row l / 4, columns 2·(l % 4) + {0, 1} of matrix j, or of
// its transpose.
template <int COUNT, bool TRANSPOSED>
static void load_matrices(Warp& warp, unsigned, const void*) {
    for (unsigned lane = 0; lane < WARP; lane++) {
        uint16_t values[COUNT][2];
        for (unsigned j = 0; j < COUNT; j++) {
            for (unsigned half = 0; half < 2; half++) {
                unsigned row = lane / 4, column = 2 * (lane % 4) + half;
                if (TRANSPOSED) {
                    unsigned swap = row;
                    row = column, column = swap;
                }
                const unsigned char* address;
                memcpy(&address, warp.fibers[8 * j + row].in, sizeof address);
                memcpy(&values[j][half], address + 2 * column, 2);
            }
        }
        memcpy(warp.fibers[lane].out, values, sizeof values);
    }
}

// Fails unless all 32 threads of the warp exist and none has exited, as `.aligned` instructions demand.
static void check_warp(const char* what, const char* file, int line) {
    Warp warp = block->warp_of(*block->current);
    for (unsigned lane = 0; lane < WARP; lane++) {
        if (!warp.takes_part(~0u, lane)) fail("%s (%s:%d): thread %u of the warp does not take part", what, file, line, lane);
    }
}

static void check_shared(const char* what, const void* address, size_t bytes, size_t alignment, const char* file, int line) {
    uintptr_t start = uintptr_t(address), first = uintptr_t(block->shared);
    if (start < first || start + bytes > first + block->shared_bytes)
        fail("%s (%s:%d): the address is outside of the %zu bytes of shared memory", what, file, line, block->shared_bytes);
    if ((start - first) % alignment != 0) fail("%s (%s:%d): the address is not a multiple of %zu", what, file, line, alignment);
}

template <int COUNT, bool TRANSPOSED>
static void ldmatrix(uint32_t (&registers)[COUNT], const void* row, const char* file, int line) {
    check_warp("ldmatrix", file, line);
    if (lane() < 8 * COUNT) check_shared("ldmatrix", row, 16, 16, file, line);
    void* out = warp_operation(load_matrices<COUNT, TRANSPOSED>, "ldmatrix", ~0u, &row, sizeof row, file, line);
    memcpy(registers, out, sizeof registers);
}

static void perform(const Copy& copy) {
    memcpy(copy.to, copy.from, copy.from_bytes);
    memset(static_cast<char*>(copy.to) + copy.from_bytes, 0, copy.bytes - copy.from_bytes);
}

static void perform_oldest_groups(size_t count) {
    auto& groups = block->current->groups;
    for (size_t i = 0; i < count; i++)
        for (const Copy& copy : groups[i]) perform(copy);
    groups.erase(groups.begin(), groups.begin() + count);
}

}  // namespace emulator

static inline void mma_m16n8k16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], SITE) {
    emulator::check_warp("mma", file, line);
    emulator::Mma in;
    memcpy(in.a, a, sizeof a);
    memcpy(in.b, b, sizeof b);
    memcpy(in.c, d, sizeof d);
    memcpy(d, emulator::warp_operation(emulator::multiply, "mma", ~0u, &in, sizeof in, file, line), sizeof d);
}
template <int COUNT>
static inline void ldmatrix(unsigned (&registers)[COUNT], const void* row, SITE) {
    emulator::ldmatrix<COUNT, false>(registers, row, file, line);
}
template <int COUNT>
static inline void ldmatrix_trans(unsigned (&registers)[COUNT], const void* row, SITE) {
    emulator::ldmatrix<COUNT, true>(registers, row, file, line);
}

template <int BYTES>
static inline void cp_async(void* to, const void* from, int from_bytes = BYTES, SITE) {
    static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16, "cp.async copies 4, 8 or 16 bytes");
    emulator::check_shared("cp.async", to, BYTES, BYTES, file, line);
    if (uintptr_t(from) % BYTES != 0) emulator::fail("cp.async (%s:%d): the source is not a multiple of %d", file, line, BYTES);
    if (from_bytes < 0 || from_bytes > BYTES) emulator::fail("cp.async (%s:%d): %d source bytes of %d", file, line, from_bytes, BYTES);
    emulator::Copy copy = {to, from, unsigned(BYTES), unsigned(from_bytes)};
    if (emulator::block->schedule.early_copies) return emulator::perform(copy);
    memset(to, emulator::POISON, BYTES);
    emulator::block->current->open.push_back(copy);
}
static inline void cp_async_commit() {
    emulator::Fiber& fiber = *emulator::block->current;
    fiber.groups.emplace_back();
    fiber.groups.back().swap(fiber.open);
}
// Waits until at most `PENDING` of the youngest groups are pending.
template <int PENDING>
static inline void cp_async_wait() {
    size_t count = emulator::block->current->groups.size();
    emulator::perform_oldest_groups(count > PENDING ? count - PENDING : 0);
}
