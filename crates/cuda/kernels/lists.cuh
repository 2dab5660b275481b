// Lists of matrices that one launch processes: their values are divided into chunks, and each block has one chunk.
#pragma once
#include "device.cuh"

// Values of a chunk. `src/lists.rs` has the same number.
constexpr int CHUNK = 16384;

// Returns the matrix of a chunk. `first_chunks` has the first chunk of each matrix, and the number of all chunks at the end; a matrix
// without values has no chunk.
static __device__ __forceinline__ int matrix_of_chunk(const int* first_chunks /* [count + 1] */, int count, int chunk) {
    int low = 0, high = count;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (first_chunks[middle] <= chunk)
            low = middle;
        else
            high = middle;
    }
    return low;
}

// Calls `f` for this block's chunk of a matrix, with the index of each group of four values of this thread, and the number of values left.
template <class Function>
static __device__ __forceinline__ void for_chunk4(int first_chunk, long long length, Function f) {
    long long first = (long long)(blockIdx.x - first_chunk) * CHUNK, end = min(length, first + CHUNK);
    for (long long i = first + 4 * threadIdx.x; i < end; i += 4 * blockDim.x) f(i, end - i);
}

// Returns the sum of the values of all threads to each of them. `warp_sums` is shared memory that is used once: one value for each warp.
static __device__ __forceinline__ double block_sum(double v, double* warp_sums) {
    for (int bits = 16; bits > 0; bits /= 2) v += __shfl_xor_sync(FULL_MASK, v, bits);
    if (threadIdx.x % WARP_SIZE == 0) warp_sums[threadIdx.x / WARP_SIZE] = v;
    __syncthreads();  // all warps have stored their sums
    double sum = 0;
    for (int i = 0; i < (int)(blockDim.x / WARP_SIZE); i++) sum += warp_sums[i];
    return sum;
}

// Returns the sum of the squares of four values. A product of two f32 numbers has no error in double precision.
static __device__ __forceinline__ double square_sum4(float4 v) {
    return ((double)v.x * v.x + (double)v.y * v.y) + ((double)v.z * v.z + (double)v.w * v.w);
}
