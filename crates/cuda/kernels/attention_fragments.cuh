// What the attention kernels with tensor cores share: heads of matrices, and fragments of 16 rows for each warp, whose layout `mma.sync`
// and `wgmma` have in common.
#pragma once
#include "attention.cuh"

// Rows of a warp, and of a step within a tile.
constexpr int STEP = 16;

// One head of a matrix: the address of its first column, the distance of rows, and its width.
struct Head {
    const bf16* first;
    long long pitch;
    int width;
};

// The place of a thread: its warp, its lane, and its row and column in the results of `mma`.
struct Place {
    int warp, lane, row, column;
    __device__ Place() {
        warp = threadIdx.x / WARP_SIZE, lane = threadIdx.x % WARP_SIZE;
        row = lane / 4, column = lane % 4 * 2;
    }
};

// Begins to copy a value for each row of a tile.
static __device__ __forceinline__ void load_statistic(float* to /* [TILE] */, const float* from, int row, int rows) {
    int r = threadIdx.x;
    bool is_inside = row + r < rows;
    if (r < TILE) cp_async<4>(to + r, is_inside ? from + row + r : from, is_inside ? 4 : 0);
}

// Loads 16 rows as the left operand of `mma`; rows from `left` on are zero.
template <int W>
static __device__ __forceinline__ void load_operand(unsigned (&a)[W / 16][4], const Head& from, int row, int left, const Place& at) {
    const bf16* first = from.first + (long long)(row + at.row) * from.pitch + at.column;
#pragma unroll
    for (int s = 0; s < W / 16; s++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int r = i % 2 * 8, c = s * 16 + i / 2 * 8;
            bool is_inside = at.row + r < left && c < from.width;
            a[s][i] = is_inside ? *reinterpret_cast<const unsigned*>(first + r * from.pitch + c) : 0u;
        }
    }
}

// Writes the first `left` of 16 rows; rows 0 to 7 are multiplied by one factor, the others by the second.
template <int W>
static __device__ __forceinline__ void store_rows(bf16* to, long long pitch, int width, const float (&sums)[W / 8][4],
                                                  const float (&factors)[2], int left, const Place& at) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int r = at.row + half * 8;
        if (r >= left) continue;
        unsigned* row = reinterpret_cast<unsigned*>(to + r * pitch + at.column);
#pragma unroll
        for (int n = 0; n < W / 8; n++) {
            if (n * 8 < width) row[n * 4] = pack_bf16(sums[n][2 * half] * factors[half], sums[n][2 * half + 1] * factors[half]);
        }
    }
}

template <int COUNT>
static __device__ __forceinline__ void clear(float (&sums)[COUNT][4]) {
#pragma unroll
    for (int i = 0; i < 4 * COUNT; i++) sums[i / 4][i % 4] = 0.f;
}

// Writes what a warp has computed for 16 queries: the outputs, and the logarithms of the sums to the base 2. `state` has for both halves of the
// rows the largest score and this thread's part of the sum, and the outputs that are not divided by the sums.
template <int W, typename State>
static __device__ __forceinline__ void store_outputs(const State& state, const Tile& tile, int row, int left, int width, long long columns,
                                                     float log2_scale, bf16* out, float* lse, int queries, const Place& at) {
    float factors[2];
    long long out_row = tile.first_query + row;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float sum = state.sum[half];
        sum += __shfl_xor_sync(FULL_MASK, sum, 1);
        sum += __shfl_xor_sync(FULL_MASK, sum, 2);
        factors[half] = 1.f / sum;
        int r = at.row + half * 8;
        if (at.column == 0 && r < left)
            lse[(long long)blockIdx.y * queries + out_row + r] = state.largest[half] * log2_scale + log2f(sum);
    }
    store_rows<W>(out + out_row * columns + blockIdx.y * width, columns, width, state.out, factors, left, at);
}

// What the gradients need: the head of each matrix, from the first row of the sequence on.
struct Gradients {
    Head q, k, v, d_out;
    const float *lse, *delta;
    bf16 *d_q, *d_k, *d_v;
    long long pitch;

    __device__ Gradients(const bf16* d_out_, const bf16* qkv, const float* lse_, const float* delta_, const Tile& tile, int width,
                         bf16* d_qkv, int queries) {
        long long columns = (long long)gridDim.y * width;
        pitch = 3 * columns;
        long long first = tile.first_token * pitch + blockIdx.y * width;
        q = {qkv + first, pitch, width}, k = {q.first + columns, pitch, width}, v = {k.first + columns, pitch, width};
        d_out = {d_out_ + tile.first_query * columns + blockIdx.y * width, columns, width};
        lse = lse_ + (long long)blockIdx.y * queries + tile.first_query;
        delta = delta_ + (long long)blockIdx.y * queries + tile.first_query;
        d_q = d_qkv + first, d_k = d_q + columns, d_v = d_k + columns;
    }

    // Writes zeros for the 16 tokens of a warp from `row` on that have no query: `left` tokens are left.
    __device__ void clear_queries(const Tile& tile, int row, int left, const Place& at) const {
        for (int r = max(tile.queries - row, 0); r < min(left, STEP); r++) {
            for (int c = at.lane * 8; c < q.width; c += WARP_SIZE * 8)
                *reinterpret_cast<uint4*>(d_q + (row + r) * pitch + c) = make_uint4(0u, 0u, 0u, 0u);
        }
    }
};
