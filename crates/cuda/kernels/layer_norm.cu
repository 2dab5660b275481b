// Layer normalisation of rows (Ba et al. 2016): y = (x - mean) * rstd * w + b with rstd = 1/sqrt(variance + eps), and its gradients.
//
// One warp has one row, so that sums need no barrier. In bf16, the forward pass also writes the normalised rows, and the backward pass reads
// them instead of the input and its means. The backward pass also adds to the gradient of the residual and writes its rounded copy, because
// the previous product reads that copy. Each block sums the gradients of scale and shift over its rows; `column_sums.cu` adds the blocks.
#include "device.cuh"

// Returns the mean of a row and 1/sqrt(variance + eps).
static __device__ __forceinline__ float2 statistics(const float* x /* [D] */, int width, float eps, int lane) {
    float sum = 0.f;
    for (int c = 4 * lane; c < width; c += 4 * WARP_SIZE) sum += sum4(load4(x + c, width - c));
    float mean = warp_sum(sum) / (float)width;
    // The second pass reads the L1 cache.
    float squares = 0.f;
    for (int c = 4 * lane; c < width; c += 4 * WARP_SIZE) {
        float4 d = load4(x + c, width - c) - mean;
        squares += d.x * d.x;
        if (c + 1 < width) squares += d.y * d.y;
        if (c + 2 < width) squares += d.z * d.z;
        if (c + 3 < width) squares += d.w * d.w;
    }
    float variance = warp_sum(squares) / (float)width;
    return make_float2(mean, 1.f / sqrtf(variance + eps));
}

extern "C" __global__ void __launch_bounds__(256)
layer_norm_f32(const float* x /* [T, D] */, const float* w /* [D] */, const float* b /* [D] */, float eps, float* y /* [T, D] */,
               float* mean /* [T] */, float* rstd /* [T] */, int rows, int width) {
    int row = blockIdx.x * (blockDim.x / WARP_SIZE) + threadIdx.x / WARP_SIZE, lane = threadIdx.x % WARP_SIZE;
    if (row >= rows) return;
    x += (long long)row * width;
    y += (long long)row * width;
    float2 s = statistics(x, width, eps, lane);
    for (int c = 4 * lane; c < width; c += 4 * WARP_SIZE) {
        int left = width - c;
        store4(y + c, left, (load4(x + c, left) - s.x) * s.y * load4(w + c, left) + load4(b + c, left));
    }
    if (lane == 0) {
        mean[row] = s.x;
        rstd[row] = s.y;
    }
}
REGISTER_KERNEL(layer_norm_f32);

extern "C" __global__ void __launch_bounds__(256)
layer_norm_bf16(const float* x /* [T, D] */, const float* w /* [D] */, const float* b /* [D] */, float eps, bf16* normalised /* [T, D] */,
                bf16* y /* [T, D] */, float* rstd /* [T] */, int rows, int width) {
    int row = blockIdx.x * (blockDim.x / WARP_SIZE) + threadIdx.x / WARP_SIZE, lane = threadIdx.x % WARP_SIZE;
    if (row >= rows) return;
    long long first = (long long)row * width;
    float2 s = statistics(x + first, width, eps, lane);
    for (int c = 4 * lane; c < width; c += 4 * WARP_SIZE) {
        int left = width - c;
        float4 n = (load4(x + first + c, left) - s.x) * s.y;
        store4(normalised + first + c, left, n);
        store4(y + first + c, left, n * load4(w + c, left) + load4(b + c, left));
    }
    if (lane == 0) rstd[row] = s.y;
}
REGISTER_KERNEL(layer_norm_bf16);

// y = normalised * w + b: the output of `layer_norm_bf16`, for the gradient of the following weight.
extern "C" __global__ void __launch_bounds__(256)
layer_norm_output_bf16(const bf16* normalised /* [T, D] */, const float* w /* [D] */, const float* b /* [D] */, bf16* y /* [T, D] */, int rows,
                       int width) {
    int row = blockIdx.x * (blockDim.x / WARP_SIZE) + threadIdx.x / WARP_SIZE, lane = threadIdx.x % WARP_SIZE;
    if (row >= rows) return;
    long long first = (long long)row * width;
    for (int c = 4 * lane; c < width; c += 4 * WARP_SIZE) {
        int left = width - c;
        store4(y + first + c, left, load4(normalised + first + c, left) * load4(w + c, left) + load4(b + c, left));
    }
}
REGISTER_KERNEL(layer_norm_output_bf16);

// Normalised values: computed from the input in f32, read in bf16.
struct NormaliseInput {
    const float* x;     /* [T, D] */
    const float* means; /* [T] */
    __device__ float4 load(long long first, int row, int c, int left, float rstd) const {
        return (load4(x + first + c, left) - means[row]) * rstd;
    }
};
struct NormalisedRows {
    const bf16* normalised; /* [T, D] */
    __device__ float4 load(long long first, int, int c, int left, float) const { return load4(normalised + first + c, left); }
};

// Computes dx = beta * dx + (g - mean(g) - n * mean(g * n)) * rstd with g = dy * w and the normalised row n, and the sums of dy * n and dy
// over the rows of the block. Block i has the rows that its warps reach in steps of all warps of the grid. `sums` is shared memory
// [warps, 2, D], or null; then the block is one warp and sums in its rows of `dw` and `db`.
template <class Row, class Normalised>
static __device__ __forceinline__ void backward(const Row* dy, Normalised normalised, const float* w, const float* rstd, float* dx,
                                                float beta, bf16* rounded, float* dw, float* db, float* sums, int rows, int width) {
    int warps = blockDim.x / WARP_SIZE, warp = threadIdx.x / WARP_SIZE, lane = threadIdx.x % WARP_SIZE;
    dw += (long long)blockIdx.x * width;
    db += (long long)blockIdx.x * width;
    // Each thread reads and writes its own columns of its warp's sums only.
    float* my_dw = sums ? sums + 2ll * warp * width : dw;
    float* my_db = sums ? my_dw + width : db;
    for (int c = 4 * lane; c < width; c += 4 * WARP_SIZE) {
        store4(my_dw + c, width - c, make_float4(0.f, 0.f, 0.f, 0.f));
        store4(my_db + c, width - c, make_float4(0.f, 0.f, 0.f, 0.f));
    }
    for (long long row = (long long)blockIdx.x * warps + warp; row < rows; row += (long long)gridDim.x * warps) {
        long long first = row * width;
        float s = rstd[row], g_sum = 0.f, gn_sum = 0.f;
        for (int c = 4 * lane; c < width; c += 4 * WARP_SIZE) {
            int left = width - c;
            float4 d = load4(dy + first + c, left), n = normalised.load(first, row, c, left, s), g = d * load4(w + c, left);
            g_sum += sum4(g);
            gn_sum += sum4(g * n);
            store4(my_dw + c, left, load4(my_dw + c, left) + d * n);
            store4(my_db + c, left, load4(my_db + c, left) + d);
        }
        float g_mean = warp_sum(g_sum) / (float)width, gn_mean = warp_sum(gn_sum) / (float)width;
        for (int c = 4 * lane; c < width; c += 4 * WARP_SIZE) {
            int left = width - c;
            float4 n = normalised.load(first, row, c, left, s), g = load4(dy + first + c, left) * load4(w + c, left);
            float4 d = (g - g_mean - n * gn_mean) * s;
            if (beta != 0.f) d = d + load4(dx + first + c, left) * beta;
            store4(dx + first + c, left, d);
            if (rounded) store4(rounded + first + c, left, d);
        }
    }
    if (!sums) return;
    __syncthreads();  // all warps have added their rows
    for (int c = threadIdx.x; c < width; c += blockDim.x) {
        float w_sum = 0.f, b_sum = 0.f;
        for (int i = 0; i < warps; i++) {
            w_sum += sums[2ll * i * width + c];
            b_sum += sums[(2ll * i + 1) * width + c];
        }
        dw[c] = w_sum;
        db[c] = b_sum;
    }
}

extern "C" __global__ void __launch_bounds__(256)
layer_norm_backward_f32(const float* dy /* [T, D] */, const float* x /* [T, D] */, const float* w /* [D] */, const float* mean /* [T] */,
                        const float* rstd /* [T] */, float* dx /* [T, D] */, float beta, float* dw /* [blocks, D] */,
                        float* db /* [blocks, D] */, int uses_shared, int rows, int width) {
    SHARED(float, sums);
    backward(dy, NormaliseInput{x, mean}, w, rstd, dx, beta, (bf16*)nullptr, dw, db, uses_shared ? sums : nullptr, rows, width);
}
REGISTER_KERNEL(layer_norm_backward_f32);

extern "C" __global__ void __launch_bounds__(256)
layer_norm_backward_bf16(const bf16* dy /* [T, D] */, const bf16* normalised /* [T, D] */, const float* w /* [D] */,
                         const float* rstd /* [T] */, float* dx /* [T, D] */, float beta, bf16* rounded /* [T, D] */,
                         float* dw /* [blocks, D] */, float* db /* [blocks, D] */, int uses_shared, int rows, int width) {
    SHARED(float, sums);
    backward(dy, NormalisedRows{normalised}, w, rstd, dx, beta, rounded, dw, db, uses_shared ? sums : nullptr, rows, width);
}
REGISTER_KERNEL(layer_norm_backward_bf16);
