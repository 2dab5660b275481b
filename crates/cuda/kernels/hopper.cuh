// Instructions of Hopper (sm_90a): products of warpgroups (`wgmma`), which four consecutive warps issue together and which are executed
// asynchronously, and bulk copies, whose end a barrier in shared memory (`mbarrier`) announces. `.ci/cubins` compiles a kernel file that
// includes this header for sm_90a only.
//
//   fence_proxy_async()        after writes to shared memory and before the barrier, so that `wgmma` sees the writes
//   wgmma_fence(arrays...)     names the accumulators, and fragments of A, that threads have written before the next operations
//   wgmma(d, a, b, ...)        D [64, N] = A [64, 16] * B [16, N] (+ D); A is a fragment or a descriptor, B a descriptor
//   wgmma_commit()             ends a group of operations
//   wgmma_wait<P>(arrays...)   waits until at most P groups are pending; names the accumulators of the others
//
//   mbarrier_init(barrier, n)  n threads arrive in each phase; a fence_proxy_async and a barrier of the block must follow
//   mbarrier_arrive(barrier)   arrives; mbarrier_arrive_expect(barrier, bytes) also adds the bytes of copies that the phase waits for
//   bulk_copy(to, from, ...)   copies whole 16 bytes from global to shared memory; one thread issues it
//   mbarrier_wait(barrier, p)  waits for the end of a phase of parity p, 0 for the first one; it shows the bytes of its copies
//
// From an operation until its group was waited for, accumulators and fragments of A must not be accessed, and B not be written. In `wgmma`,
// N is 8 * COUNT. Warp w of the four has rows 16 * w to 16 * w + 15, and its fragments are those of `mma_m16n8k16`.
#pragma once
#include "device.cuh"

#ifdef VLCT_EMULATOR
#include "wgmma.h"
#define SHARED_SWIZZLED(type, name) SHARED(type, name)
#else
// Dynamic shared memory that begins at a multiple of 1024 bytes, where the patterns of all swizzling modes begin.
#define SHARED_SWIZZLED(type, name)                                        \
    extern __shared__ __align__(1024) unsigned char vlct_swizzled_bytes[]; \
    type* name = reinterpret_cast<type*>(vlct_swizzled_bytes)

static __device__ __forceinline__ void fence_proxy_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// The compiler does not know that registers change between an operation and its wait. It may not move accesses across these statements.
template <int COUNT>
static __device__ __forceinline__ void pin(float (&registers)[COUNT][4]) {
#pragma unroll
    for (int i = 0; i < 4 * COUNT; i++) asm volatile("" : "+f"(registers[i / 4][i % 4])::"memory");
}
template <int COUNT>
static __device__ __forceinline__ void pin(unsigned (&registers)[COUNT][4]) {
#pragma unroll
    for (int i = 0; i < 4 * COUNT; i++) asm volatile("" : "+r"(registers[i / 4][i % 4])::"memory");
}
template <class... Arrays>
static __device__ __forceinline__ void wgmma_fence(Arrays&... arrays) {
    (pin(arrays), ...);
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
static __device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int PENDING, class... Arrays>
static __device__ __forceinline__ void wgmma_wait(Arrays&... arrays) {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
    (pin(arrays), ...);
}

static __device__ __forceinline__ void mbarrier_init(unsigned long long* barrier, unsigned threads) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(threads) : "memory");
}
static __device__ __forceinline__ void mbarrier_arrive(unsigned long long* barrier) {
    asm volatile("{\n.reg .b64 state;\nmbarrier.arrive.shared::cta.b64 state, [%0];\n}" ::"r"(shared_address(barrier)) : "memory");
}
static __device__ __forceinline__ void mbarrier_arrive_expect(unsigned long long* barrier, unsigned bytes) {
    asm volatile("{\n.reg .b64 state;\nmbarrier.arrive.expect_tx.shared::cta.b64 state, [%0], %1;\n}" ::"r"(shared_address(barrier)),
                 "r"(bytes)
                 : "memory");
}
static __device__ __forceinline__ void mbarrier_wait(unsigned long long* barrier, unsigned parity) {
    unsigned is_over;
    do asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
                    : "=r"(is_over)
                    : "r"(shared_address(barrier)), "r"(parity)
                    : "memory");
    while (!is_over);
}
static __device__ __forceinline__ void bulk_copy(void* to, const void* from, unsigned bytes, unsigned long long* barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared_address(to)),
                 "l"(from), "r"(bytes), "r"(shared_address(barrier))
                 : "memory");
}

// The accumulators of COUNT groups of eight columns, as operands and in the text of the instruction.
#define WGMMA_D(i) "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])
#define WGMMA_D_2 WGMMA_D(0), WGMMA_D(1)
#define WGMMA_D_4 WGMMA_D_2, WGMMA_D(2), WGMMA_D(3)
#define WGMMA_D_6 WGMMA_D_4, WGMMA_D(4), WGMMA_D(5)
#define WGMMA_D_8 WGMMA_D_6, WGMMA_D(6), WGMMA_D(7)
#define WGMMA_D_10 WGMMA_D_8, WGMMA_D(8), WGMMA_D(9)
#define WGMMA_D_16 WGMMA_D_10, WGMMA_D(10), WGMMA_D(11), WGMMA_D(12), WGMMA_D(13), WGMMA_D(14), WGMMA_D(15)
#define WGMMA_TEXT_2 "%0,%1,%2,%3,%4,%5,%6,%7"
#define WGMMA_TEXT_4 WGMMA_TEXT_2 ",%8,%9,%10,%11,%12,%13,%14,%15"
#define WGMMA_TEXT_6 WGMMA_TEXT_4 ",%16,%17,%18,%19,%20,%21,%22,%23"
#define WGMMA_TEXT_8 WGMMA_TEXT_6 ",%24,%25,%26,%27,%28,%29,%30,%31"
#define WGMMA_TEXT_10 WGMMA_TEXT_8 ",%32,%33,%34,%35,%36,%37,%38,%39"
#define WGMMA_TEXT_16 \
    WGMMA_TEXT_10 ",%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
// An instruction with N = 8 * COUNT; the numbers of the operands after the accumulators begin with 4 * COUNT.
#define WGMMA_BEGIN(COUNT, N, P)                                                                              \
    "{\n.reg .pred p;\nsetp.ne.b32 p, " P ", 0;\n"                                                            \
    "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" WGMMA_TEXT_##COUNT "}, "
#define WGMMA_FRAGMENT(COUNT, N, A0, A1, A2, A3, B, P, MAJOR)                                                  \
    asm volatile(WGMMA_BEGIN(COUNT, N, P) "{" A0 "," A1 "," A2 "," A3 "}, " B ", p, 1, 1, " MAJOR ";\n}"       \
                 : WGMMA_D_##COUNT                                                                            \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)accumulate), "n"((int)B_MN_MAJOR))
#define WGMMA_SHARED(COUNT, N, A, B, P, MAJOR)                                                                 \
    asm volatile(WGMMA_BEGIN(COUNT, N, P) A ", " B ", p, 1, 1, 0, " MAJOR ";\n}"                              \
                 : WGMMA_D_##COUNT                                                                            \
                 : "l"(a), "l"(b), "r"((int)accumulate), "n"((int)B_MN_MAJOR))

// A is the fragment of `mma_m16n8k16` with the rows of the warp.
template <bool B_MN_MAJOR, int COUNT>
static __device__ __forceinline__ void wgmma(float (&d)[COUNT][4], const unsigned (&a)[4], unsigned long long b, bool accumulate) {
    static_assert(COUNT == 2 || COUNT == 4 || COUNT == 6 || COUNT == 8 || COUNT == 10 || COUNT == 16, "an instruction of this file");
    if constexpr (COUNT == 2) WGMMA_FRAGMENT(2, 16, "%8", "%9", "%10", "%11", "%12", "%13", "%14");
    else if constexpr (COUNT == 4) WGMMA_FRAGMENT(4, 32, "%16", "%17", "%18", "%19", "%20", "%21", "%22");
    else if constexpr (COUNT == 6) WGMMA_FRAGMENT(6, 48, "%24", "%25", "%26", "%27", "%28", "%29", "%30");
    else if constexpr (COUNT == 8) WGMMA_FRAGMENT(8, 64, "%32", "%33", "%34", "%35", "%36", "%37", "%38");
    else if constexpr (COUNT == 10) WGMMA_FRAGMENT(10, 80, "%40", "%41", "%42", "%43", "%44", "%45", "%46");
    else WGMMA_FRAGMENT(16, 128, "%64", "%65", "%66", "%67", "%68", "%69", "%70");
}
// A is K-major in shared memory.
template <bool B_MN_MAJOR, int COUNT>
static __device__ __forceinline__ void wgmma(float (&d)[COUNT][4], unsigned long long a, unsigned long long b, bool accumulate) {
    static_assert(COUNT == 2 || COUNT == 4 || COUNT == 6 || COUNT == 8, "an instruction of this file");
    if constexpr (COUNT == 2) WGMMA_SHARED(2, 16, "%8", "%9", "%10", "%11");
    else if constexpr (COUNT == 4) WGMMA_SHARED(4, 32, "%16", "%17", "%18", "%19");
    else if constexpr (COUNT == 6) WGMMA_SHARED(6, 48, "%24", "%25", "%26", "%27");
    else WGMMA_SHARED(8, 64, "%32", "%33", "%34", "%35");
}
#endif

// Bits 62 and 63 of a descriptor: 16-byte parts of eight rows with this many bytes are exchanged, so that they are in different banks.
enum class Swizzle : unsigned long long { NONE = 0, BYTES_128 = 1, BYTES_64 = 2, BYTES_32 = 3 };

// Describes a matrix of 16-bit values in shared memory, which begins at a multiple of 16 bytes (PTX ISA, "Matrix Descriptor Format").
//
// Without swizzling, `stride_bytes` is the distance of eight rows along M or N, and `leading_bytes` that of eight columns along K. With a
// mode, a K-major matrix has rows of its bytes along K, and `stride_bytes` between eight rows; an MN-major one has rows of its bytes along
// N, `leading_bytes` between as many columns as a row has, and `stride_bytes` between eight rows along K.
static __device__ __forceinline__ unsigned long long matrix_descriptor(const void* start, unsigned leading_bytes, unsigned stride_bytes,
                                                                       Swizzle swizzle) {
    auto encode = [](unsigned bytes) { return (unsigned long long)((bytes & 0x3ffff) >> 4); };
    return encode(shared_address(start)) | encode(leading_bytes) << 16 | encode(stride_bytes) << 32 | (unsigned long long)swizzle << 62;
}

// The descriptor of a matrix that begins this many bytes later.
static __device__ __forceinline__ unsigned long long advance(unsigned long long descriptor, unsigned bytes) {
    return descriptor + (bytes >> 4);
}

// The offset in bytes of 16-byte part `part` of a row of ROW_BYTES bytes, in a matrix with that swizzling mode.
template <int ROW_BYTES>
static __device__ __forceinline__ int swizzled(int row, int part) {
    return row * ROW_BYTES + (part ^ (row * ROW_BYTES / 128 & (ROW_BYTES / 16 - 1))) * 16;
}
