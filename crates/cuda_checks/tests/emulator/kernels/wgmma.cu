// D [64, N] = A [64, 64] * B [64, N] (+ C) with `wgmma`, in all layouts of B in shared memory, with A in registers or in shared memory:
// exercises the instructions of `hopper.cuh`. Small integers have exact results.
#include "hopper.cuh"

constexpr int ROWS = 64, K = 64;

// The index of a value of a matrix, which has panels of ROW_BYTES bytes of `rows` rows.
template <int ROW_BYTES>
static __device__ int position(int row, int column, int rows) {
    constexpr int COLUMNS = ROW_BYTES / 2;
    int panel = column / COLUMNS, part = column % COLUMNS / 8;
    return (panel * rows * ROW_BYTES + swizzled<ROW_BYTES>(row, part)) / 2 + column % 8;
}

template <int ROW_BYTES>
static __device__ constexpr Swizzle swizzle() {
    return ROW_BYTES == 128 ? Swizzle::BYTES_128 : ROW_BYTES == 64 ? Swizzle::BYTES_64 : ROW_BYTES == 32 ? Swizzle::BYTES_32 : Swizzle::NONE;
}

// Where the 16 values along K begin from `step` on, and the distances, of a K-major matrix.
template <int ROW_BYTES>
static __device__ unsigned long long k_major(const bf16* matrix, int rows, int step) {
    unsigned panel_bytes = rows * ROW_BYTES, first = step * 32 / ROW_BYTES * panel_bytes + step * 32 % ROW_BYTES;
    return advance(matrix_descriptor(matrix, panel_bytes, 8 * ROW_BYTES, swizzle<ROW_BYTES>()), first);
}
template <int ROW_BYTES>
static __device__ unsigned long long mn_major(const bf16* matrix, int step) {
    unsigned panel_bytes = K * ROW_BYTES, eight_rows = 8 * ROW_BYTES;
    bool interleaved = ROW_BYTES == 16;
    unsigned leading = interleaved ? eight_rows : panel_bytes, stride = interleaved ? panel_bytes : eight_rows;
    return advance(matrix_descriptor(matrix, leading, stride, swizzle<ROW_BYTES>()), step * 2 * eight_rows);
}

template <int COUNT, int ROW_BYTES, bool B_MN_MAJOR, bool A_IS_SHARED>
static __device__ void product(const bf16* a, const bf16* b, const float* c, float* d, int accumulate, bf16* shared) {
    constexpr int N = 8 * COUNT;
    bf16 *a_shared = shared, *b_shared = shared + ROWS * K;
    for (int i = threadIdx.x; i < ROWS * K; i += 128) a_shared[position<ROW_BYTES>(i / K, i % K, ROWS)] = a[i];
    for (int i = threadIdx.x; i < N * K; i += 128) {
        int k = i / N, n = i % N;
        b_shared[B_MN_MAJOR ? position<ROW_BYTES>(k, n, K) : position<ROW_BYTES>(n, k, N)] = b[i];
    }
    int row = threadIdx.x / WARP_SIZE * 16 + threadIdx.x % WARP_SIZE / 4, column = threadIdx.x % 4 * 2;
    unsigned fragments[K / 16][4];
    float sums[COUNT][4];
    for (int i = 0; i < K / 4; i++) {
        int r = row + i % 2 * 8, k = i / 4 * 16 + column + i / 2 % 2 * 8;
        fragments[i / 4][i % 4] = *reinterpret_cast<const unsigned*>(a + r * K + k);
    }
#pragma unroll
    for (int i = 0; i < 4 * COUNT; i++) sums[i / 4][i % 4] = c[(row + i / 2 % 2 * 8) * N + i / 4 * 8 + column + i % 2];
    fence_proxy_async();
    __syncthreads();  // the matrices are there
    wgmma_fence(sums, fragments);
#pragma unroll
    for (int step = 0; step < K / 16; step++) {
        unsigned long long of_b = B_MN_MAJOR ? mn_major<ROW_BYTES>(b_shared, step) : k_major<ROW_BYTES>(b_shared, N, step);
        if constexpr (A_IS_SHARED) wgmma<B_MN_MAJOR>(sums, k_major<ROW_BYTES>(a_shared, ROWS, step), of_b, step > 0 || accumulate);
        else wgmma<B_MN_MAJOR>(sums, fragments[step], of_b, step > 0 || accumulate);
    }
    wgmma_commit();
    wgmma_wait<0>(sums);
#pragma unroll
    for (int i = 0; i < 4 * COUNT; i++) d[(row + i / 2 % 2 * 8) * N + i / 4 * 8 + column + i % 2] = sums[i / 4][i % 4];
}

template <int COUNT, bool B_MN_MAJOR, bool A_IS_SHARED>
static __device__ void product_of_mode(const bf16* a, const bf16* b, const float* c, float* d, int accumulate, int row_bytes, bf16* shared) {
    if (row_bytes == 16) product<COUNT, 16, B_MN_MAJOR, A_IS_SHARED>(a, b, c, d, accumulate, shared);
    else if (row_bytes == 32) product<COUNT, 32, B_MN_MAJOR, A_IS_SHARED>(a, b, c, d, accumulate, shared);
    else if (row_bytes == 64) product<COUNT, 64, B_MN_MAJOR, A_IS_SHARED>(a, b, c, d, accumulate, shared);
    else product<COUNT, 128, B_MN_MAJOR, A_IS_SHARED>(a, b, c, d, accumulate, shared);
}

#define WGMMA_KERNEL(N)                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(128)                                                                                   \
    wgmma_fragment_##N(const bf16* a /* [64, 64] */, const bf16* b /* [64, N] */, const float* c /* [64, N] */, float* d /* [64, N] */, \
                       int accumulate, int row_bytes, int b_mn_major) {                                                                 \
        SHARED_SWIZZLED(bf16, shared);                                                                                                  \
        if (b_mn_major) product_of_mode<N / 8, true, false>(a, b, c, d, accumulate, row_bytes, shared);                                 \
        else product_of_mode<N / 8, false, false>(a, b, c, d, accumulate, row_bytes, shared);                                           \
    }                                                                                                                                   \
    REGISTER_KERNEL(wgmma_fragment_##N)
#define WGMMA_KERNELS(N)                                                                                                                \
    WGMMA_KERNEL(N);                                                                                                                    \
    extern "C" __global__ void __launch_bounds__(128)                                                                                   \
    wgmma_shared_##N(const bf16* a /* [64, 64] */, const bf16* b /* [64, N] */, const float* c /* [64, N] */, float* d /* [64, N] */,   \
                     int accumulate, int row_bytes, int b_mn_major) {                                                                   \
        SHARED_SWIZZLED(bf16, shared);                                                                                                  \
        if (b_mn_major) product_of_mode<N / 8, true, true>(a, b, c, d, accumulate, row_bytes, shared);                                  \
        else product_of_mode<N / 8, false, true>(a, b, c, d, accumulate, row_bytes, shared);                                            \
    }                                                                                                                                   \
    REGISTER_KERNEL(wgmma_shared_##N)

WGMMA_KERNELS(16);
WGMMA_KERNELS(32);
WGMMA_KERNELS(48);
WGMMA_KERNELS(64);
WGMMA_KERNEL(80);
WGMMA_KERNEL(128);

// Two groups of operations: D [2, 64, 16] has the product of the first 32 columns of A, and that of the others, from C. `b [64, 16]`.
extern "C" __global__ void __launch_bounds__(128) wgmma_groups(const bf16* a /* [64, 64] */, const bf16* b /* [64, 16] */,
                                                               const float* c /* [64, 16] */, float* d /* [2, 64, 16] */) {
    SHARED_SWIZZLED(bf16, shared);
    for (int i = threadIdx.x; i < ROWS * K; i += 128) shared[position<128>(i / K, i % K, ROWS)] = a[i];
    for (int i = threadIdx.x; i < 16 * K; i += 128) shared[ROWS * K + position<32>(i / 16, i % 16, K)] = b[i];
    int row = threadIdx.x / WARP_SIZE * 16 + threadIdx.x % WARP_SIZE / 4, column = threadIdx.x % 4 * 2;
    float first[2][4], second[2][4];
#pragma unroll
    for (int i = 0; i < 8; i++)
        first[i / 4][i % 4] = second[i / 4][i % 4] = c[(row + i / 2 % 2 * 8) * 16 + i / 4 * 8 + column + i % 2];
    fence_proxy_async();
    __syncthreads();  // the matrices are there
    wgmma_fence(first, second);
    for (int step = 0; step < 2; step++)
        wgmma<true>(first, k_major<128>(shared, ROWS, step), mn_major<32>(shared + ROWS * K, step), true);
    wgmma_commit();
    for (int step = 2; step < 4; step++)
        wgmma<true>(second, k_major<128>(shared, ROWS, step), mn_major<32>(shared + ROWS * K, step), true);
    wgmma_commit();
    wgmma_wait<1>(first);
#pragma unroll
    for (int i = 0; i < 8; i++) d[(row + i / 2 % 2 * 8) * 16 + i / 4 * 8 + column + i % 2] = first[i / 4][i % 4];
    wgmma_wait<0>(second);
#pragma unroll
    for (int i = 0; i < 8; i++) d[(ROWS + row + i / 2 % 2 * 8) * 16 + i / 4 * 8 + column + i % 2] = second[i / 4][i % 4];
}
REGISTER_KERNEL(wgmma_groups);
