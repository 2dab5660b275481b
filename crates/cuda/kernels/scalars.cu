// Sums of scalars that stay on the device: the second stage of losses, whose first stage has stored a value for each row, and weighted sums.
//
// One block sums in a fixed order, so a second launch is cheaper than a wait for other blocks within the first one.
#include "block_reduce.cuh"

// out = the sum of the values / divisor
extern "C" __global__ void __launch_bounds__(256) sum_scalars(const float* values /* [n] */, float divisor, float* out /* [1] */, int n) {
    SHARED(float, shared /* [warps] */);
    float sum = 0.f;
    for (int i = threadIdx.x; i < n; i += blockDim.x) sum += values[i];
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) *out = sum / divisor;
}
REGISTER_KERNEL(sum_scalars);

struct Term {
    const float* value;
    float factor;
};

// out = the sum of factor * value; the block is one warp.
extern "C" __global__ void __launch_bounds__(32) weighted_sum(const Term* terms /* [n] */, float* out /* [1] */, int n) {
    float sum = 0.f;
    for (int i = threadIdx.x; i < n; i += WARP_SIZE) sum += terms[i].factor * *terms[i].value;
    sum = warp_sum(sum);
    if (threadIdx.x == 0) *out = sum;
}
REGISTER_KERNEL(weighted_sum);
