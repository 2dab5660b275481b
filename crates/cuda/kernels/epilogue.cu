// What follows a matrix product whose epilogue cuBLASLt does not have: beta * C, bias, GELU or the gradient of the GELU.
//
// The product is in f32, and the result is rounded once. If the sums of the columns are needed, the unrounded values replace the product.
// A thread has one value, since strides need not permit vectors: the kernel serves shapes that are not usual.
#include "device.cuh"

constexpr float SQRT_2_OVER_PI = 0.7978845608f, CUBIC = 0.044715f;

// The GELU of cuBLASLt, with the hyperbolic tangent, and its derivative.
static __device__ __forceinline__ float gelu_tanh(float x) { return 0.5f * x * (1.f + tanhf(SQRT_2_OVER_PI * (x + CUBIC * x * x * x))); }
static __device__ __forceinline__ float gelu_tanh_derivative(float x) {
    float t = tanhf(SQRT_2_OVER_PI * (x + CUBIC * x * x * x));
    return 0.5f * (1.f + t) + 0.5f * x * (1.f - t * t) * SQRT_2_OVER_PI * (1.f + 3.f * CUBIC * x * x);
}

static __device__ __forceinline__ float read(const float* x) { return *x; }
static __device__ __forceinline__ float read(const bf16* x) { return from_bf16(*x); }
static __device__ __forceinline__ void write(float* x, float v) { *x = v; }
static __device__ __forceinline__ void write(bf16* x, float v) { *x = to_bf16(v); }

template <class T>
static __device__ __forceinline__ void epilogue(float* product, float beta, const T* c, long long stride_c, const T* bias, T* aux, T* d,
                                                long long stride_d, int has_gelu, int is_gradient, int keep, int width, int blocks_per_row) {
    long long row = blockIdx.x / blocks_per_row;
    int column = (blockIdx.x % blocks_per_row) * blockDim.x + threadIdx.x;
    if (column >= width) return;
    float v = product[row * width + column];
    if (beta != 0.f) v += beta * read(c + row * stride_c + column);
    if (bias) v += read(bias + column);
    long long i = row * stride_d + column;
    if (is_gradient) {
        v *= gelu_tanh_derivative(read(aux + i));
    } else if (aux) {
        write(aux + i, v);
    }
    if (has_gelu) v = gelu_tanh(v);
    write(d + i, v);
    if (keep) product[row * width + column] = v;
}

extern "C" __global__ void __launch_bounds__(256)
epilogue_f32(float* product /* [T, N] */, float beta, const float* c /* [T, N] */, long long stride_c, const float* bias /* [N] */,
             float* aux /* [T, N] */, float* d /* [T, N] */, long long stride_d, int has_gelu, int is_gradient, int keep, int width,
             int blocks_per_row) {
    epilogue(product, beta, c, stride_c, bias, aux, d, stride_d, has_gelu, is_gradient, keep, width, blocks_per_row);
}
REGISTER_KERNEL(epilogue_f32);

extern "C" __global__ void __launch_bounds__(256)
epilogue_bf16(float* product /* [T, N] */, float beta, const bf16* c /* [T, N] */, long long stride_c, const bf16* bias /* [N] */,
              bf16* aux /* [T, N] */, bf16* d /* [T, N] */, long long stride_d, int has_gelu, int is_gradient, int keep, int width,
              int blocks_per_row) {
    epilogue(product, beta, c, stride_c, bias, aux, d, stride_d, has_gelu, is_gradient, keep, width, blocks_per_row);
}
REGISTER_KERNEL(epilogue_bf16);
