// Kernels that use each function of warps and blocks, and kernels that use them wrongly.
#include "device.cuh"

// Each row of `out [12, 32]` is the result of one function.
extern "C" __global__ void warp_functions(int* out) {
    int lane = threadIdx.x;
    out[lane] = __shfl_sync(FULL_MASK, 10 * lane, 5);
    out[32 + lane] = __shfl_sync(FULL_MASK, lane, 3, 8);
    out[64 + lane] = __shfl_xor_sync(FULL_MASK, lane, 9);
    out[96 + lane] = __shfl_down_sync(FULL_MASK, lane, 4);
    out[128 + lane] = __shfl_down_sync(FULL_MASK, lane, 4, 16);
    out[160 + lane] = __shfl_up_sync(FULL_MASK, lane, 4);
    out[192 + lane] = (int)__ballot_sync(FULL_MASK, lane % 3 == 0);
    out[224 + lane] = __any_sync(FULL_MASK, lane == 7) + 2 * __any_sync(FULL_MASK, lane == 40);
    out[256 + lane] = __all_sync(FULL_MASK, lane < 32) + 2 * __all_sync(FULL_MASK, lane != 7);
    // The halves of a warp exchange values separately.
    out[288 + lane] = lane < 16 ? __shfl_xor_sync(0xffffu, lane, 1) : __shfl_xor_sync(0xffff0000u, lane, 2);
    __syncwarp();
    out[320 + lane] = (int)warp_sum((float)lane);
    // Threads that have exited count as arrived.
    out[352 + lane] = lane;
    if (lane >= 20) return;
    out[352 + lane] = __shfl_xor_sync(FULL_MASK, lane, 1);
}
REGISTER_KERNEL(warp_functions);

// out[i] is the index of the thread i of a grid and block with three dimensions.
extern "C" __global__ void indices(int* out) {
    int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    int thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    out[block * (int)(blockDim.x * blockDim.y * blockDim.z) + thread] = 1000 * block + thread;
}
REGISTER_KERNEL(indices);

// Half of a warp waits at the barrier, the other half in a shuffle with all threads.
extern "C" __global__ void deadlock(int* out) {
    if (threadIdx.x < 16) __syncthreads();
    out[threadIdx.x] = __shfl_sync(FULL_MASK, 1, 0);
}
REGISTER_KERNEL(deadlock);

extern "C" __global__ void different_barriers(int* out) {
    out[threadIdx.x] = 0;
    if (threadIdx.x < 32)
        __syncthreads();
    else
        __syncthreads();
}
REGISTER_KERNEL(different_barriers);

extern "C" __global__ void different_operations(int* out) {
    if (threadIdx.x < 16)
        out[threadIdx.x] = __shfl_sync(FULL_MASK, 1, 0);
    else
        out[threadIdx.x] = __any_sync(FULL_MASK, 1);
}
REGISTER_KERNEL(different_operations);

// Thread 31 reads a thread that has exited: an undefined value.
extern "C" __global__ void shuffle_from_exited_thread(float* out) {
    if (threadIdx.x == 30) return;
    out[threadIdx.x] = __shfl_xor_sync(FULL_MASK, 1.f, 1);
}
REGISTER_KERNEL(shuffle_from_exited_thread);

extern "C" __global__ void writes_behind_shared_memory(int* out, int index) {
    SHARED(int, values);
    values[(int)threadIdx.x + index] = 0;
    __syncthreads();
    out[threadIdx.x] = values[threadIdx.x];
}
REGISTER_KERNEL(writes_behind_shared_memory);

extern "C" __global__ void reads_unwritten_shared_memory(float* out) {
    SHARED(float, values);
    out[threadIdx.x] = values[threadIdx.x];
}
REGISTER_KERNEL(reads_unwritten_shared_memory);

extern "C" __global__ void writes_behind_memory(int* out, int index) { out[(int)threadIdx.x + index] = 0; }
REGISTER_KERNEL(writes_behind_memory);

extern "C" __global__ void reads_behind_memory(const int* x, int* out, int index) { out[threadIdx.x] = x[(int)threadIdx.x + index]; }
REGISTER_KERNEL(reads_behind_memory);

// Every thread waits this many times.
extern "C" __global__ void many_barriers(int* out, int steps) {
    for (int i = 0; i < steps; i++) __syncthreads();
    out[threadIdx.x] = steps;
}
REGISTER_KERNEL(many_barriers);
