// Column sums: out = beta * out + the sum of the rows of x, for gradients of biases and for sums that blocks have begun.
//
// Chunks of rows are summed by separate blocks, so that tall matrices use all multiprocessors; a second launch sums the chunks. The order of
// additions depends on the shape only. A warp reads 32 adjacent columns; the eight warps of a block have every eighth row of the chunk.
#include "device.cuh"

constexpr int WARPS = 8;

template <class T>
static __device__ __forceinline__ float load(const T* x);
template <>
__device__ __forceinline__ float load(const float* x) {
    return *x;
}
template <>
__device__ __forceinline__ float load(const bf16* x) {
    return from_bf16(*x);
}

template <class T>
static __device__ __forceinline__ void sum_columns(const T* x, float beta, float* out, int rows, int width, int rows_per_chunk, float* sums) {
    int warp = threadIdx.x / WARP_SIZE, lane = threadIdx.x % WARP_SIZE, c = blockIdx.x * WARP_SIZE + lane;
    int first = blockIdx.y * rows_per_chunk, end = min(rows, first + rows_per_chunk);
    float sum = 0.f;
    if (c < width) {
        for (int row = first + warp; row < end; row += WARPS) sum += load(x + (long long)row * width + c);
    }
    sums[warp * WARP_SIZE + lane] = sum;
    __syncthreads();  // all warps have stored their sums
    if (warp != 0 || c >= width) return;
    for (int i = 1; i < WARPS; i++) sum += sums[i * WARP_SIZE + lane];
    out += (long long)blockIdx.y * width + c;
    *out = beta == 0.f ? sum : beta * *out + sum;
}

extern "C" __global__ void __launch_bounds__(256) column_sums_f32(const float* x /* [T, D] */, float beta, float* out /* [chunks, D] */,
                                                                  int rows, int width, int rows_per_chunk) {
    SHARED(float, sums /* [WARPS, 32] */);
    sum_columns(x, beta, out, rows, width, rows_per_chunk, sums);
}
REGISTER_KERNEL(column_sums_f32);

extern "C" __global__ void __launch_bounds__(256) column_sums_bf16(const bf16* x /* [T, D] */, float beta, float* out /* [chunks, D] */,
                                                                   int rows, int width, int rows_per_chunk) {
    SHARED(float, sums /* [WARPS, 32] */);
    sum_columns(x, beta, out, rows, width, rows_per_chunk, sums);
}
REGISTER_KERNEL(column_sums_bf16);
