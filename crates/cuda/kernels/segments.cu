// Means of the rows of segments, which are ranges of rows of a packed matrix, and their gradient.
//
// The mean reads each value once: block (s, j) has 128 columns of segment s, four for each thread, and each of its eight warps has every
// eighth row, so that a few long segments use all multiprocessors. The gradient has a block for each strip of each row.
#include "exact.cuh"

constexpr int WARPS = 8;
// An index that means "no segment".
constexpr unsigned NONE = 0xffffffffu;

struct Segment {
    int first, end;
};

// out[s] = the mean of the rows of segment s; zeros for an empty segment.
extern "C" __global__ void __launch_bounds__(256)
segment_mean_f32(const float* x /* [T, D] */, const Segment* segments /* [S] */, float* out /* [S, D] */, int width) {
    SHARED(float4, sums /* [WARPS, 32] */);
    int warp = threadIdx.x / WARP_SIZE, lane = threadIdx.x % WARP_SIZE, c = 4 * (blockIdx.y * WARP_SIZE + lane), left = width - c;
    Segment s = segments[blockIdx.x];
    float4 sum = make_float4(0.f, 0.f, 0.f, 0.f);
    if (left > 0) {
#pragma unroll 4
        for (int row = s.first + warp; row < s.end; row += WARPS) sum = sum + load4(x + (long long)row * width + c, left);
    }
    sums[warp * WARP_SIZE + lane] = sum;
    __syncthreads();  // all warps have stored their sums
    if (warp != 0 || left <= 0) return;
    for (int i = 1; i < WARPS; i++) sum = sum + sums[i * WARP_SIZE + lane];
    store4(out + (long long)blockIdx.x * width + c, left, sum * (1.f / (float)max(s.end - s.first, 1)));
}
REGISTER_KERNEL(segment_mean_f32);

// dx[t] = beta * dx[t] + factors[s] * d_out[s] for the segment s of row t.
extern "C" __global__ void __launch_bounds__(256)
segment_mean_backward_f32(const float* d_out /* [S, D] */, const unsigned* segments /* [T] */, const float* factors /* [S] */, float beta,
                          float* dx /* [T, D] */, int width) {
    int c = 4 * (blockIdx.y * blockDim.x + threadIdx.x), left = width - c;
    if (left <= 0) return;
    unsigned s = segments[blockIdx.x];
    dx += (long long)blockIdx.x * width + c;
    float4 d = beta == 0.f ? make_float4(0.f, 0.f, 0.f, 0.f) : load4(dx, left);
    if (s != NONE) d = add_scaled_rn(d, load4(d_out + (long long)s * width + c, left), factors[s]);
    store4(dx, left, d);
}
REGISTER_KERNEL(segment_mean_backward_f32);
