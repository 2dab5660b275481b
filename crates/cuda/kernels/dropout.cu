// Dropout with the mask of the CPU: value c of row r is zero if word c of ChaCha8 (Bernstein 2008) with stream r is below a threshold.
//
// A thread computes one block of ChaCha8, the mask of 16 adjacent values; a warp has 512 values, and gets the mask of each group of four
// by a shuffle, so that loads and stores are coalesced. 24 operations of the mask for each value that is read and written.
#include "device.cuh"

// Values of one block of ChaCha8, and of a warp.
constexpr int BLOCK_VALUES = 16, WARP_VALUES = 512;

static __device__ __forceinline__ unsigned rotate(unsigned v, int bits) { return v << bits | v >> (32 - bits); }

static __device__ __forceinline__ void quarter_round(unsigned& a, unsigned& b, unsigned& c, unsigned& d) {
    a += b, d = rotate(d ^ a, 16);
    c += d, b = rotate(b ^ c, 12);
    a += b, d = rotate(d ^ a, 8);
    c += d, b = rotate(b ^ c, 7);
}

// Returns 16 bits: bit i is set if word i of the block is at least the threshold.
static __device__ __forceinline__ unsigned kept_values(const unsigned (&key)[8], unsigned block, unsigned stream, unsigned threshold) {
    // "expand 32-byte k", the key, and block and stream as 64-bit numbers.
    const unsigned input[16] = {0x61707865u, 0x3320646eu, 0x79622d32u, 0x6b206574u, key[0], key[1], key[2], key[3],
                                key[4],      key[5],      key[6],      key[7],      block,  0,      stream, 0};
    unsigned v[16];
#pragma unroll
    for (int i = 0; i < 16; i++) v[i] = input[i];
#pragma unroll
    for (int round = 0; round < 8; round += 2) {
        for (int i = 0; i < 4; i++) quarter_round(v[i], v[4 + i], v[8 + i], v[12 + i]);
        for (int i = 0; i < 4; i++) quarter_round(v[i], v[4 + (i + 1) % 4], v[8 + (i + 2) % 4], v[12 + (i + 3) % 4]);
    }
    unsigned kept = 0;
#pragma unroll
    for (int i = 0; i < 16; i++) kept |= (v[i] + input[i] >= threshold ? 1u : 0u) << i;
    return kept;
}

// y = x * scale where a value is kept, else 0. `x` and `y` may be the same matrix.
extern "C" __global__ void __launch_bounds__(256)
dropout_f32(const float* x /* [T, D] */, float* y /* [T, D] */, long long key0, long long key1, long long key2, long long key3,
            int threshold /* an unsigned number */, float scale, int rows, int width, int warps_per_row) {
    int warp = blockIdx.x * (blockDim.x / WARP_SIZE) + threadIdx.x / WARP_SIZE, lane = threadIdx.x % WARP_SIZE;
    int row = warp / warps_per_row, first = warp % warps_per_row * WARP_VALUES;
    if (row >= rows) return;
    const unsigned key[8] = {(unsigned)key0, (unsigned)(key0 >> 32), (unsigned)key1, (unsigned)(key1 >> 32),
                             (unsigned)key2, (unsigned)(key2 >> 32), (unsigned)key3, (unsigned)(key3 >> 32)};
    unsigned kept = 0;
    if (first + BLOCK_VALUES * lane < width) kept = kept_values(key, first / BLOCK_VALUES + lane, row, (unsigned)threshold);
    for (int i = 0; i < WARP_VALUES; i += 4 * WARP_SIZE) {
        int c = i + 4 * lane, left = width - first - c;
        unsigned mask = __shfl_sync(FULL_MASK, kept, c / BLOCK_VALUES) >> c % BLOCK_VALUES;
        if (left <= 0) continue;
        long long at = (long long)row * width + first + c;
        float4 v = load4(x + at, left);
        v = make_float4(mask & 1 ? v.x * scale : 0.f, mask & 2 ? v.y * scale : 0.f, mask & 4 ? v.z * scale : 0.f,
                        mask & 8 ? v.w * scale : 0.f);
        store4(y + at, left, v);
    }
}
REGISTER_KERNEL(dropout_f32);
