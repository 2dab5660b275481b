// The product of a sparse matrix in CSR format and a dense matrix: out = beta * out + matrix * x.
//
// Block (r, s) has strip s of row r of the result. A thread adds the terms of its four columns in the order of the entries, as the CPU
// does. Rows of x that several rows of the sparse matrix use are read from the L2 cache.
#include "exact.cuh"

struct Entry {
    unsigned column;
    float value;
};

extern "C" __global__ void __launch_bounds__(256)
sparse_product_f32(const int* offsets /* [rows + 1] */, const Entry* entries, const float* x /* [columns, D] */, float beta,
                   float* out /* [rows, D] */, int width) {
    int c = 4 * (blockIdx.y * blockDim.x + threadIdx.x), left = width - c;
    if (left <= 0) return;
    int end = offsets[blockIdx.x + 1];
    out += (long long)blockIdx.x * width + c;
    float4 sum = beta == 0.f ? make_float4(0.f, 0.f, 0.f, 0.f) : load4(out, left);
    for (int i = offsets[blockIdx.x]; i < end; i++) {
        Entry entry = entries[i];
        sum = add_scaled_rn(sum, load4(x + (long long)entry.column * width + c, left), entry.value);
    }
    store4(out, left, sum);
}
REGISTER_KERNEL(sparse_product_f32);
