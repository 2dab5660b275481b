// Element-wise operations, and operations on rows with one factor each. All are bound by the bandwidth of memory.
//
// A thread has four adjacent values, loaded at once where alignment allows it. Functions of flat memory ignore rows; for functions of rows,
// block i has a part of row i / (blocks per row).
#include "device.cuh"

extern "C" __global__ void __launch_bounds__(256) fill_f32(float value, float* out /* [n] */, long long n) {
    for_each4(n, [=](long long i, long long left) { store4(out + i, left, make_float4(value, value, value, value)); });
}
REGISTER_KERNEL(fill_f32);

// sum = beta * sum + x
extern "C" __global__ void __launch_bounds__(256) add_f32(const float* x /* [n] */, float beta, float* sum /* [n] */, long long n) {
    for_each4(n, [=](long long i, long long left) {
        float4 v = load4(x + i, left);
        if (beta != 0.f) v = load4(sum + i, left) * beta + v;
        store4(sum + i, left, v);
    });
}
REGISTER_KERNEL(add_f32);

extern "C" __global__ void __launch_bounds__(256) round_to_bf16(const float* x /* [n] */, bf16* out /* [n] */, long long n) {
    for_each4(n, [=](long long i, long long left) { store4(out + i, left, load4(x + i, left)); });
}
REGISTER_KERNEL(round_to_bf16);

extern "C" __global__ void __launch_bounds__(256) widen_to_f32(const bf16* x /* [n] */, float* out /* [n] */, long long n) {
    for_each4(n, [=](long long i, long long left) { store4(out + i, left, load4(x + i, left)); });
}
REGISTER_KERNEL(widen_to_f32);

// The normal distribution function.
static __device__ __forceinline__ float normal_cdf(float v) { return 0.5f * (1.f + erff(v * 0.70710678f)); }

// The GELU x * cdf(x), with the error function (Hendrycks & Gimpel 2016).
extern "C" __global__ void __launch_bounds__(256) gelu_f32(const float* x /* [n] */, float* y /* [n] */, long long n) {
    for_each4(n, [=](long long i, long long left) {
        store4(y + i, left, map4(load4(x + i, left), [](float v) { return v * normal_cdf(v); }));
    });
}
REGISTER_KERNEL(gelu_f32);

// dy = dy * (cdf(x) + x * density(x))
extern "C" __global__ void __launch_bounds__(256) gelu_backward_f32(const float* x /* [n] */, float* dy /* [n] */, long long n) {
    for_each4(n, [=](long long i, long long left) {
        float4 slope = map4(load4(x + i, left), [](float v) { return normal_cdf(v) + v * 0.3989423f * expf(-0.5f * v * v); });
        store4(dy + i, left, load4(dy + i, left) * slope);
    });
}
REGISTER_KERNEL(gelu_backward_f32);

// The tanh form of the GELU, which cuBLASLt's epilogue has: 0.5 * x * (1 + tanh(u)) with u = sqrt(2/pi) * (x + 0.044715 * x^3). It is computed
// as x / (1 + exp(-2 * u)); the constants of `exp2` have the factor -2 * log2(e).
extern "C" __global__ void __launch_bounds__(256) gelu_tanh_bf16(const bf16* x /* [n] */, bf16* y /* [n] */, long long n) {
    for_each4(n, [=](long long i, long long left) {
        store4(y + i, left, map4(load4(x + i, left), [](float v) { return v / (1.f + exp2_approx(v * (-2.302208f - 0.1029432f * v * v))); }));
    });
}
REGISTER_KERNEL(gelu_tanh_bf16);

extern "C" __global__ void __launch_bounds__(256) tanh_f32(const float* x /* [n] */, float* y /* [n] */, long long n) {
    for_each4(n, [=](long long i, long long left) { store4(y + i, left, map4(load4(x + i, left), [](float v) { return tanhf(v); })); });
}
REGISTER_KERNEL(tanh_f32);

// dy = dy * (1 - y^2), where y = tanh(x)
extern "C" __global__ void __launch_bounds__(256) tanh_backward_f32(const float* y /* [n] */, float* dy /* [n] */, long long n) {
    for_each4(n, [=](long long i, long long left) {
        float4 slope = map4(load4(y + i, left), [](float v) { return 1.f - v * v; });
        store4(dy + i, left, load4(dy + i, left) * slope);
    });
}
REGISTER_KERNEL(tanh_backward_f32);

// Calls `f` with the row of this block, the index of this thread's four values, and the number of values left in the row.
template <class Function>
static __device__ __forceinline__ void for_row4(int width, int blocks_per_row, Function f) {
    int row = blockIdx.x / blocks_per_row, c = 4 * ((blockIdx.x % blocks_per_row) * blockDim.x + threadIdx.x);
    if (c < width) f(row, (long long)row * width + c, width - c);
}

// out[r] = factors[r] * x[r]
extern "C" __global__ void __launch_bounds__(256) scale_rows_f32(const float* x /* [T, D] */, const float* factors /* [T] */,
                                                                 float* out /* [T, D] */, int width, int blocks_per_row) {
    for_row4(width, blocks_per_row, [=](int row, long long i, int left) { store4(out + i, left, load4(x + i, left) * factors[row]); });
}
REGISTER_KERNEL(scale_rows_f32);

// out[r] = x[r] + factors[r] * (y[r] - x[r]); rows with the factor 0 or 1 are copies.
extern "C" __global__ void __launch_bounds__(256) interpolate_rows_f32(const float* x /* [T, D] */, const float* y /* [T, D] */,
                                                                       const float* factors /* [T] */, float* out /* [T, D] */, int width,
                                                                       int blocks_per_row) {
    for_row4(width, blocks_per_row, [=](int row, long long i, int left) {
        float factor = factors[row];
        float4 v = load4(factor == 1.f ? y + i : x + i, left);
        if (factor != 0.f && factor != 1.f) v = v + (load4(y + i, left) - v) * factor;
        store4(out + i, left, v);
    });
}
REGISTER_KERNEL(interpolate_rows_f32);
