// The loss of masked autoencoding (He et al. 2022): the mean squared error of predictions and normalised patches.
//
// A warp normalises a row, of 768 values for patches of 16 x 16 pixels, which it reads three times, mostly from the L1 cache. The loss has a
// block for each row and stores its mean; `scalars.cu` adds the rows. The gradient replaces the prediction.
#include "block_reduce.cuh"

// x = (x - mean) / sqrt(variance + 1e-6), with the unbiased variance
extern "C" __global__ void __launch_bounds__(256) normalise_rows_f32(float* x /* [T, D] */, int rows, int width) {
    int row = blockIdx.x * (blockDim.x / WARP_SIZE) + threadIdx.x / WARP_SIZE, lane = threadIdx.x % WARP_SIZE;
    if (row >= rows) return;
    x += (long long)row * width;
    float sum = 0.f, squares = 0.f;
    for (int c = lane; c < width; c += WARP_SIZE) sum += x[c];
    float mean = warp_sum(sum) / (float)width;
    for (int c = lane; c < width; c += WARP_SIZE) squares += (x[c] - mean) * (x[c] - mean);
    float scale = 1.f / sqrtf(warp_sum(squares) / (float)(width - 1) + 1e-6f);
    for (int c = lane; c < width; c += WARP_SIZE) x[c] = (x[c] - mean) * scale;
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
