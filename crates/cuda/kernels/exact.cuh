// Arithmetic with one rounding for each operation, in the order in which it is written: the compiler for devices would fuse `a * b + c`
// into one operation with one rounding. Kernels that must give the bits of the CPU's versions use these functions.
#pragma once
#include "device.cuh"

#ifdef VLCT_EMULATOR
// The compiler for the host is told not to fuse.
static inline float mul_rn(float a, float b) { return a * b; }
static inline float add_rn(float a, float b) { return a + b; }
static inline float sub_rn(float a, float b) { return a - b; }
static inline float div_rn(float a, float b) { return a / b; }
static inline float sqrt_rn(float v) { return std::sqrt(v); }
#else
static __device__ __forceinline__ float mul_rn(float a, float b) { return __fmul_rn(a, b); }
static __device__ __forceinline__ float add_rn(float a, float b) { return __fadd_rn(a, b); }
static __device__ __forceinline__ float sub_rn(float a, float b) { return __fsub_rn(a, b); }
static __device__ __forceinline__ float div_rn(float a, float b) { return __fdiv_rn(a, b); }
static __device__ __forceinline__ float sqrt_rn(float v) { return __fsqrt_rn(v); }
#endif

// Returns sum + x * factor for each of four values.
static __device__ __forceinline__ float4 add_scaled_rn(float4 sum, float4 x, float factor) {
    return map4(sum, x, [=](float sum, float x) { return add_rn(sum, mul_rn(x, factor)); });
}
