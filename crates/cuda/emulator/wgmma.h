// Twins of `wgmma` for bf16 operands and f32 sums, from the PTX ISA 9.0 (section 9.7.15).
//
// In late schedules, a warp performs an operation when it waits for its group: it reads the fragment of A and shared memory then, and until
// then the accumulators are NaNs. In early schedules it performs the operation when all of its threads have issued it. The accumulators and
// fragments of A are arrays of the thread; `wgmma_fence` and `wgmma_wait` name those that the operations around them access. An operation
// fails if an array was not named in a fence since it was last waited for, or has changed since then. As on a device, the four warps of a
// warpgroup must issue equal operations in the same order, but here no warp waits for another one.
#pragma once
#include "mbarrier.h"

namespace emulator {

// A matrix descriptor: bits 0 to 13 have the start address, 16 to 29 the leading and 32 to 45 the stride dimension byte offset, all divided
// by 16, bits 49 to 51 the base offset, and bits 62 and 63 the swizzling mode.
struct MatrixDescriptor {
    uint32_t start, leading, stride;
    // Bytes of a row of a swizzle atom: 16 (no swizzling), 32, 64 or 128.
    uint32_t row_bytes;

    // Returns false after an error.
    bool decode(uint64_t bits, const char* file, int line) {
        start = uint32_t(bits & 0x3fff) << 4, leading = uint32_t(bits >> 16 & 0x3fff) << 4, stride = uint32_t(bits >> 32 & 0x3fff) << 4;
        const uint32_t rows[4] = {16, 128, 64, 32};
        row_bytes = rows[bits >> 62];
        // Patterns of the modes begin at multiples of eight rows, so the base offset (bits 49 to 51) of a matrix at such an address is
        // zero. Matrices elsewhere are not emulated.
        constexpr uint64_t USED = 0xc0003fff3fff3fff;
        if (bits & ~USED) {
            record_error("wgmma (%s:%d): bits of the descriptor %016llx must be zero", file, line, (unsigned long long)bits);
            return false;
        }
        return true;
    }

    // The address of the 16 bytes with row or column `mn` (of A or B) and index `k` of the sum, where rows of eight values are along k,
    // or along mn if the matrix is MN-major. The mode exchanges bits of addresses: 4 to 6 with 7 to 9 for 128 bytes.
    uint32_t address(uint32_t mn, uint32_t k, bool mn_major) const {
        // Eight rows of an atom, and the columns of 16 bytes in a row.
        uint32_t along = mn_major ? mn : k, across = mn_major ? k : mn, columns = row_bytes / 16, at = start;
        if (columns == 1 && mn_major) at += along / 8 * stride + across / 8 * leading;
        else at += along / 8 / columns * leading + across / 8 * stride;
        at += across % 8 * row_bytes + along / 8 % columns * 16;
        return at ^ ((at >> 7 & (columns - 1)) << 4);
    }
};

struct WgmmaShape {
    uint32_t n;
    bool a_in_registers, b_mn_major, accumulate;
};

// What a thread issues.
struct Wgmma {
    WgmmaShape shape;
    float* d;
    const uint32_t* a;
    uint64_t a_descriptor, b_descriptor;
};

// An operation of a warp that was issued and not performed.
struct PendingWgmma {
    Wgmma lanes[WARP];
    // The accumulators before the first of the pending operations that change them.
    std::vector<float> before;
    const char* file;
    int line;
};

struct WarpOperations {
    std::vector<PendingWgmma> open;
    std::vector<std::vector<PendingWgmma>> groups;
    // The operations that the warp has issued, to compare the warps of a warpgroup.
    std::vector<Wgmma> issued;
};

// Arrays that a thread has named in a fence, with their bytes.
struct Fenced {
    const void* array;
    std::vector<unsigned char> bytes;
};

constexpr unsigned WARPGROUP = 128;
static thread_local std::vector<WarpOperations> warp_operations;
static thread_local std::vector<std::vector<Fenced>> fenced_arrays;

static bool same_registers(const Fenced& fenced) { return memcmp(fenced.array, fenced.bytes.data(), fenced.bytes.size()) == 0; }

// The array of a fence that contains these registers.
static Fenced* find_fenced(unsigned thread, const void* registers) {
    for (Fenced& fenced : fenced_arrays[thread]) {
        auto first = static_cast<const unsigned char*>(fenced.array);
        if (registers >= first && registers < first + fenced.bytes.size()) return &fenced;
    }
    return nullptr;
}

static void update_fenced(unsigned thread, const float* d) {
    Fenced* fenced = find_fenced(thread, d);
    if (fenced) memcpy(fenced->bytes.data(), fenced->array, fenced->bytes.size());
}

static void perform(Warp& warp, const PendingWgmma& operation) {
    // What the current thread has written; others were compared when they let this one run.
    proxies.compare();
    const Wgmma& first = operation.lanes[0];
    uint32_t n = first.shape.n, warp_row = warp.fibers[0].index % WARPGROUP / WARP * 16;
    static thread_local float a[16][16], b[16][256];
    MatrixDescriptor descriptor;
    // Reads the rows or columns from `first_mn` on of an operand in parts of eight values, along k or along mn.
    auto read = [&](uint32_t first_mn, uint32_t count, bool mn_major, auto store) {
        for (uint32_t mn = 0; mn < count; mn += mn_major ? 8 : 1) {
            for (uint32_t k = 0; k < 16; k += mn_major ? 1 : 8) {
                uint16_t part[8];
                uint32_t address = descriptor.address(first_mn + mn, k, mn_major);
                if (!proxies.read(part, address, sizeof part, "wgmma", operation.file, operation.line)) return false;
                for (uint32_t i = 0; i < 8; i++) store(mn + (mn_major ? i : 0), k + (mn_major ? 0 : i), half_of(part[i], 0));
            }
        }
        return true;
    };
    if (first.shape.a_in_registers) {
        for (unsigned lane = 0; lane < WARP; lane++) {
            for (unsigned i = 0; i < 4; i++)
                for (unsigned half = 0; half < 2; half++)
                    a[lane / 4 + 8 * (i % 2)][2 * (lane % 4) + 8 * (i / 2) + half] = half_of(operation.lanes[lane].a[i], half);
        }
    } else {
        if (!descriptor.decode(first.a_descriptor, operation.file, operation.line)) return;
        if (!read(warp_row, 16, false, [&](uint32_t row, uint32_t k, float value) { a[row][k] = value; })) return;
    }
    if (!descriptor.decode(first.b_descriptor, operation.file, operation.line)) return;
    if (!read(0, n, first.shape.b_mn_major, [&](uint32_t column, uint32_t k, float value) { b[k][column] = value; })) return;
    // With g = lane / 4 and t = lane % 4: value i of D has row g + 8·(i / 2 % 2) and column 8·(i / 4) + 2t + i % 2.
    for (unsigned lane = 0; lane < WARP; lane++) {
        float* d = operation.lanes[lane].d;
        if (!operation.before.empty()) memcpy(d, &operation.before[lane * n / 2], n / 2 * sizeof(float));
        for (unsigned i = 0; i < n / 2; i++) {
            unsigned row = lane / 4 + 8 * (i / 2 % 2), column = 8 * (i / 4) + 2 * (lane % 4) + i % 2;
            float sum = first.shape.accumulate ? d[i] : 0.f;
            for (unsigned k = 0; k < 16; k++) sum += a[row][k] * b[k][column];
            d[i] = sum;
        }
        update_fenced(warp.fibers[lane].index, d);
    }
}

static bool is_same(const Wgmma& a, const Wgmma& b) {
    const WgmmaShape &x = a.shape, &y = b.shape;
    return x.n == y.n && x.a_in_registers == y.a_in_registers && x.b_mn_major == y.b_mn_major && x.accumulate == y.accumulate &&
           a.a_descriptor == b.a_descriptor && a.b_descriptor == b.b_descriptor;
}

static bool is_pending(const WarpOperations& operations, const float* d) {
    auto changes = [&](const std::vector<PendingWgmma>& group) {
        for (const PendingWgmma& pending : group)
            if (pending.lanes[0].d == d) return true;
        return false;
    };
    for (const auto& group : operations.groups)
        if (changes(group)) return true;
    return changes(operations.open);
}

static void issue(Warp& warp, unsigned, const void*) {
    WarpOperations& operations = warp_operations[warp.fibers[0].index / WARP];
    PendingWgmma operation;
    operation.file = warp.fibers[0].file, operation.line = warp.fibers[0].line;
    for (unsigned lane = 0; lane < WARP; lane++) memcpy(&operation.lanes[lane], warp.fibers[lane].in, sizeof(Wgmma));
    const Wgmma& first = operation.lanes[0];
    for (unsigned lane = 0; lane < WARP; lane++) {
        const Wgmma& in = operation.lanes[lane];
        if (!is_same(in, first))
            return record_error("wgmma (%s:%d): threads of a warp have different descriptors", operation.file, operation.line);
        unsigned thread = warp.fibers[lane].index;
        for (const void* registers : {static_cast<const void*>(in.d), static_cast<const void*>(in.a)}) {
            if (!registers) continue;
            const Fenced* fenced = find_fenced(thread, registers);
            if (!fenced)
                return record_error("wgmma (%s:%d): no wgmma_fence names %s", operation.file, operation.line,
                                    registers == in.d ? "the accumulators" : "the fragment of A");
            if (!same_registers(*fenced))
                return record_error("wgmma (%s:%d): %s changed after the wgmma_fence", operation.file, operation.line,
                                    registers == in.d ? "the accumulators" : "the fragment of A");
        }
    }
    operations.issued.push_back(first);
    if (block->schedule.early_copies) return perform(warp, operation);
    if (!is_pending(operations, first.d)) {
        size_t count = first.shape.n / 2;
        operation.before.resize(WARP * count);
        for (unsigned lane = 0; lane < WARP; lane++) {
            memcpy(&operation.before[lane * count], operation.lanes[lane].d, count * sizeof(float));
            memset(operation.lanes[lane].d, POISON, count * sizeof(float));
            update_fenced(warp.fibers[lane].index, operation.lanes[lane].d);
        }
    }
    operations.open.push_back(std::move(operation));
}

static void commit(Warp& warp, unsigned, const void*) {
    WarpOperations& operations = warp_operations[warp.fibers[0].index / WARP];
    operations.groups.emplace_back();
    operations.groups.back().swap(operations.open);
}

static void wait_for_groups(Warp& warp, unsigned, const void*) {
    auto& groups = warp_operations[warp.fibers[0].index / WARP].groups;
    uint32_t pending;
    memcpy(&pending, warp.fibers[0].in, sizeof pending);
    while (groups.size() > pending) {
        for (const PendingWgmma& operation : groups.front()) perform(warp, operation);
        groups.erase(groups.begin());
    }
}

static void fence_registers(const void* array, size_t bytes) {
    unsigned thread = block->current->index;
    auto first = static_cast<const unsigned char*>(array);
    if (Fenced* fenced = find_fenced(thread, array)) {
        fenced->array = array;
        fenced->bytes.assign(first, first + bytes);
    } else {
        fenced_arrays[thread].push_back({array, {first, first + bytes}});
    }
}

static void forget_fence(const void* array) {
    auto& arrays = fenced_arrays[block->current->index];
    for (size_t i = 0; i < arrays.size(); i++) {
        if (arrays[i].array == array) return void(arrays.erase(arrays.begin() + i));
    }
}

static void begin_block() {
    proxies.begin();
    bulk_copies.clear();
    warp_operations.assign((block->threads + WARP - 1) / WARP, {});
    fenced_arrays.assign(block->threads, {});
}

// Compares what the warps of each warpgroup have issued.
static void end_block() {
    for (size_t i = 0; i < warp_operations.size(); i++) {
        const auto &ours = warp_operations[i].issued, &first = warp_operations[i / 4 * 4].issued;
        bool same = ours.size() == first.size();
        for (size_t j = 0; same && j < ours.size(); j++) same = is_same(ours[j], first[j]);
        if (!same) record_error("wgmma: warps %zu and %zu of a warpgroup have issued different operations", i / 4 * 4, i);
    }
}

static void compare_proxies() { proxies.compare(); }

static const bool hooked = (hooks = {begin_block, end_block, compare_proxies}, true);

static void execute(Operation operation, const char* what, const void* in, size_t bytes, const char* file, int line) {
    check_warp(what, file, line);
    if (block->threads % WARPGROUP != 0)
        fail("%s (%s:%d): a block of %u threads has a part of a warpgroup", what, file, line, block->threads);
    warp_operation(operation, what, ~0u, in, bytes, file, line);
}

static void multiply_warpgroup(const Wgmma& in, const char* file, int line) { execute(issue, "wgmma", &in, sizeof in, file, line); }

}  // namespace emulator

// The last two parameters of functions with a list of arrays cannot be the place of the call.
template <class... Arrays>
static inline void wgmma_fence(Arrays&... arrays) {
    emulator::execute(emulator::meet, "wgmma_fence", nullptr, 0, "wgmma_fence", 0);
    (emulator::fence_registers(&arrays, sizeof arrays), ...);
}
template <bool B_MN_MAJOR, int COUNT>
static inline void wgmma(float (&d)[COUNT][4], const unsigned (&a)[4], unsigned long long b, bool accumulate, SITE) {
    emulator::multiply_warpgroup({{8 * COUNT, true, B_MN_MAJOR, accumulate}, d[0], a, 0, b}, file, line);
}
template <bool B_MN_MAJOR, int COUNT>
static inline void wgmma(float (&d)[COUNT][4], unsigned long long a, unsigned long long b, bool accumulate, SITE) {
    emulator::multiply_warpgroup({{8 * COUNT, false, B_MN_MAJOR, accumulate}, d[0], nullptr, a, b}, file, line);
}
static inline void wgmma_commit(SITE) { emulator::execute(emulator::commit, "wgmma_commit", nullptr, 0, file, line); }
// Waits until at most `PENDING` of the youngest groups are pending, and names the arrays that the others have changed.
template <int PENDING, class... Arrays>
static inline void wgmma_wait(Arrays&... arrays) {
    uint32_t pending = PENDING;
    emulator::execute(emulator::wait_for_groups, "wgmma_wait", &pending, sizeof pending, "wgmma_wait", 0);
    (emulator::forget_fence(&arrays), ...);
}
