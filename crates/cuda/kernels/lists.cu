// Operations on all values of a list of matrices in one launch: the search for values that are not finite, the L2 norm, interpolation.
//
// A model has hundreds of parameters, many of them small, so a launch for each would take longer than its work. All operations read each
// value once, which is their limit. The sum of the norm has double precision and an order that depends on the shapes only.
#include "exact.cuh"
#include "lists.cuh"

struct Values {
    const float* values;
    long long length;
};

static __device__ __forceinline__ bool is_finite(float v) { return (__float_as_uint(v) & 0x7f800000u) != 0x7f800000u; }

// Sets found[i] = 1 if matrix i has a value that is infinite or NaN.
extern "C" __global__ void __launch_bounds__(256)
find_non_finite_f32(const Values* matrices /* [count] */, const int* first_chunks /* [count + 1] */, int count, int* found /* [count] */) {
    int m = matrix_of_chunk(first_chunks, count, blockIdx.x);
    Values matrix = matrices[m];
    bool finite = true;
    for_chunk4(first_chunks[m], matrix.length, [&](long long i, long long left) {
        float4 v = load4(matrix.values + i, left);
        finite = finite && is_finite(v.x) && is_finite(v.y) && is_finite(v.z) && is_finite(v.w);
    });
    // All threads that write have the same value.
    if (!finite) found[m] = 1;
}
REGISTER_KERNEL(find_non_finite_f32);

// sums[i] = the sum of the squares of chunk i
extern "C" __global__ void __launch_bounds__(256)
sum_squares_f32(const Values* matrices /* [count] */, const int* first_chunks /* [count + 1] */, int count, double* sums /* [chunks] */) {
    SHARED(double, warp_sums /* [warps] */);
    int m = matrix_of_chunk(first_chunks, count, blockIdx.x);
    Values matrix = matrices[m];
    double sum = 0;
    for_chunk4(first_chunks[m], matrix.length,
               [&](long long i, long long left) { sum += square_sum4(load4(matrix.values + i, left)); });
    sum = block_sum(sum, warp_sums);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}
REGISTER_KERNEL(sum_squares_f32);

// norm = the square root of the sum; one block.
extern "C" __global__ void __launch_bounds__(256) finish_norm_f32(const double* sums /* [chunks] */, int chunks, float* norm /* [1] */) {
    SHARED(double, warp_sums /* [warps] */);
    double sum = 0;
    for (int i = threadIdx.x; i < chunks; i += blockDim.x) sum += sums[i];
    sum = block_sum(sum, warp_sums);
    if (threadIdx.x == 0) *norm = (float)sqrt(sum);
}
REGISTER_KERNEL(finish_norm_f32);

struct Pair {
    const float* x;
    float* y;
    long long length;
};

// y = y + rate * (x - y) for all pairs
extern "C" __global__ void __launch_bounds__(256)
interpolate_list_f32(const Pair* pairs /* [count] */, const int* first_chunks /* [count + 1] */, int count, float rate) {
    int m = matrix_of_chunk(first_chunks, count, blockIdx.x);
    Pair pair = pairs[m];
    for_chunk4(first_chunks[m], pair.length, [&](long long i, long long left) {
        float4 y = map4(load4(pair.x + i, left), load4(pair.y + i, left),
                        [=](float x, float y) { return add_rn(y, mul_rn(rate, sub_rn(x, y))); });
        store4(pair.y + i, left, y);
    });
}
REGISTER_KERNEL(interpolate_list_f32);
