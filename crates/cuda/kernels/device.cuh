// What all kernels share: types, vector loads and stores, sums over warps, and the instructions without a function in CUDA C++.
//
// The same text is compiled for the device, where instructions are inline PTX, and for the host, where `emulator.h` has their twins.
// Rules for kernels: shared memory comes from `SHARED` only; there are no atomic additions of floats, and sums have a fixed order.
#pragma once

// A bfloat16 number: the upper half of an f32.
struct bf16 {
    unsigned short bits;
};

#ifdef VLCT_EMULATOR
#include "emulator.h"

// Rounds to the nearest number, ties to even; a NaN becomes 0x7fff, as `cvt.rn.bf16.f32` has it.
static inline bf16 to_bf16(float v) {
    unsigned u = __float_as_uint(v);
    if (v != v) return {0x7fff};
    return {(unsigned short)((u + 0x7fffu + (u >> 16 & 1u)) >> 16)};
}
static inline float exp2_approx(float v) { return exp2f(v); }
static inline float tanh_approx(float v) { return tanhf(v); }
#else
#define REGISTER_KERNEL(kernel) static_assert(true, "")
#define SHARED(type, name)                                              \
    extern __shared__ __align__(128) unsigned char vlct_shared_bytes[]; \
    type* name = reinterpret_cast<type*>(vlct_shared_bytes)

static __device__ __forceinline__ bf16 to_bf16(float v) {
    bf16 r;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r.bits) : "f"(v));
    return r;
}
static __device__ __forceinline__ float exp2_approx(float v) {
    float r;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(v));
    return r;
}
static __device__ __forceinline__ float tanh_approx(float v) {
    float r;
    asm("tanh.approx.f32 %0, %1;" : "=f"(r) : "f"(v));
    return r;
}
static __device__ __forceinline__ unsigned shared_address(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }

// D = A·B + D for a warp: A [16, 16] and B [16, 8] in bf16, D [16, 8] in f32.
static __device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// Loads 8 × 8 matrices of 16-bit values; thread 8·j + i has the address of row i of matrix j.
static __device__ __forceinline__ void ldmatrix(unsigned (&r)[1], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(r[0]) : "r"(shared_address(row)) : "memory");
}
static __device__ __forceinline__ void ldmatrix(unsigned (&r)[2], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(shared_address(row)) : "memory");
}
static __device__ __forceinline__ void ldmatrix(unsigned (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}
static __device__ __forceinline__ void ldmatrix_trans(unsigned (&r)[1], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];" : "=r"(r[0]) : "r"(shared_address(row)) : "memory");
}
static __device__ __forceinline__ void ldmatrix_trans(unsigned (&r)[2], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
}
static __device__ __forceinline__ void ldmatrix_trans(unsigned (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}
// Copies from global to shared memory without waiting; bytes after `from_bytes` become zeros.
template <int BYTES>
static __device__ __forceinline__ void cp_async(void* to, const void* from, int from_bytes = BYTES) {
    if constexpr (BYTES == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(from_bytes) : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(to)), "l"(from), "n"(BYTES), "r"(from_bytes)
                     : "memory");
}
static __device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most `PENDING` of the youngest groups are pending.
template <int PENDING>
static __device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}
#endif

// A warp and its threads.
constexpr unsigned WARP_SIZE = 32;
constexpr unsigned FULL_MASK = 0xffffffffu;

static __device__ __forceinline__ float from_bf16(bf16 v) { return __uint_as_float((unsigned)v.bits << 16); }

// Two bf16 numbers in one register, `low` at the lower address.
static __device__ __forceinline__ unsigned pack_bf16(float low, float high) {
    return (unsigned)to_bf16(low).bits | (unsigned)to_bf16(high).bits << 16;
}

template <class T>
static __device__ __forceinline__ bool is_aligned(const T* p) {
    return reinterpret_cast<unsigned long long>(p) % (4 * sizeof(T)) == 0;
}

// Loads the next four values of a row with `left` values left; values behind the end are zero.
static __device__ __forceinline__ float4 load4(const float* p, long long left) {
    if (left >= 4 && is_aligned(p)) return *reinterpret_cast<const float4*>(p);
    return make_float4(left > 0 ? p[0] : 0.f, left > 1 ? p[1] : 0.f, left > 2 ? p[2] : 0.f, left > 3 ? p[3] : 0.f);
}
static __device__ __forceinline__ float4 load4(const bf16* p, long long left) {
    if (left >= 4 && is_aligned(p)) {
        uint2 v = *reinterpret_cast<const uint2*>(p);
        return make_float4(__uint_as_float(v.x << 16), __uint_as_float(v.x & 0xffff0000u), __uint_as_float(v.y << 16),
                           __uint_as_float(v.y & 0xffff0000u));
    }
    return make_float4(left > 0 ? from_bf16(p[0]) : 0.f, left > 1 ? from_bf16(p[1]) : 0.f, left > 2 ? from_bf16(p[2]) : 0.f,
                       left > 3 ? from_bf16(p[3]) : 0.f);
}

// Stores the next four values of a row with `left` values left.
static __device__ __forceinline__ void store4(float* p, long long left, float4 v) {
    if (left >= 4 && is_aligned(p)) {
        *reinterpret_cast<float4*>(p) = v;
        return;
    }
    if (left > 0) p[0] = v.x;
    if (left > 1) p[1] = v.y;
    if (left > 2) p[2] = v.z;
    if (left > 3) p[3] = v.w;
}
static __device__ __forceinline__ void store4(bf16* p, long long left, float4 v) {
    if (left >= 4 && is_aligned(p)) {
        *reinterpret_cast<uint2*>(p) = make_uint2(pack_bf16(v.x, v.y), pack_bf16(v.z, v.w));
        return;
    }
    if (left > 0) p[0] = to_bf16(v.x);
    if (left > 1) p[1] = to_bf16(v.y);
    if (left > 2) p[2] = to_bf16(v.z);
    if (left > 3) p[3] = to_bf16(v.w);
}

// Applies a function to each of the four values.
template <class Function>
static __device__ __forceinline__ float4 map4(float4 a, Function f) {
    return make_float4(f(a.x), f(a.y), f(a.z), f(a.w));
}
template <class Function>
static __device__ __forceinline__ float4 map4(float4 a, float4 b, Function f) {
    return make_float4(f(a.x, b.x), f(a.y, b.y), f(a.z, b.z), f(a.w, b.w));
}
static __device__ __forceinline__ float4 operator+(float4 a, float4 b) { return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w); }
static __device__ __forceinline__ float4 operator-(float4 a, float4 b) { return make_float4(a.x - b.x, a.y - b.y, a.z - b.z, a.w - b.w); }
static __device__ __forceinline__ float4 operator*(float4 a, float4 b) { return make_float4(a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w); }
static __device__ __forceinline__ float4 operator-(float4 a, float b) { return make_float4(a.x - b, a.y - b, a.z - b, a.w - b); }
static __device__ __forceinline__ float4 operator*(float4 a, float b) { return make_float4(a.x * b, a.y * b, a.z * b, a.w * b); }
static __device__ __forceinline__ float sum4(float4 v) { return (v.x + v.y) + (v.z + v.w); }

// Calls `f` with the index of each group of four values, and the number of values left from there.
template <class Function>
static __device__ __forceinline__ void for_each4(long long count, Function f) {
    long long step = 4ll * gridDim.x * blockDim.x;
    for (long long i = 4 * ((long long)blockIdx.x * blockDim.x + threadIdx.x); i < count; i += step) f(i, count - i);
}

// Returns the sum of the values of all 32 threads to each of them.
static __device__ __forceinline__ float warp_sum(float v) {
    for (int bits = 16; bits > 0; bits /= 2) v += __shfl_xor_sync(FULL_MASK, v, bits);
    return v;
}
