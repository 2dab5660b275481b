// Binary cross-entropy with logits, for targets from 0 to 1; classes are independent.
//
// The forward pass has a block for each row and stores its sum; `scalars.cu` adds the rows. The exponential of -|x| never overflows. The
// gradient replaces the logits. Both read and write each value once.
#include "block_reduce.cuh"

// losses[r] = the sum over classes of max(x, 0) - x * t + ln(1 + exp(-|x|))
extern "C" __global__ void __launch_bounds__(1024)
binary_cross_entropy_forward(const float* logits /* [T, C] */, const float* targets /* [T, C] */, float* losses /* [T] */, int classes) {
    SHARED(float, shared /* [warps] */);
    long long first = (long long)blockIdx.x * classes;
    float sum = 0.f;
    for (int c = threadIdx.x; c < classes; c += blockDim.x) {
        float x = logits[first + c];
        sum += fmaxf(x, 0.f) - x * targets[first + c] + log1pf(expf(-fabsf(x)));
    }
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) losses[blockIdx.x] = sum;
}
REGISTER_KERNEL(binary_cross_entropy_forward);

// x = (sigmoid(x) - t) * factor
extern "C" __global__ void __launch_bounds__(256)
binary_cross_entropy_backward(float* logits /* [n] */, const float* targets /* [n] */, float factor, long long n) {
    for_each4(n, [=](long long i, long long left) {
        float4 sigmoid = map4(load4(logits + i, left), [](float x) { return 1.f / (1.f + expf(-x)); });
        store4(logits + i, left, (sigmoid - load4(targets + i, left)) * factor);
    });
}
REGISTER_KERNEL(binary_cross_entropy_backward);
