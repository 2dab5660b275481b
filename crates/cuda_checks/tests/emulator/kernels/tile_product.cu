// D [T, 8] = A [T, K] * B [K, 8] on tensor cores, with asynchronous copies of the next tiles: exercises `cp_async`, `ldmatrix`,
// `ldmatrix_trans` and `mma_m16n8k16` together, as an attention kernel uses them. T is a multiple of 32, K of 16.
#include "device.cuh"

constexpr int ROWS = 32, K_TILE = 16, N = 8;
// Rows of A's tile are 48 bytes apart, so that eight of them are in different banks.
constexpr int PITCH = 24;
constexpr int TILE = ROWS * PITCH + K_TILE * N;

static __device__ void load_tiles(bf16* tile, const bf16* a, const bf16* b, int k, int first_k) {
    int i = threadIdx.x;
    cp_async<16>(tile + i / 2 * PITCH + i % 2 * 8, a + (long long)(i / 2) * k + first_k + i % 2 * 8);
    if (i < K_TILE) cp_async<16>(tile + ROWS * PITCH + i * N, b + (long long)(first_k + i) * N);
    cp_async_commit();
}

extern "C" __global__ void __launch_bounds__(64) tile_product(const bf16* a /* [T, K] */, const bf16* b /* [K, 8] */, float* d /* [T, 8] */,
                                                               int k) {
    SHARED(bf16, tiles /* [2, TILE] */);
    int warp = threadIdx.x / WARP_SIZE, lane = threadIdx.x % WARP_SIZE;
    a += (long long)blockIdx.x * ROWS * k;
    d += (long long)blockIdx.x * ROWS * N;
    float sums[4] = {0.f, 0.f, 0.f, 0.f};
    load_tiles(tiles, a, b, k, 0);
    for (int step = 0; step < k / K_TILE; step++) {
        if (step + 1 < k / K_TILE) load_tiles(tiles + (step + 1) % 2 * TILE, a, b, k, (step + 1) * K_TILE);
        else cp_async_commit();
        cp_async_wait<1>();
        __syncthreads();  // the copies of all threads are there
        const bf16* tile = tiles + step % 2 * TILE;
        unsigned a_fragment[4], b_fragment[2];
        ldmatrix(a_fragment, tile + (warp * 16 + lane % 16) * PITCH + lane / 16 * 8);
        ldmatrix_trans(b_fragment, tile + ROWS * PITCH + lane % 16 * N);
        mma_m16n8k16(sums, a_fragment, b_fragment);
        __syncthreads();  // no thread reads the tile any more
    }
    int row = warp * 16 + lane / 4, column = lane % 4 * 2;
    for (int i = 0; i < 4; i++) d[(row + i / 2 * 8) * N + column + i % 2] = sums[i];
}
REGISTER_KERNEL(tile_product);
