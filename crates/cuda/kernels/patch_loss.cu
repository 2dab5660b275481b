// The loss of masked autoencoding (He et al. 2022): the mean squared error of predictions and normalised patches.
//
// A warp normalises a row, of 768 values for patches of 16 x 16 pixels, which it reads three times: once from memory, then from the L1
// cache. The loss has a block for each row and stores its mean; `scalars.cu` adds the rows. The gradient replaces the prediction. All are
// bound by memory, with 8 bytes for each value that is normalised or compared, and 12 for a gradient.
#include "block_reduce.cuh"

// x = (x - mean) / sqrt(variance + 1e-6), with the unbiased variance
extern "C" __global__ void __launch_bounds__(256) normalise_rows_f32(float* x /* [T, D] */, int rows, int width) {
    int row = blockIdx.x * (blockDim.x / WARP_SIZE) + threadIdx.x / WARP_SIZE, lane = threadIdx.x % WARP_SIZE;
    if (row >= rows) return;
    x += (long long)row * width;
    float sum = 0.f, squares = 0.f;
    for (int c = 4 * lane; c < width; c += 4 * WARP_SIZE) sum += sum4(load4(x + c, width - c));
    float mean = warp_sum(sum) / (float)width;
    for (int c = 4 * lane; c < width; c += 4 * WARP_SIZE) {
        int left = width - c;
        // Values behind the row count as the mean.
        float4 d = load4(x + c, left) - mean;
        squares += sum4(make_float4(d.x * d.x, left > 1 ? d.y * d.y : 0.f, left > 2 ? d.z * d.z : 0.f, left > 3 ? d.w * d.w : 0.f));
    }
    float scale = 1.f / sqrtf(warp_sum(squares) / (float)(width - 1) + 1e-6f);
    for (int c = 4 * lane; c < width; c += 4 * WARP_SIZE) store4(x + c, width - c, (load4(x + c, width - c) - mean) * scale);
}
REGISTER_KERNEL(normalise_rows_f32);

// errors[r] = the mean of (p - t)^2 over the columns
extern "C" __global__ void __launch_bounds__(1024)
squared_error_forward(const float* prediction /* [T, D] */, const float* target /* [T, D] */, float* errors /* [T] */, int width) {
    SHARED(float, shared /* [warps] */);
    long long first = (long long)blockIdx.x * width;
    float sum = 0.f;
    for (int c = 4 * threadIdx.x; c < width; c += 4 * blockDim.x) {
        float4 d = load4(prediction + first + c, width - c) - load4(target + first + c, width - c);
        sum += sum4(d * d);
    }
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) errors[blockIdx.x] = sum / (float)width;
}
REGISTER_KERNEL(squared_error_forward);

// p = (p - t) * factor
extern "C" __global__ void __launch_bounds__(256)
squared_error_backward(float* prediction /* [n] */, const float* target /* [n] */, float factor, long long n) {
    for_each4(n, [=](long long i, long long left) {
        store4(prediction + i, left, (load4(prediction + i, left) - load4(target + i, left)) * factor);
    });
}
REGISTER_KERNEL(squared_error_backward);
