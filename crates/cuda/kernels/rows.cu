// Rows of matrices by index: copies (gather), sums of rows of tables (lookup), and the gradients of tables (scatter_add).
//
// Block (r, s) has strip s of row r of the result. A gather reads and writes each value once, which is its limit; 16 bytes at a time if
// alignment allows it. Gradients of one row of a table are summed in an order that the host has sorted, without atomics: a launch sums
// blocks of the gradients of rows that occur often, and another one adds these sums to the rows. The order is that of `kernels::gather`.
#include "device.cuh"

// An index that means "no row".
constexpr unsigned NONE = 0xffffffffu;

// Where a row of the result comes from.
struct Source {
    int matrix, row;
};

template <class T>
static __device__ __forceinline__ bool is_aligned16(const T* p) {
    return reinterpret_cast<unsigned long long>(p) % 16 == 0;
}

template <class T>
static __device__ __forceinline__ void gather(const T* const* matrices, const Source* sources, T* out, int width) {
    constexpr int VALUES = 16 / sizeof(T);
    int c = VALUES * (blockIdx.y * blockDim.x + threadIdx.x), left = width - c;
    if (left <= 0) return;
    Source source = sources[blockIdx.x];
    const T* from = matrices[source.matrix] + (long long)source.row * width + c;
    T* to = out + (long long)blockIdx.x * width + c;
    if (left >= VALUES && is_aligned16(from) && is_aligned16(to)) {
        *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
        return;
    }
    for (int i = 0; i < min(left, VALUES); i++) to[i] = from[i];
}

extern "C" __global__ void __launch_bounds__(256) gather_f32(const float* const* matrices /* [n] of [rows, D] */,
                                                             const Source* sources /* [T] */, float* out /* [T, D] */, int width) {
    gather(matrices, sources, out, width);
}
REGISTER_KERNEL(gather_f32);

extern "C" __global__ void __launch_bounds__(256) gather_bf16(const bf16* const* matrices /* [n] of [rows, D] */,
                                                              const Source* sources /* [T] */, bf16* out /* [T, D] */, int width) {
    gather(matrices, sources, out, width);
}
REGISTER_KERNEL(gather_bf16);

// out[r] = base[r] + the row of each table, in order; without a base, the sum begins with zeros.
extern "C" __global__ void __launch_bounds__(256) lookup_f32(const float* base /* [T, D] or null */, const float* const* tables /* [n] */,
                                                             const unsigned* rows /* [n, T] */, int count, float* out /* [T, D] */,
                                                             int width) {
    int c = 4 * (blockIdx.y * blockDim.x + threadIdx.x), left = width - c;
    if (left <= 0) return;
    long long i = (long long)blockIdx.x * width + c;
    float4 sum = base ? load4(base + i, left) : make_float4(0.f, 0.f, 0.f, 0.f);
    for (int t = 0; t < count; t++) {
        unsigned row = rows[(long long)t * gridDim.x + blockIdx.x];
        if (row != NONE) sum = sum + load4(tables[t] + (long long)row * width + c, left);
    }
    store4(out + i, left, sum);
}
REGISTER_KERNEL(lookup_f32);

// A sum of rows order[first..end] of a matrix, for row `row` of the result.
struct Sum {
    int first, end, row;
};

// out[row] = beta * out[row] + sum. Without `order`, the rows are those from `first` to `end`.
extern "C" __global__ void __launch_bounds__(256) sum_rows_f32(const float* x /* [rows, D] */, const unsigned* order /* or null */,
                                                               const Sum* sums, float beta, float* out /* [T, D] */, int width) {
    int c = 4 * (blockIdx.y * blockDim.x + threadIdx.x), left = width - c;
    if (left <= 0) return;
    Sum s = sums[blockIdx.x];
    out += (long long)s.row * width + c;
    x += c;
    float4 sum = beta == 0.f ? make_float4(0.f, 0.f, 0.f, 0.f) : load4(out, left);
    if (left >= 4 && width % 4 == 0 && is_aligned(x)) {
        // Several loads in flight: a thread has all rows of its columns.
#pragma unroll 8
        for (int i = s.first; i < s.end; i++) {
            long long row = order ? order[i] : i;
            sum = sum + *reinterpret_cast<const float4*>(x + row * width);
        }
    } else {
        for (int i = s.first; i < s.end; i++) {
            long long row = order ? order[i] : i;
            sum = sum + load4(x + row * width, left);
        }
    }
    store4(out, left, sum);
}
REGISTER_KERNEL(sum_rows_f32);
