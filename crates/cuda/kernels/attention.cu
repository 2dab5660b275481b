// Softmax attention within packed sequences, out = softmax(q * k^T / sqrt(w)) * v (Vaswani et al. 2017), and its gradients.
//
// These are the plain kernels, for any head width up to 256, in f32 arithmetic: a warp has one query or key, and its lanes have 32 keys or
// queries. The softmax is computed online (Milakov & Gimelshein 2018). The backward pass recomputes the probabilities from the
// log-sum-exp, with one kernel for queries and one for keys, so that no sum needs atomics (FlashAttention-2 by Dao 2023 adds gradients of
// queries atomically). `attention_mma.cu` has the fast kernels, which are compared with these on a device.
#include "attention.cuh"

constexpr int WARPS = 8;
// Columns that a thread sums: 256 columns of a head for 32 lanes.
constexpr int COLUMNS = 8;

static __device__ __forceinline__ float load(const float* x) { return *x; }
static __device__ __forceinline__ float load(const bf16* x) { return from_bf16(*x); }
static __device__ __forceinline__ void store(float* to, float v) { *to = v; }
static __device__ __forceinline__ void store(bf16* to, float v) { *to = to_bf16(v); }

static __device__ __forceinline__ float warp_max(float v) {
    for (int bits = 16; bits > 0; bits /= 2) v = fmaxf(v, __shfl_xor_sync(FULL_MASK, v, bits));
    return v;
}

// The place of a warp: its head's columns in `qkv [T, 3 * D]` and `out [queries, D]`, its lane, and its part of shared memory.
struct Place {
    int warp, lane, w;
    long long width, pitch;
    // Two rows of the warp, and two values for each lane.
    float *row_a, *row_b, *lane_a, *lane_b;

    __device__ Place(float* shared, int head_width) {
        warp = threadIdx.x / WARP_SIZE, lane = threadIdx.x % WARP_SIZE, w = head_width;
        width = (long long)gridDim.y * w, pitch = 3 * width;
        // Rows begin at multiples of four values.
        int stride = (w + 3) / 4 * 4;
        row_a = shared + warp * (2 * stride + 2 * WARP_SIZE);
        row_b = row_a + stride;
        lane_a = row_b + stride;
        lane_b = lane_a + WARP_SIZE;
    }

    template <class T>
    __device__ void copy_row(float* to, const T* from, float factor) const {
        for (int c = lane; c < w; c += WARP_SIZE) to[c] = load(from + c) * factor;
    }

    template <class T>
    __device__ float dot(const float* shared_row, const T* row) const {
        float sum = 0.f;
#pragma unroll 2
        for (int c = 0; c < w; c += 4) sum += sum4(load4(shared_row + c, w - c) * load4(row + c, w - c));
        return sum;
    }

    // sums = factor * sums + the rows, each multiplied by the value of its lane
    template <class T>
    __device__ void add_rows(float (&sums)[COLUMNS], float factor, const float* lanes, const T* rows, long long row_pitch,
                             int count) const {
        for (int n = 0; n < COLUMNS; n++) {
            int c = lane + n * (int)WARP_SIZE;
            if (c >= w) return;
            float sum = sums[n] * factor;
#pragma unroll 1
            for (int i = 0; i < count; i++) sum += lanes[i] * load(rows + i * row_pitch + c);
            sums[n] = sum;
        }
    }

    template <class T>
    __device__ void store_row(T* to, const float (&sums)[COLUMNS], float factor) const {
        for (int n = 0; n < COLUMNS; n++) {
            int c = lane + n * (int)WARP_SIZE;
            if (c < w) store(to + c, sums[n] * factor);
        }
    }
};

template <class T>
static __device__ __forceinline__ void forward(const T* qkv, const Tile& tile, int w, float log2_scale, T* out, float* lse, int queries,
                                               float* shared) {
    Place at(shared, w);
    qkv += tile.first_token * at.pitch + blockIdx.y * w;
    const T *k = qkv + at.width, *v = k + at.width;
    for (int i = tile.first + at.warp; i < min(tile.first + TILE, tile.queries); i += WARPS) {
        at.copy_row(at.row_a, qkv + i * at.pitch, log2_scale);
        __syncwarp();  // the query is there
        float largest = -INFINITY, sum = 0.f, sums[COLUMNS] = {};
        for (int first = 0; first < tile.tokens; first += WARP_SIZE) {
            int j = first + at.lane;
            float score = j < tile.tokens ? at.dot(at.row_a, k + j * at.pitch) : -INFINITY;
            float before = largest;
            largest = fmaxf(before, warp_max(score));
            float factor = exp2f(before - largest), probability = exp2f(score - largest);
            sum = sum * factor + probability;
            at.lane_a[at.lane] = probability;
            __syncwarp();  // the probabilities are there
            at.add_rows(sums, factor, at.lane_a, v + first * at.pitch, at.pitch, min((int)WARP_SIZE, tile.tokens - first));
            __syncwarp();  // no lane reads the probabilities any more
        }
        sum = warp_sum(sum);
        long long row = tile.first_query + i;
        at.store_row(out + row * at.width + blockIdx.y * w, sums, 1.f / sum);
        if (at.lane == 0) lse[(long long)blockIdx.y * queries + row] = largest + log2f(sum);
    }
}

// With the probabilities p and d_p = d_out * v^T, the gradient of the scores is p * (d_p - delta) / sqrt(w), and that of the query its
// product with k.
template <class T>
static __device__ __forceinline__ void gradient_of_queries(const T* d_out, const T* qkv, const float* lse, const float* delta,
                                                           const Tile& tile, int w, float log2_scale, float scale, T* d_qkv, int queries,
                                                           float* shared) {
    Place at(shared, w);
    long long first_value = tile.first_token * at.pitch + blockIdx.y * w;
    const T *q = qkv + first_value, *k = q + at.width, *v = k + at.width;
    for (int i = tile.first + at.warp; i < min(tile.first + TILE, tile.queries); i += WARPS) {
        long long row = tile.first_query + i, statistic = (long long)blockIdx.y * queries + row;
        at.copy_row(at.row_a, q + i * at.pitch, log2_scale);
        at.copy_row(at.row_b, d_out + row * at.width + blockIdx.y * w, 1.f);
        __syncwarp();  // both rows are there
        float sums[COLUMNS] = {};
        for (int first = 0; first < tile.tokens; first += WARP_SIZE) {
            int j = first + at.lane;
            float d_score = 0.f;
            if (j < tile.tokens) {
                float probability = exp2f(at.dot(at.row_a, k + j * at.pitch) - lse[statistic]);
                d_score = probability * (at.dot(at.row_b, v + j * at.pitch) - delta[statistic]);
            }
            at.lane_a[at.lane] = d_score;
            __syncwarp();  // the gradients of the scores are there
            at.add_rows(sums, 1.f, at.lane_a, k + first * at.pitch, at.pitch, min((int)WARP_SIZE, tile.tokens - first));
            __syncwarp();  // no lane reads them any more
        }
        at.store_row(d_qkv + first_value + i * at.pitch, sums, scale);
    }
}

// The gradient of a key is the product of the gradients of its scores and the queries, that of its value the product of its probabilities
// and `d_out`. Tokens without a query have no query gradient.
template <class T>
static __device__ __forceinline__ void gradient_of_keys(const T* d_out, const T* qkv, const float* lse, const float* delta,
                                                        const Tile& tile, int w, float log2_scale, float scale, T* d_qkv, int queries,
                                                        float* shared) {
    Place at(shared, w);
    long long first_value = tile.first_token * at.pitch + blockIdx.y * w;
    const T *q = qkv + first_value, *k = q + at.width, *v = k + at.width;
    T *d_q = d_qkv + first_value, *d_k = d_q + at.width, *d_v = d_k + at.width;
    d_out += tile.first_query * at.width + blockIdx.y * w;
    lse += (long long)blockIdx.y * queries + tile.first_query;
    delta += (long long)blockIdx.y * queries + tile.first_query;
    for (int j = tile.first + at.warp; j < min(tile.first + TILE, tile.tokens); j += WARPS) {
        at.copy_row(at.row_a, k + j * at.pitch, log2_scale);
        at.copy_row(at.row_b, v + j * at.pitch, 1.f);
        __syncwarp();  // key and value are there
        float key_sums[COLUMNS] = {}, value_sums[COLUMNS] = {};
        for (int first = 0; first < tile.queries; first += WARP_SIZE) {
            int i = first + at.lane;
            float probability = 0.f, d_score = 0.f;
            if (i < tile.queries) {
                probability = exp2f(at.dot(at.row_a, q + i * at.pitch) - lse[i]);
                d_score = probability * (at.dot(at.row_b, d_out + i * at.width) - delta[i]);
            }
            at.lane_a[at.lane] = d_score;
            at.lane_b[at.lane] = probability;
            __syncwarp();  // the values of all lanes are there
            int count = min((int)WARP_SIZE, tile.queries - first);
            at.add_rows(key_sums, 1.f, at.lane_a, q + first * at.pitch, at.pitch, count);
            at.add_rows(value_sums, 1.f, at.lane_b, d_out + first * at.width, at.width, count);
            __syncwarp();  // no lane reads them any more
        }
        at.store_row(d_k + j * at.pitch, key_sums, scale);
        at.store_row(d_v + j * at.pitch, value_sums, 1.f);
        float zeros[COLUMNS] = {};
        if (j >= tile.queries) at.store_row(d_q + j * at.pitch, zeros, 0.f);
    }
}

// delta[h, i] = the sum of d_out * out over the columns of head h. Groups of `lanes` threads, a power of two, have one row and head each.
// Reads two elements and writes 4 / w bytes for each element of `out`.
template <class T>
static __device__ __forceinline__ void sum_products(const T* d_out, const T* out, float* delta, unsigned queries, unsigned heads, int w,
                                                    int lanes) {
    unsigned group = blockIdx.x * (blockDim.x / lanes) + threadIdx.x / lanes, row = group / heads, head = group % heads;
    int lane = threadIdx.x % lanes;
    long long first = (long long)group * w;
    float sum = 0.f;
    if (row < queries) {
        for (int c = 4 * lane; c < w; c += 4 * lanes) sum += sum4(load4(d_out + first + c, w - c) * load4(out + first + c, w - c));
    }
    for (int bits = lanes / 2; bits > 0; bits /= 2) sum += __shfl_xor_sync(FULL_MASK, sum, bits);
    if (row < queries && lane == 0) delta[(long long)head * queries + row] = sum;
}

extern "C" __global__ void __launch_bounds__(256)
attention_f32(const float* qkv /* [T, 3 * D] */, const Tile* tiles, int w, float log2_scale, float* out /* [queries, D] */,
              float* lse /* [H, queries] */, int queries) {
    SHARED(float, shared);
    forward(qkv, tiles[blockIdx.x], w, log2_scale, out, lse, queries, shared);
}
REGISTER_KERNEL(attention_f32);

extern "C" __global__ void __launch_bounds__(256)
attention_bf16(const bf16* qkv /* [T, 3 * D] */, const Tile* tiles, int w, float log2_scale, bf16* out /* [queries, D] */,
               float* lse /* [H, queries] */, int queries) {
    SHARED(float, shared);
    forward(qkv, tiles[blockIdx.x], w, log2_scale, out, lse, queries, shared);
}
REGISTER_KERNEL(attention_bf16);

extern "C" __global__ void __launch_bounds__(256)
attention_delta_f32(const float* d_out /* [queries, D] */, const float* out /* [queries, D] */, float* delta /* [H, queries] */,
                    int queries, int heads, int w, int lanes) {
    sum_products(d_out, out, delta, queries, heads, w, lanes);
}
REGISTER_KERNEL(attention_delta_f32);

extern "C" __global__ void __launch_bounds__(256)
attention_delta_bf16(const bf16* d_out /* [queries, D] */, const bf16* out /* [queries, D] */, float* delta /* [H, queries] */,
                     int queries, int heads, int w, int lanes) {
    sum_products(d_out, out, delta, queries, heads, w, lanes);
}
REGISTER_KERNEL(attention_delta_bf16);

extern "C" __global__ void __launch_bounds__(256)
attention_backward_queries_f32(const float* d_out /* [queries, D] */, const float* qkv /* [T, 3 * D] */,
                                const float* lse /* [H, queries] */,
                               const float* delta /* [H, queries] */, const Tile* tiles, int w, float log2_scale, float scale,
                               float* d_qkv /* [T, 3 * D] */, int queries) {
    SHARED(float, shared);
    gradient_of_queries(d_out, qkv, lse, delta, tiles[blockIdx.x], w, log2_scale, scale, d_qkv, queries, shared);
}
REGISTER_KERNEL(attention_backward_queries_f32);

extern "C" __global__ void __launch_bounds__(256)
attention_backward_queries_bf16(const bf16* d_out /* [queries, D] */, const bf16* qkv /* [T, 3 * D] */,
                                 const float* lse /* [H, queries] */,
                                const float* delta /* [H, queries] */, const Tile* tiles, int w, float log2_scale, float scale,
                                bf16* d_qkv /* [T, 3 * D] */, int queries) {
    SHARED(float, shared);
    gradient_of_queries(d_out, qkv, lse, delta, tiles[blockIdx.x], w, log2_scale, scale, d_qkv, queries, shared);
}
REGISTER_KERNEL(attention_backward_queries_bf16);

extern "C" __global__ void __launch_bounds__(256)
attention_backward_keys_f32(const float* d_out /* [queries, D] */, const float* qkv /* [T, 3 * D] */, const float* lse /* [H, queries] */,
                            const float* delta /* [H, queries] */, const Tile* tiles, int w, float log2_scale, float scale,
                            float* d_qkv /* [T, 3 * D] */, int queries) {
    SHARED(float, shared);
    gradient_of_keys(d_out, qkv, lse, delta, tiles[blockIdx.x], w, log2_scale, scale, d_qkv, queries, shared);
}
REGISTER_KERNEL(attention_backward_keys_f32);

extern "C" __global__ void __launch_bounds__(256)
attention_backward_keys_bf16(const bf16* d_out /* [queries, D] */, const bf16* qkv /* [T, 3 * D] */, const float* lse /* [H, queries] */,
                             const float* delta /* [H, queries] */, const Tile* tiles, int w, float log2_scale, float scale,
                             bf16* d_qkv /* [T, 3 * D] */, int queries) {
    SHARED(float, shared);
    gradient_of_keys(d_out, qkv, lse, delta, tiles[blockIdx.x], w, log2_scale, scale, d_qkv, queries, shared);
}
REGISTER_KERNEL(attention_backward_keys_bf16);
