// Softmax attention within packed sequences and its gradients on tensor cores (`mma.sync`, sm_80 and later), in bf16 with f32 sums.
//
// As FlashAttention-2 (Dao 2023), with other loops for the gradients: one kernel for queries and one for keys, which recompute scores, so
// that no sum needs atomics. Each of four warps has 16 rows of a block's tile and keeps its scores in registers; tiles of the other matrix
// are loaded with asynchronous copies while the previous ones are used. Sequences end at multiples of 16 rows: warps without rows do not
// compute, and 16 rows of a tile behind the end are skipped. A kernel with W columns serves all narrower heads of multiples of 8 columns,
// padded with zeros in shared memory.
#include "attention_fragments.cuh"

constexpr int THREADS = 128;
// Columns between rows of shared memory are W + 8: eight rows with 16 bytes each are in different banks, because W is a multiple of 16.
constexpr int PADDING = 8;

// Begins to copy the rows from `row` on, up to a tile; behind the last of `rows` rows, zeros complete 16 rows.
template <int W>
static __device__ __forceinline__ void load_tile(bf16* tile /* [TILE, W + 8] */, const Head& from, int row, int rows) {
    constexpr int CHUNKS = W / 8;
    const bf16* first = from.first + row * from.pitch;
    int left = rows - row, count = min(TILE, (left + STEP - 1) / STEP * STEP) * CHUNKS;
    for (int i = threadIdx.x; i < count; i += THREADS) {
        int r = i / CHUNKS, c = i % CHUNKS * 8;
        bool is_inside = r < left && c < from.width;
        cp_async<16>(tile + r * (W + PADDING) + c, is_inside ? first + r * from.pitch + c : first, is_inside ? 16 : 0);
    }
}

// product [16, 16] = a [16, W] * rows [16, W]^T
template <int W>
static __device__ __forceinline__ void multiply_transposed(float (&product)[2][4], const unsigned (&a)[W / 16][4], const bf16* rows,
                                                           const Place& at) {
#pragma unroll
    for (int i = 0; i < 4; i++) product[0][i] = product[1][i] = 0.f;
    const bf16* address = rows + (at.lane / 16 * 8 + at.lane % 8) * (W + PADDING) + at.lane / 8 % 2 * 8;
#pragma unroll
    for (int s = 0; s < W / 16; s++) {
        unsigned b[4];
        ldmatrix(b, address + s * 16);
        unsigned low[2] = {b[0], b[1]}, high[2] = {b[2], b[3]};
        mma_m16n8k16(product[0], a[s], low);
        mma_m16n8k16(product[1], a[s], high);
    }
}

// sums [16, W] += a [16, 16] * rows [16, W], where `a` is a result of `multiply_transposed`, rounded
template <int W>
static __device__ __forceinline__ void add_product(float (&sums)[W / 8][4], const float (&a)[2][4], const bf16* rows, const Place& at) {
    unsigned rounded[4] = {pack_bf16(a[0][0], a[0][1]), pack_bf16(a[0][2], a[0][3]), pack_bf16(a[1][0], a[1][1]),
                           pack_bf16(a[1][2], a[1][3])};
    const bf16* address = rows + at.lane % 16 * (W + PADDING) + at.lane / 16 * 8;
#pragma unroll
    for (int n = 0; n < W / 16; n++) {
        unsigned b[4];
        ldmatrix_trans(b, address + n * 16);
        unsigned low[2] = {b[0], b[1]}, high[2] = {b[2], b[3]};
        mma_m16n8k16(sums[2 * n], rounded, low);
        mma_m16n8k16(sums[2 * n + 1], rounded, high);
    }
}

// The forward pass of 16 queries: their unscaled outputs, and the largest score and the sum of probabilities of rows `row` and `row + 8`.
template <int W>
struct Queries {
    unsigned q[W / 16][4];
    float out[W / 8][4], largest[2], sum[2];

    // Adds the keys of a tile, of which `left` are left; with FULL, at least a tile.
    template <bool FULL>
    __device__ __forceinline__ void add_keys(const bf16* k, const bf16* v, int left, float log2_scale, const Place& at) {
        constexpr int STEPS = TILE / STEP;
        float p[STEPS][2][4], before[2] = {largest[0], largest[1]};
#pragma unroll
        for (int j = 0; j < STEPS; j++) {
            if (FULL || j * STEP < left) multiply_transposed<W>(p[j], q, k + j * STEP * (W + PADDING), at);
#pragma unroll
            for (int i = 0; i < 8; i++) {
                float& score = p[j][i / 4][i % 4];
                if (!FULL && j * STEP + i / 4 * 8 + at.column + i % 2 >= left) score = -INFINITY;
                largest[i / 2 % 2] = fmaxf(largest[i / 2 % 2], score);
            }
        }
        float offset[2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            // The four threads of a row.
            largest[half] = fmaxf(largest[half], __shfl_xor_sync(FULL_MASK, largest[half], 1));
            largest[half] = fmaxf(largest[half], __shfl_xor_sync(FULL_MASK, largest[half], 2));
            offset[half] = largest[half] * log2_scale;
            float factor = exp2_approx((before[half] - largest[half]) * log2_scale);
            sum[half] *= factor;
#pragma unroll
            for (int n = 0; n < W / 8; n++) {
                out[n][2 * half] *= factor;
                out[n][2 * half + 1] *= factor;
            }
        }
#pragma unroll
        for (int j = 0; j < STEPS; j++) {
#pragma unroll
            for (int i = 0; i < 8; i++) {
                float probability = exp2_approx(p[j][i / 4][i % 4] * log2_scale - offset[i / 2 % 2]);
                p[j][i / 4][i % 4] = probability;
                sum[i / 2 % 2] += probability;
            }
            if (FULL || j * STEP < left) add_product<W>(out, p[j], v + j * STEP * (W + PADDING), at);
        }
    }
};

template <int W>
static __device__ __forceinline__ void forward(const bf16* qkv, Tile tile, int width, float log2_scale, bf16* out, float* lse,
                                               int queries, bf16* shared /* [2, 2, TILE, W + 8] */) {
    constexpr int SIZE = TILE * (W + PADDING);
    Place at;
    long long columns = (long long)gridDim.y * width, pitch = 3 * columns;
    const bf16* first = qkv + tile.first_token * pitch + blockIdx.y * width;
    Head q = {first, pitch, width}, k = {first + columns, pitch, width}, v = {first + 2 * columns, pitch, width};
    auto load = [&](int row) {
        bf16* to = shared + row / TILE % 2 * 2 * SIZE;
        load_tile<W>(to, k, row, tile.tokens);
        load_tile<W>(to + SIZE, v, row, tile.tokens);
        cp_async_commit();
    };
    load(0);
    int row = tile.first + at.warp * STEP, left = tile.queries - row;
    Queries<W> state;
    load_operand<W>(state.q, q, row, left, at);
    clear(state.out);
    state.largest[0] = state.largest[1] = -INFINITY;
    state.sum[0] = state.sum[1] = 0.f;
    for (int key = 0; key < tile.tokens; key += TILE) {
        cp_async_wait<0>();
        __syncthreads();  // the tile is there, and no warp reads the previous tile any more
        if (key + TILE < tile.tokens) load(key + TILE);
        if (left <= 0) continue;
        const bf16* keys = shared + key / TILE % 2 * 2 * SIZE;
        int keys_left = tile.tokens - key;
        if (keys_left >= TILE) state.template add_keys<true>(keys, keys + SIZE, keys_left, log2_scale, at);
        else state.template add_keys<false>(keys, keys + SIZE, keys_left, log2_scale, at);
    }
    if (left <= 0) return;
    store_outputs<W>(state, tile, row, left, width, columns, log2_scale, out, lse, queries, at);
}

// The gradients of 16 queries of each warp, in a loop over tiles of keys.
template <int W>
static __device__ __forceinline__ void gradient_of_queries(const Gradients& g, const Tile& tile, float log2_scale, float scale,
                                                           bf16* shared /* [2, 2, TILE, W + 8] */) {
    constexpr int SIZE = TILE * (W + PADDING);
    Place at;
    auto load = [&](int row) {
        bf16* to = shared + row / TILE % 2 * 2 * SIZE;
        load_tile<W>(to, g.k, row, tile.tokens);
        load_tile<W>(to + SIZE, g.v, row, tile.tokens);
        cp_async_commit();
    };
    load(0);
    int row = tile.first + at.warp * STEP, left = tile.queries - row;
    unsigned q[W / 16][4], d_out[W / 16][4];
    load_operand<W>(q, g.q, row, left, at);
    load_operand<W>(d_out, g.d_out, row, left, at);
    float lse[2], delta[2], sums[W / 8][4];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int r = at.row + half * 8;
        lse[half] = r < left ? g.lse[row + r] : 0.f;
        delta[half] = r < left ? g.delta[row + r] : 0.f;
    }
    clear(sums);
    for (int key = 0; key < tile.tokens; key += TILE) {
        cp_async_wait<0>();
        __syncthreads();  // the keys are there, and no warp reads the previous ones any more
        if (key + TILE < tile.tokens) load(key + TILE);
        if (left <= 0) continue;
        const bf16* keys = shared + key / TILE % 2 * 2 * SIZE;
        int keys_left = tile.tokens - key;
        for (int j = 0; j < min(TILE, keys_left); j += STEP) {
            float p[2][4], d[2][4];
            multiply_transposed<W>(p, q, keys + j * (W + PADDING), at);
            multiply_transposed<W>(d, d_out, keys + SIZE + j * (W + PADDING), at);
#pragma unroll
            for (int i = 0; i < 8; i++) {
                int half = i / 2 % 2;
                float probability = exp2_approx(p[i / 4][i % 4] * log2_scale - lse[half]);
                // Keys behind the end have scores of zero, whose probabilities may be infinite.
                bool is_key = j + i / 4 * 8 + at.column + i % 2 < keys_left;
                d[i / 4][i % 4] = is_key ? probability * (d[i / 4][i % 4] - delta[half]) : 0.f;
            }
            add_product<W>(sums, d, keys + j * (W + PADDING), at);
        }
    }
    if (left > 0) store_rows<W>(g.d_q + row * g.pitch, g.pitch, g.q.width, sums, {scale, scale}, left, at);
}

// The gradients of 16 keys and values of each warp, in a loop over tiles of queries. Scores and their gradients are transposed: rows are
// keys. Queries behind the end have rows of zeros in all matrices, so they add nothing.
template <int W>
static __device__ __forceinline__ void gradient_of_keys(const Gradients& g, const Tile& tile, float log2_scale, float scale,
                                                        bf16* shared /* [2, 2, TILE, W + 8], then f32 [2, 2, TILE] */) {
    constexpr int SIZE = TILE * (W + PADDING);
    float* statistics = reinterpret_cast<float*>(shared + 4 * SIZE);
    Place at;
    auto load = [&](int row) {
        int slot = row / TILE % 2;
        load_tile<W>(shared + slot * 2 * SIZE, g.q, row, tile.queries);
        load_tile<W>(shared + slot * 2 * SIZE + SIZE, g.d_out, row, tile.queries);
        load_statistic(statistics + slot * 2 * TILE, g.lse, row, tile.queries);
        load_statistic(statistics + slot * 2 * TILE + TILE, g.delta, row, tile.queries);
        cp_async_commit();
    };
    if (tile.queries > 0) load(0);
    int row = tile.first + at.warp * STEP, left = tile.tokens - row;
    unsigned k[W / 16][4], v[W / 16][4];
    load_operand<W>(k, g.k, row, left, at);
    load_operand<W>(v, g.v, row, left, at);
    float d_k[W / 8][4], d_v[W / 8][4];
#pragma unroll
    for (int n = 0; n < W / 8; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) d_k[n][i] = d_v[n][i] = 0.f;
    }
    for (int query = 0; query < tile.queries; query += TILE) {
        cp_async_wait<0>();
        __syncthreads();  // the queries are there, and no warp reads the previous ones any more
        if (query + TILE < tile.queries) load(query + TILE);
        if (left <= 0) continue;
        const bf16* rows = shared + query / TILE % 2 * 2 * SIZE;
        const float* statistics_at = statistics + query / TILE % 2 * 2 * TILE;
        for (int j = 0; j < min(TILE, tile.queries - query); j += STEP) {
            float p[2][4], d[2][4];
            multiply_transposed<W>(p, k, rows + j * (W + PADDING), at);
            multiply_transposed<W>(d, v, rows + SIZE + j * (W + PADDING), at);
#pragma unroll
            for (int n = 0; n < 2; n++) {
                const float* of_queries = statistics_at + j + n * 8 + at.column;
                float2 lse = *reinterpret_cast<const float2*>(of_queries), delta = *reinterpret_cast<const float2*>(of_queries + TILE);
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    p[n][i] = exp2_approx(p[n][i] * log2_scale - (i % 2 ? lse.y : lse.x));
                    d[n][i] = p[n][i] * (d[n][i] - (i % 2 ? delta.y : delta.x));
                }
            }
            add_product<W>(d_v, p, rows + SIZE + j * (W + PADDING), at);
            add_product<W>(d_k, d, rows + j * (W + PADDING), at);
        }
    }
    if (left <= 0) return;
    store_rows<W>(g.d_k + row * g.pitch, g.pitch, g.k.width, d_k, {scale, scale}, left, at);
    store_rows<W>(g.d_v + row * g.pitch, g.pitch, g.v.width, d_v, {1.f, 1.f}, left, at);
    g.clear_queries(tile, row, left, at);
}

#define ATTENTION_KERNELS(W, BLOCKS)                                                                                                   \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)                                                                      \
    attention_mma_##W(const bf16* qkv /* [T, 3 * D] */, const Tile* tiles, int width, float log2_scale, bf16* out /* [queries, D] */,  \
                      float* lse /* [H, queries] */, int queries) {                                                                    \
        SHARED(bf16, shared);                                                                                                          \
        forward<W>(qkv, tiles[blockIdx.x], width, log2_scale, out, lse, queries, shared);                                              \
    }                                                                                                                                  \
    REGISTER_KERNEL(attention_mma_##W);                                                                                                \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)                                                                      \
    attention_backward_queries_mma_##W(const bf16* d_out /* [queries, D] */, const bf16* qkv /* [T, 3 * D] */,                         \
                                       const float* lse /* [H, queries] */, const float* delta /* [H, queries] */, const Tile* tiles,  \
                                       int width, float log2_scale, float scale, bf16* d_qkv /* [T, 3 * D] */, int queries) {          \
        SHARED(bf16, shared);                                                                                                          \
        Tile tile = tiles[blockIdx.x];                                                                                                 \
        Gradients gradients(d_out, qkv, lse, delta, tile, width, d_qkv, queries);                                                      \
        gradient_of_queries<W>(gradients, tile, log2_scale, scale, shared);                                                            \
    }                                                                                                                                  \
    REGISTER_KERNEL(attention_backward_queries_mma_##W);                                                                               \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                                              \
    attention_backward_keys_mma_##W(const bf16* d_out /* [queries, D] */, const bf16* qkv /* [T, 3 * D] */,                            \
                                    const float* lse /* [H, queries] */, const float* delta /* [H, queries] */, const Tile* tiles,     \
                                    int width, float log2_scale, float scale, bf16* d_qkv /* [T, 3 * D] */, int queries) {             \
        SHARED(bf16, shared);                                                                                                          \
        Tile tile = tiles[blockIdx.x];                                                                                                 \
        Gradients gradients(d_out, qkv, lse, delta, tile, width, d_qkv, queries);                                                      \
        gradient_of_keys<W>(gradients, tile, log2_scale, scale, shared);                                                               \
    }                                                                                                                                  \
    REGISTER_KERNEL(attention_backward_keys_mma_##W)

// The heads of the base model (64 in the encoder, 32 in the decoder) and of the huge one (80), and the widest. On A100 and H100, a
// multiprocessor has as many blocks as its registers allow without spills. ptxas needs more registers for other architectures.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ == 800 || __CUDA_ARCH__ == 900
ATTENTION_KERNELS(32, 5);
ATTENTION_KERNELS(64, 4);
ATTENTION_KERNELS(80, 3);
ATTENTION_KERNELS(128, 2);
#else
ATTENTION_KERNELS(32, 1);
ATTENTION_KERNELS(64, 1);
ATTENTION_KERNELS(80, 1);
ATTENTION_KERNELS(128, 1);
#endif
