// Y [T, 256] = 2 * X [T, 256] with bulk copies into two buffers: exercises `bulk_copy` and the barriers of `hopper.cuh`. A phase of `full`
// ends when a copy is there, one of `empty` when no thread reads the buffer any more.
#include "hopper.cuh"

constexpr int THREADS = 64, COUNT = 256;

extern "C" __global__ void __launch_bounds__(THREADS) bulk_copy_double(const float* x /* [T, 256] */, float* y /* [T, 256] */, int tiles) {
    SHARED(float, buffers /* [2, 256], then the barriers [2, 2] */);
    unsigned long long *full = reinterpret_cast<unsigned long long*>(buffers + 2 * COUNT), *empty = full + 2;
    auto load = [&](int tile) {
        mbarrier_arrive_expect(&full[tile % 2], COUNT * sizeof(float));
        bulk_copy(buffers + tile % 2 * COUNT, x + tile * COUNT, COUNT * sizeof(float), &full[tile % 2]);
    };
    if (threadIdx.x == 0) {
        for (int i = 0; i < 2; i++) {
            mbarrier_init(&full[i], 1);
            mbarrier_init(&empty[i], THREADS);
        }
        fence_proxy_async();
    }
    __syncthreads();  // the barriers are there
    if (threadIdx.x == 0) {
        for (int tile = 0; tile < min(tiles, 2); tile++) load(tile);
    }
    for (int tile = 0; tile < tiles; tile++) {
        int slot = tile % 2, parity = tile / 2 % 2;
        mbarrier_wait(&full[slot], parity);
        for (int i = threadIdx.x; i < COUNT; i += THREADS) y[tile * COUNT + i] = 2.f * buffers[slot * COUNT + i];
        mbarrier_arrive(&empty[slot]);
        if (threadIdx.x == 0 && tile + 2 < tiles) {
            mbarrier_wait(&empty[slot], parity);
            load(tile + 2);
        }
    }
}
REGISTER_KERNEL(bulk_copy_double);
