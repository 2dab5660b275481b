// Reductions over the threads of a block, in an order that depends on the number of threads only. Blocks have whole warps.
#pragma once
#include "device.cuh"

static __device__ __forceinline__ float shuffle_xor(float v, int bits) { return __shfl_xor_sync(FULL_MASK, v, bits); }

// Merges the values of all threads and returns the result to each of them. `merge` is commutative, and `identity` changes no value.
// `shared` has a value for each warp, and may be used again after the call. Structures need their own `shuffle_xor`.
template <class T, class Merge>
static __device__ __forceinline__ T block_reduce(T v, T identity, T* shared /* [warps] */, Merge merge) {
    int warp = threadIdx.x / WARP_SIZE, lane = threadIdx.x % WARP_SIZE, warps = blockDim.x / WARP_SIZE;
    for (int bits = 16; bits > 0; bits /= 2) v = merge(v, shuffle_xor(v, bits));
    if (lane == 0) shared[warp] = v;
    __syncthreads();  // all warps have stored their values
    v = lane < warps ? shared[lane] : identity;
    for (int bits = 16; bits > 0; bits /= 2) v = merge(v, shuffle_xor(v, bits));
    __syncthreads();  // all warps have read the values
    return v;
}

static __device__ __forceinline__ float block_sum(float v, float* shared /* [warps] */) {
    return block_reduce(v, 0.f, shared, [](float a, float b) { return a + b; });
}
