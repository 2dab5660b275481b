// Softmax attention within packed sequences and its gradients with products of warpgroups (`wgmma`, Hopper), in bf16 with f32 sums.
//
// The loops are those of `attention_mma.cu`: a block has 64 queries or keys of one head, and a loop over tiles of 64 rows of the other
// matrices, which come by asynchronous copies into two buffers; no sum needs atomics. Here the four warps are one warpgroup, whose products
// have 64 rows, and read the tiles from shared memory through matrix descriptors. Several blocks of a multiprocessor overlap products of
// one with exponentials of others. A tile serves as K-major and as MN-major operand: it has panels of 64, 32 or 16 columns, whose rows are
// swizzled. Copies with 16 bytes for each thread write that layout directly, and zeros behind the end of a sequence, so that no tensor map
// is needed. The last tile of a sequence ends at a multiple of 16 rows: the products with it have that many columns or terms.
#include "attention_fragments.cuh"
#include "hopper.cuh"

constexpr int THREADS = 128;

// A number of rows or columns that is known when a kernel is compiled.
template <int VALUE>
struct Constant {};

// Calls `f` with the number of rows of a tile, of which `left` are left: the next multiple of 16.
template <class Function>
static __device__ __forceinline__ void with_rows(int left, Function f) {
    if (left > 48) f(Constant<64>());
    else if (left > 32) f(Constant<48>());
    else if (left > 16) f(Constant<32>());
    else f(Constant<16>());
}

// The layout of a tile with W columns.
template <int W>
struct Panels {
    static constexpr int COLUMNS = W % 64 == 0 ? 64 : W % 32 == 0 ? 32 : 16, COUNT = W / COLUMNS;
    static constexpr int ROW_BYTES = 2 * COLUMNS, EIGHT_ROWS = 8 * ROW_BYTES, BYTES = TILE * ROW_BYTES;
    static constexpr Swizzle SWIZZLE = COLUMNS == 64 ? Swizzle::BYTES_128 : COLUMNS == 32 ? Swizzle::BYTES_64 : Swizzle::BYTES_32;
    // Values of a tile.
    static constexpr int SIZE = TILE * W;

    // Describes a tile. As K-major operand it has no leading offset; as MN-major operand, that is the distance of panels.
    static __device__ __forceinline__ unsigned long long descriptor(const bf16* tile) {
        return matrix_descriptor(tile, BYTES, EIGHT_ROWS, SWIZZLE);
    }
    // The 16 columns of step `step` of all rows, which are K of a product.
    static __device__ __forceinline__ unsigned long long columns(unsigned long long tile, int step) {
        return advance(tile, step * STEP / COLUMNS * BYTES + step * STEP % COLUMNS * 2);
    }
    // The 16 rows of step `step`, which are K of a product.
    static __device__ __forceinline__ unsigned long long rows(unsigned long long tile, int step) {
        return advance(tile, step * STEP * ROW_BYTES);
    }
};

// Begins to copy the rows from `row` on, up to a tile; behind the last of `rows` rows, zeros complete 16 rows.
template <int W>
static __device__ __forceinline__ void load_tile(bf16* tile /* [TILE, W] */, const Head& from, int row, int rows) {
    using P = Panels<W>;
    constexpr int PARTS = P::ROW_BYTES / 16;
    const bf16* first = from.first + row * from.pitch;
    int left = rows - row, count = min(TILE, (left + STEP - 1) / STEP * STEP) * PARTS;
    for (int i = threadIdx.x; i < count; i += THREADS) {
        int r = i / PARTS, part = i % PARTS;
        unsigned char* to = reinterpret_cast<unsigned char*>(tile) + swizzled<P::ROW_BYTES>(r, part);
#pragma unroll
        for (int panel = 0; panel < P::COUNT; panel++) {
            int c = panel * P::COLUMNS + part * 8;
            bool is_inside = r < left && c < from.width;
            cp_async<16>(to + panel * P::BYTES, is_inside ? first + r * from.pitch + c : first, is_inside ? 16 : 0);
        }
    }
}

// Waits until the copies of all threads are there, for products too, and no warp reads the previous tile any more.
static __device__ __forceinline__ void wait_for_tile() {
    cp_async_wait<0>();
    fence_proxy_async();
    __syncthreads();
}

// product [64, N] = a [64, W] * tile [N, W]^T, not waited for
template <int W, int COUNT>
static __device__ __forceinline__ void multiply_transposed(float (&product)[COUNT][4], const unsigned (&a)[W / 16][4],
                                                           unsigned long long tile) {
#pragma unroll
    for (int s = 0; s < W / STEP; s++) wgmma<false>(product, a[s], Panels<W>::columns(tile, s), s > 0);
}
template <int W, int COUNT>
static __device__ __forceinline__ void multiply_transposed(float (&product)[COUNT][4], unsigned long long a, unsigned long long tile) {
#pragma unroll
    for (int s = 0; s < W / STEP; s++) wgmma<false>(product, Panels<W>::columns(a, s), Panels<W>::columns(tile, s), s > 0);
}

// sums [64, W] += a [64, N] * tile [N, W], not waited for
template <int W, int STEPS>
static __device__ __forceinline__ void add_product(float (&sums)[W / 8][4], const unsigned (&a)[STEPS][4], unsigned long long tile) {
#pragma unroll
    for (int j = 0; j < STEPS; j++) wgmma<true>(sums, a[j], Panels<W>::rows(tile, j), true);
}

// The fragments of a product, rounded, as the left operand of another.
template <int STEPS>
static __device__ __forceinline__ void round_fragments(unsigned (&to)[STEPS][4], const float (&from)[2 * STEPS][4]) {
#pragma unroll
    for (int i = 0; i < 4 * STEPS; i++) {
        const float(&values)[4] = from[i / 4 * 2 + i / 2 % 2];
        to[i / 4][i % 4] = pack_bf16(values[i % 2 * 2], values[i % 2 * 2 + 1]);
    }
}

// The forward pass of 16 queries: their unscaled outputs, and the largest score and the sum of probabilities of rows `row` and `row + 8`.
template <int W>
struct Queries {
    unsigned q[W / 16][4];
    float out[W / 8][4], largest[2], sum[2];

    // Adds the keys of a tile, of which `left` are left; if not MASKED, at least N.
    template <bool MASKED, int N>
    __device__ __forceinline__ void add_keys(Constant<N>, unsigned long long k, unsigned long long v, int left, float log2_scale,
                                             const Place& at) {
        float p[N / 8][4], before[2] = {largest[0], largest[1]}, offset[2];
        wgmma_fence(p, q);
        multiply_transposed<W>(p, q, k);
        wgmma_commit();
        wgmma_wait<0>(p);
#pragma unroll
        for (int i = 0; i < N / 2; i++) {
            float& score = p[i / 4][i % 4];
            if (MASKED && i / 4 * 8 + at.column + i % 2 >= left) score = -INFINITY;
            largest[i / 2 % 2] = fmaxf(largest[i / 2 % 2], score);
        }
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
        for (int i = 0; i < N / 2; i++) {
            float probability = exp2_approx(p[i / 4][i % 4] * log2_scale - offset[i / 2 % 2]);
            p[i / 4][i % 4] = probability;
            sum[i / 2 % 2] += probability;
        }
        unsigned rounded[N / 16][4];
        round_fragments(rounded, p);
        wgmma_fence(out, rounded);
        add_product<W>(out, rounded, v);
        wgmma_commit();
        wgmma_wait<0>(out);
    }
};

template <int W>
static __device__ __forceinline__ void forward(const bf16* qkv, Tile tile, int width, float log2_scale, bf16* out, float* lse,
                                               int queries, bf16* shared /* [2, 2, TILE, W] */) {
    using P = Panels<W>;
    Place at;
    long long columns = (long long)gridDim.y * width, pitch = 3 * columns;
    const bf16* first = qkv + tile.first_token * pitch + blockIdx.y * width;
    Head q = {first, pitch, width}, k = {first + columns, pitch, width}, v = {first + 2 * columns, pitch, width};
    auto load = [&](int row) {
        bf16* to = shared + row / TILE % 2 * 2 * P::SIZE;
        load_tile<W>(to, k, row, tile.tokens);
        load_tile<W>(to + P::SIZE, v, row, tile.tokens);
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
        wait_for_tile();
        if (key + TILE < tile.tokens) load(key + TILE);
        const bf16* keys = shared + key / TILE % 2 * 2 * P::SIZE;
        unsigned long long of_k = P::descriptor(keys), of_v = P::descriptor(keys + P::SIZE);
        int keys_left = tile.tokens - key;
        if (keys_left >= TILE) state.template add_keys<false>(Constant<TILE>(), of_k, of_v, keys_left, log2_scale, at);
        else with_rows(keys_left, [&](auto n) { state.template add_keys<true>(n, of_k, of_v, keys_left, log2_scale, at); });
    }
    store_outputs<W>(state, tile, row, left, width, columns, log2_scale, out, lse, queries, at);
}

// The gradients of 16 queries of a warp.
template <int W>
struct QueryGradients {
    unsigned q[W / 16][4], d_out[W / 16][4];
    float sums[W / 8][4], lse[2], delta[2];

    // Adds the keys of a tile, of which `left` are left; if not MASKED, at least N.
    template <bool MASKED, int N>
    __device__ __forceinline__ void add_keys(Constant<N>, unsigned long long k, unsigned long long v, int left, float log2_scale,
                                             const Place& at) {
        float p[N / 8][4], d[N / 8][4];
        wgmma_fence(p, d, q, d_out);
        multiply_transposed<W>(p, q, k);
        multiply_transposed<W>(d, d_out, v);
        wgmma_commit();
        wgmma_wait<0>(p, d);
#pragma unroll
        for (int i = 0; i < N / 2; i++) {
            int half = i / 2 % 2;
            float probability = exp2_approx(p[i / 4][i % 4] * log2_scale - lse[half]);
            // Keys behind the end have scores of zero, whose probabilities may be infinite.
            bool is_key = !MASKED || i / 4 * 8 + at.column + i % 2 < left;
            d[i / 4][i % 4] = is_key ? probability * (d[i / 4][i % 4] - delta[half]) : 0.f;
        }
        unsigned rounded[N / 16][4];
        round_fragments(rounded, d);
        wgmma_fence(sums, rounded);
        add_product<W>(sums, rounded, k);
        wgmma_commit();
        wgmma_wait<0>(sums);
    }
};

// The gradients of 64 queries, in a loop over tiles of keys.
template <int W>
static __device__ __forceinline__ void gradient_of_queries(const Gradients& g, const Tile& tile, float log2_scale, float scale,
                                                           bf16* shared /* [2, 2, TILE, W] */) {
    using P = Panels<W>;
    Place at;
    auto load = [&](int row) {
        bf16* to = shared + row / TILE % 2 * 2 * P::SIZE;
        load_tile<W>(to, g.k, row, tile.tokens);
        load_tile<W>(to + P::SIZE, g.v, row, tile.tokens);
        cp_async_commit();
    };
    load(0);
    int row = tile.first + at.warp * STEP, left = tile.queries - row;
    QueryGradients<W> state;
    load_operand<W>(state.q, g.q, row, left, at);
    load_operand<W>(state.d_out, g.d_out, row, left, at);
    clear(state.sums);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int r = at.row + half * 8;
        state.lse[half] = r < left ? g.lse[row + r] : 0.f;
        state.delta[half] = r < left ? g.delta[row + r] : 0.f;
    }
    for (int key = 0; key < tile.tokens; key += TILE) {
        wait_for_tile();
        if (key + TILE < tile.tokens) load(key + TILE);
        const bf16* keys = shared + key / TILE % 2 * 2 * P::SIZE;
        unsigned long long of_k = P::descriptor(keys), of_v = P::descriptor(keys + P::SIZE);
        int keys_left = tile.tokens - key;
        if (keys_left >= TILE) state.template add_keys<false>(Constant<TILE>(), of_k, of_v, keys_left, log2_scale, at);
        else with_rows(keys_left, [&](auto n) { state.template add_keys<true>(n, of_k, of_v, keys_left, log2_scale, at); });
    }
    store_rows<W>(g.d_q + row * g.pitch, g.pitch, g.q.width, state.sums, {scale, scale}, left, at);
}

// The gradients of 16 keys and values of a warp. Scores and their gradients are transposed: rows are keys. Queries behind the end have rows
// of zeros in all matrices, so they add nothing.
template <int W>
struct KeyGradients {
    // Descriptors of the tiles with the keys and values of the block: registers would limit the number of blocks.
    unsigned long long k, v;
    float d_k[W / 8][4], d_v[W / 8][4];

    template <int N>
    __device__ __forceinline__ void add_queries(Constant<N>, unsigned long long q, unsigned long long d_out,
                                                const float* statistics /* [2, TILE] */, float log2_scale, const Place& at) {
        float p[N / 8][4], d[N / 8][4];
        wgmma_fence(p, d);
        multiply_transposed<W>(p, k, q);
        multiply_transposed<W>(d, v, d_out);
        wgmma_commit();
        wgmma_wait<0>(p, d);
#pragma unroll
        for (int n = 0; n < N / 8; n++) {
            const float* of_queries = statistics + n * 8 + at.column;
            float2 lse = *reinterpret_cast<const float2*>(of_queries), delta = *reinterpret_cast<const float2*>(of_queries + TILE);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                p[n][i] = exp2_approx(p[n][i] * log2_scale - (i % 2 ? lse.y : lse.x));
                d[n][i] = p[n][i] * (d[n][i] - (i % 2 ? delta.y : delta.x));
            }
        }
        unsigned rounded_p[N / 16][4], rounded_d[N / 16][4];
        round_fragments(rounded_p, p);
        round_fragments(rounded_d, d);
        wgmma_fence(d_v, d_k, rounded_p, rounded_d);
        add_product<W>(d_v, rounded_p, d_out);
        add_product<W>(d_k, rounded_d, q);
        wgmma_commit();
        wgmma_wait<0>(d_v, d_k);
    }
};

// The gradients of 64 keys and values, in a loop over tiles of queries.
template <int W>
static __device__ __forceinline__ void gradient_of_keys(const Gradients& g, const Tile& tile, float log2_scale, float scale,
                                                        bf16* shared /* [3, 2, TILE, W], then f32 [2, 2, TILE] */) {
    using P = Panels<W>;
    bf16* own = shared + 4 * P::SIZE;
    float* statistics = reinterpret_cast<float*>(shared + 6 * P::SIZE);
    Place at;
    auto load = [&](int row) {
        int slot = row / TILE % 2;
        load_tile<W>(shared + slot * 2 * P::SIZE, g.q, row, tile.queries);
        load_tile<W>(shared + slot * 2 * P::SIZE + P::SIZE, g.d_out, row, tile.queries);
        load_statistic(statistics + slot * 2 * TILE, g.lse, row, tile.queries);
        load_statistic(statistics + slot * 2 * TILE + TILE, g.delta, row, tile.queries);
        cp_async_commit();
    };
    int row = tile.first + at.warp * STEP, left = tile.tokens - row;
    // Rows behind the end are not written: their gradients are not stored.
    load_tile<W>(own, g.k, tile.first, tile.tokens);
    load_tile<W>(own + P::SIZE, g.v, tile.first, tile.tokens);
    if (tile.queries > 0) load(0);
    KeyGradients<W> state;
    state.k = P::descriptor(own), state.v = P::descriptor(own + P::SIZE);
    clear(state.d_k);
    clear(state.d_v);
    for (int query = 0; query < tile.queries; query += TILE) {
        wait_for_tile();
        if (query + TILE < tile.queries) load(query + TILE);
        int slot = query / TILE % 2;
        const bf16* rows = shared + slot * 2 * P::SIZE;
        unsigned long long of_q = P::descriptor(rows), of_d_out = P::descriptor(rows + P::SIZE);
        with_rows(tile.queries - query,
                  [&](auto n) { state.add_queries(n, of_q, of_d_out, statistics + slot * 2 * TILE, log2_scale, at); });
    }
    if (left <= 0) return;
    store_rows<W>(g.d_k + row * g.pitch, g.pitch, g.k.width, state.d_k, {scale, scale}, left, at);
    store_rows<W>(g.d_v + row * g.pitch, g.pitch, g.v.width, state.d_v, {1.f, 1.f}, left, at);
    g.clear_queries(tile, row, left, at);
}

// Blocks of a multiprocessor in the forward pass, for the gradient of queries, and for that of keys and values: as many as registers allow
// without spills, with which ptxas would execute the products one after the other.
#define ATTENTION_KERNELS(W, FORWARD, QUERIES, KEYS)                                                                                   \
    extern "C" __global__ void __launch_bounds__(THREADS, FORWARD)                                                                     \
    attention_wgmma_##W(const bf16* qkv /* [T, 3 * D] */, const Tile* tiles, int width, float log2_scale, bf16* out /* [queries, D] */,\
                        float* lse /* [H, queries] */, int queries) {                                                                  \
        SHARED_SWIZZLED(bf16, shared);                                                                                                 \
        forward<W>(qkv, tiles[blockIdx.x], width, log2_scale, out, lse, queries, shared);                                              \
    }                                                                                                                                  \
    REGISTER_KERNEL(attention_wgmma_##W);                                                                                              \
    extern "C" __global__ void __launch_bounds__(THREADS, QUERIES)                                                                     \
    attention_backward_queries_wgmma_##W(const bf16* d_out /* [queries, D] */, const bf16* qkv /* [T, 3 * D] */,                       \
                                         const float* lse /* [H, queries] */, const float* delta /* [H, queries] */,                   \
                                         const Tile* tiles, int width, float log2_scale, float scale, bf16* d_qkv /* [T, 3 * D] */,    \
                                         int queries) {                                                                                \
        SHARED_SWIZZLED(bf16, shared);                                                                                                 \
        Tile tile = tiles[blockIdx.x];                                                                                                 \
        Gradients gradients(d_out, qkv, lse, delta, tile, width, d_qkv, queries);                                                      \
        gradient_of_queries<W>(gradients, tile, log2_scale, scale, shared);                                                            \
    }                                                                                                                                  \
    REGISTER_KERNEL(attention_backward_queries_wgmma_##W);                                                                             \
    extern "C" __global__ void __launch_bounds__(THREADS, KEYS)                                                                        \
    attention_backward_keys_wgmma_##W(const bf16* d_out /* [queries, D] */, const bf16* qkv /* [T, 3 * D] */,                          \
                                      const float* lse /* [H, queries] */, const float* delta /* [H, queries] */, const Tile* tiles,   \
                                      int width, float log2_scale, float scale, bf16* d_qkv /* [T, 3 * D] */, int queries) {           \
        SHARED_SWIZZLED(bf16, shared);                                                                                                 \
        Tile tile = tiles[blockIdx.x];                                                                                                 \
        Gradients gradients(d_out, qkv, lse, delta, tile, width, d_qkv, queries);                                                      \
        gradient_of_keys<W>(gradients, tile, log2_scale, scale, shared);                                                               \
    }                                                                                                                                  \
    REGISTER_KERNEL(attention_backward_keys_wgmma_##W)

// The heads of the base model (64 in the encoder, 32 in the decoder) and of the huge one (80), and the widest.
ATTENTION_KERNELS(32, 5, 4, 3);
ATTENTION_KERNELS(64, 4, 3, 3);
ATTENTION_KERNELS(80, 3, 2, 2);
ATTENTION_KERNELS(128, 2, 2, 2);
