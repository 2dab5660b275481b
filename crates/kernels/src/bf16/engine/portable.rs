//! An engine in plain Rust, for tests on any CPU. Tests compare the other engines with it.

use super::{BLOCK, Beta, Bf16, SIDE, TileEngine};

/// Multiplies in plain Rust, in the order of additions of AMX.
pub struct Portable;

/// Side of an AMX tile of f32 values.
const TILE: usize = 16;

/// Emulates the AMX instruction `tdpbf16ps`: `dst[16×16] += lhs[16×32]·rhs`. Row `p` of `rhs` holds rows `2p` and `2p+1` of a matrix
/// `[32, 16]`, interleaved. Even and odd inner elements are summed separately; then both sums are added.
pub fn tdpbf16ps(dst: &mut [[f32; TILE]; TILE], lhs: &[[Bf16; 2 * TILE]; TILE], rhs: &[[Bf16; 2 * TILE]; TILE]) {
    let mut rhs_f32 = [[0f32; 2 * TILE]; TILE];
    for (row_f32, row) in rhs_f32.iter_mut().zip(rhs) {
        for (out, value) in row_f32.iter_mut().zip(row) {
            *out = value.to_f32();
        }
    }
    for (dst, lhs) in dst.iter_mut().zip(lhs) {
        let mut sums = [0f32; 2 * TILE];
        for (rhs, pair) in rhs_f32.iter().zip(lhs.as_chunks::<2>().0) {
            let pair = pair.map(Bf16::to_f32);
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum += pair[i % 2] * rhs[i];
            }
        }
        for (dst, [even, odd]) in dst.iter_mut().zip(sums.as_chunks().0) {
            *dst += even + odd;
        }
    }
}

impl TileEngine for Portable {
    unsafe fn gemm_block(
        lhs: *const Bf16,
        rhs: *const Bf16,
        _rows: usize,
        k_blocks: usize,
        dst: *mut f32,
        beta: Beta,
        _prefetch: [*const Bf16; 2],
        vector_work: impl FnMut(usize),
    ) {
        // SAFETY: the operands are valid for `k_blocks` blocks, `dst` for one block (caller).
        let (lhs, rhs, dst) = unsafe {
            (
                std::slice::from_raw_parts(lhs, k_blocks * BLOCK),
                std::slice::from_raw_parts(rhs, k_blocks * BLOCK),
                std::slice::from_raw_parts_mut(dst, BLOCK),
            )
        };
        // A block of either operand is two tiles of 16 rows: the upper and lower rows of lhs, the left and right columns of rhs.
        let tiles = |block: &[Bf16]| -> [[[Bf16; 2 * TILE]; TILE]; 2] {
            std::array::from_fn(|tile| {
                std::array::from_fn(|row| std::array::from_fn(|i| block[(tile * TILE + row) * SIDE + i]))
            })
        };
        let mut sums = [[[[0f32; TILE]; TILE]; 2]; 2];
        let offset = |i: usize, j: usize, r: usize| (i * TILE + r) * SIDE + j * TILE;
        if beta == Beta::One {
            for (i, j, r) in tile_rows() {
                sums[i][j][r].copy_from_slice(&dst[offset(i, j, r)..][..TILE]);
            }
        }
        for (lhs, rhs) in lhs.chunks_exact(BLOCK).zip(rhs.chunks_exact(BLOCK)) {
            let (lhs, rhs) = (tiles(lhs), tiles(rhs));
            for (sums, lhs) in sums.iter_mut().zip(&lhs) {
                for (sums, rhs) in sums.iter_mut().zip(&rhs) {
                    tdpbf16ps(sums, lhs, rhs);
                }
            }
        }
        for (i, j, r) in tile_rows() {
            dst[offset(i, j, r)..][..TILE].copy_from_slice(&sums[i][j][r]);
        }
        (0..k_blocks).for_each(vector_work);
    }
}

/// Iterates over the rows of the four tiles of a block: (row of tiles, column of tiles, row in the tile).
fn tile_rows() -> impl Iterator<Item = (usize, usize, usize)> {
    (0..4 * TILE).map(|i| (i / (2 * TILE), i / TILE % 2, i % TILE))
}
