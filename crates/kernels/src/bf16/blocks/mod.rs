//! Matrices in blocks of 32 × 32 values, and packing.
//!
//! Blocks are stored row by row. A block is row-major, takes 2 KiB, and is padded with zeros at the edges of the matrix: element (r, c) has
//! the index `((r/32)·⌈columns/32⌉ + c/32)·1024 + (r%32)·32 + c%32`. A row of blocks is already a packed lhs. A packed rhs `[k, n]` also
//! consists of blocks. Each of them holds 32 rows and 32 columns as two tiles of 16 columns. Row p of a tile holds rows 2p and 2p+1 of the
//! matrix, interleaved, as AMX and `vdpbf16ps` require.

mod pack;

use super::engine::assert_supported;
pub use super::engine::{BLOCK, SIDE};
use super::number::Bf16;
use crate::gather::NONE;
use crate::parallel::SharedMut;
pub(super) use pack::*;
use rayon::prelude::*;
use std::ops::Range;

/// Number of pairs of rows in a block.
pub(super) const PAIRS: usize = SIDE / 2;

/// A block that is aligned to a cache line.
#[repr(C, align(64))]
pub(super) struct Aligned(pub [Bf16; BLOCK]);

impl Default for Aligned {
    fn default() -> Self {
        Self([Bf16::default(); BLOCK])
    }
}

/// Returns the number of elements of a matrix `[rows, columns]`, including padding.
///
/// # Panics
/// If the number overflows.
pub fn len(rows: usize, columns: usize) -> usize {
    let blocks = rows.div_ceil(SIDE).checked_mul(columns.div_ceil(SIDE));
    match blocks.and_then(|blocks| blocks.checked_mul(BLOCK)) {
        Some(len) => len,
        None => panic!("the size of a {rows} × {columns} matrix overflows"),
    }
}

/// Checks the safety requirements of the kernels, which access whole cache lines with instructions that not every CPU has.
///
/// # Panics
/// If `data` is too short for a matrix `[rows, columns]` or not aligned to a cache line, or [`engine`](super::engine::engine) returns
/// `None`.
pub(super) fn check(data: &[Bf16], rows: usize, columns: usize) {
    assert!(data.len() >= len(rows, columns), "slice too short for the matrix");
    let aligned = data.as_ptr().cast::<Aligned>().is_aligned();
    assert!(data.is_empty() || aligned, "matrix is not aligned to a cache line");
    assert_supported();
}

/// A view of a matrix in blocks.
#[derive(Clone, Copy)]
pub struct Blocks<'a> {
    data: &'a [Bf16],
    rows: usize,
    columns: usize,
}

impl<'a> Blocks<'a> {
    /// Makes a view of a matrix `[rows, columns]`.
    ///
    /// # Panics
    /// If the slice is too short or not 64-byte aligned, or the CPU has no bfloat16 engine.
    pub fn new(data: &'a [Bf16], rows: usize, columns: usize) -> Self {
        check(data, rows, columns);
        Self { data, rows, columns }
    }

    /// Number of rows, without padding.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns, without padding.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Number of rows of blocks, `⌈rows/32⌉`.
    pub fn row_blocks(&self) -> usize {
        self.rows.div_ceil(SIDE)
    }

    /// Number of columns of blocks, `⌈columns/32⌉`.
    pub fn column_blocks(&self) -> usize {
        self.columns.div_ceil(SIDE)
    }

    /// The elements from (`row`, `column`) to the end of their block.
    pub(super) fn block_tail(&self, row: usize, column: usize) -> &'a [Bf16] {
        let block = &self.blocks_from(row / SIDE, column / SIDE)[..BLOCK];
        &block[row % SIDE * SIDE + column % SIDE..]
    }

    /// The blocks that cover these rows and columns, as one contiguous slice for each row of blocks.
    pub(super) fn contiguous_runs(
        self,
        rows: Range<usize>,
        columns: Range<usize>,
    ) -> impl Iterator<Item = &'a [Bf16]> + Clone {
        let columns = columns.start / SIDE..columns.end.div_ceil(SIDE);
        let rows = rows.start / SIDE..rows.end.div_ceil(SIDE);
        rows.map(move |row| &self.blocks_from(row, columns.start)[..columns.len() * BLOCK])
    }

    /// The blocks from (`row_block`, `column_block`) on, row by row.
    pub(super) fn blocks_from(&self, row_block: usize, column_block: usize) -> &'a [Bf16] {
        &self.data[(row_block * self.column_blocks() + column_block) * BLOCK..]
    }
}

/// Rounds a row-major matrix to bfloat16, in blocks.
///
/// # Panics
/// If the sizes do not fit, `out` is not 64-byte aligned, or the CPU has no bfloat16 engine.
pub fn from_f32(x: &[f32], rows: usize, columns: usize, out: &mut [Bf16]) {
    check(out, rows, columns);
    assert!(x.len() >= rows * columns, "slice too short for the matrix");
    let column_blocks = columns.div_ceil(SIDE);
    out[..len(rows, columns)]
        .par_chunks_mut((column_blocks * BLOCK).max(1))
        .enumerate()
        .for_each(|(i, out)| {
            let first = i * SIDE;
            let x = &x[first * columns..];
            // SAFETY: `check` has found an engine and checked the length of `out`; the assert has checked the length of `x`.
            unsafe { block_row_from_f32(x.as_ptr(), SIDE.min(rows - first), columns, columns, out.as_mut_ptr()) };
        });
}

/// Zeroes the padding of a matrix.
pub(super) fn zero_padding(data: &mut [Bf16], rows: usize, columns: usize) {
    let column_blocks = columns.div_ceil(SIDE);
    for (i, block) in data[..len(rows, columns)].chunks_exact_mut(BLOCK).enumerate() {
        let valid_rows = SIDE.min(rows - i / column_blocks * SIDE);
        let valid_columns = SIDE.min(columns - i % column_blocks * SIDE);
        block[valid_rows * SIDE..].fill(Bf16::default());
        if valid_columns < SIDE {
            block
                .chunks_exact_mut(SIDE)
                .for_each(|row| row[valid_columns..].fill(Bf16::default()));
        }
    }
}

/// Converts a matrix in blocks to a row-major f32 matrix.
///
/// # Panics
/// If `out` has another number of elements than `x`.
pub fn to_f32(x: Blocks, out: &mut [f32]) {
    assert_eq!(out.len(), x.rows * x.columns);
    out.par_chunks_mut((SIDE * x.columns).max(1))
        .enumerate()
        .for_each(|(i, out)| {
            for (r, row) in out.chunks_mut(x.columns).enumerate() {
                for (c, values) in row.chunks_mut(SIDE).enumerate() {
                    for (value, element) in values.iter_mut().zip(&x.blocks_from(i, c)[r * SIDE..]) {
                        *value = element.to_f32();
                    }
                }
            }
        });
}

/// Copies rows of matrices in blocks to a matrix `[n, columns]` in blocks. Each matrix comes with `n` row indices. Row `i` of the result is
/// row `rows[i]` of the only matrix whose `rows[i]` is not [`NONE`].
///
/// # Panics
/// If the matrices differ in their number of columns, the lists differ in length, an index is out of range, there is no matrix, or `out`
/// is too short or not 64-byte aligned.
pub fn gather_rows(picks: &[(Blocks, &[u32])], out: &mut [Bf16]) {
    let (columns, n) = (picks[0].0.columns, picks[0].1.len());
    for (from, rows) in picks {
        assert!(from.columns == columns && rows.len() == n, "picks of different shapes");
        let is_inside = |row: &u32| *row == NONE || (*row as usize) < from.rows;
        assert!(rows.iter().all(is_inside), "row outside the matrix");
    }
    check(out, n, columns);
    let column_blocks = columns.div_ceil(SIDE);
    out[..len(n, columns)]
        .par_chunks_mut((column_blocks * BLOCK).max(1))
        .enumerate()
        .for_each(|(i, out)| {
            for (c, block) in out.chunks_exact_mut(BLOCK).enumerate() {
                block[SIDE.min(n - i * SIDE) * SIDE..].fill(Bf16::default());
                for (from, rows) in picks {
                    for (row, out) in rows[i * SIDE..].iter().zip(block.chunks_exact_mut(SIDE)) {
                        if *row != NONE {
                            out.copy_from_slice(&from.block_tail(*row as usize, c * SIDE)[..SIDE]);
                        }
                    }
                }
            }
        });
}

/// Applies a function to each block of `x` and writes the transpose `[columns, rows]` of the result, in blocks. The function
/// `block_of(row_block, column_block, buffer)` returns the block of `x` itself, or a block that it has written to `buffer`.
fn transpose_map(x: Blocks, out: &mut [Bf16], block_of: impl Fn(usize, usize, &mut Aligned) -> *const Bf16 + Sync) {
    let (row_blocks, column_blocks) = (x.row_blocks(), x.column_blocks());
    check(out, x.columns, x.rows);
    let out = SharedMut::new(out);
    (0..row_blocks).into_par_iter().for_each(|r| {
        let mut buffer = Aligned::default();
        for c in 0..column_blocks {
            // SAFETY: both are aligned blocks, and `check` has found an engine; each block of the result is written once.
            unsafe { transpose_block(block_of(r, c, &mut buffer), out.ptr_at((c * row_blocks + r) * BLOCK)) };
        }
    });
}

/// Writes the transpose `[columns, rows]` of `x`, in blocks.
///
/// # Panics
/// If `out` is too short or not 64-byte aligned.
pub fn transpose(x: Blocks, out: &mut [Bf16]) {
    transpose_map(x, out, |r, c, _| x.blocks_from(r, c).as_ptr());
}

/// Writes the transpose `[columns, rows]` of `x·w + b`, in blocks: the output of a layer norm, from its normalised rows `x`.
///
/// # Panics
/// If the sizes do not fit, or `out` is not 64-byte aligned.
pub fn transpose_scaled(x: Blocks, w: &[f32], b: &[f32], out: &mut [Bf16]) {
    assert!(
        w.len() == x.columns && b.len() == x.columns,
        "scale or shift of another width"
    );
    transpose_map(x, out, |r, c, buffer| {
        let columns = SIDE.min(x.columns - c * SIDE);
        let (w, b) = (&w[c * SIDE..][..columns], &b[c * SIDE..][..columns]);
        // SAFETY: `check` has found an engine; both are aligned blocks, and `w` and `b` have at most 32 values.
        unsafe { affine_block(x.blocks_from(r, c), w, b, SIDE.min(x.rows - r * SIDE), &mut buffer.0) };
        buffer.0.as_ptr()
    });
}

/// Adds row sums: `out[r] += Σ_c x[r, c]`.
///
/// # Panics
/// If `out.len()` is not the number of rows.
pub fn add_row_sums(x: Blocks, out: &mut [f32]) {
    assert_eq!(out.len(), x.rows);
    out.par_chunks_mut(SIDE).enumerate().for_each(|(r, out)| {
        let row = &x.blocks_from(r, 0)[..x.column_blocks() * BLOCK];
        // SAFETY: `Blocks::new` has found an engine.
        let sums = unsafe { block_row_sums(row) };
        out.iter_mut().zip(sums).for_each(|(o, s)| *o += s);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn gathered_rows_equal_those_of_row_major_matrices(n in 1usize..100, columns in 1usize..100, seed in 0usize..100) {
            let sizes = [40, 70];
            let values: [Vec<f32>; 2] = std::array::from_fn(|m| (0..sizes[m] * columns).map(|i| ((i + 7 * m) % 251) as f32).collect());
            let rows: [Vec<u32>; 2] = std::array::from_fn(|m| {
                let row = |i: usize| if (i * 5 + seed) % 2 == m { ((i * 31 + seed) % sizes[m]) as u32 } else { NONE };
                (0..n).map(row).collect()
            });
            let blocks: [_; 2] = std::array::from_fn(|m| {
                let mut blocks = crate::aligned::AlignedVec::<Bf16>::zeroed(len(sizes[m], columns));
                from_f32(&values[m], sizes[m], columns, blocks.as_mut_slice());
                blocks
            });
            let picks: [_; 2] = std::array::from_fn(|m| (Blocks::new(blocks[m].as_slice(), sizes[m], columns), &rows[m][..]));
            let mut want = vec![0f32; n * columns];
            for m in 0..2 {
                crate::gather::copy_rows(&values[m], columns, &rows[m], &mut want);
            }
            let [mut out, mut want_blocks] = [(); 2].map(|_| crate::aligned::AlignedVec::<Bf16>::zeroed(len(n, columns)));
            from_f32(&want, n, columns, want_blocks.as_mut_slice());
            out.as_mut_slice().fill(Bf16::from_f32(f32::NAN));
            gather_rows(&picks, out.as_mut_slice());
            prop_assert!(out.as_slice()[..len(n, columns)] == want_blocks.as_slice()[..len(n, columns)]);
        }

        #[test]
        fn blocks_and_their_transpose_keep_every_element(rows in 1usize..100, columns in 1usize..100) {
            let x: Vec<f32> = (0..rows * columns).map(|i| (i % 251) as f32 - 100.0).collect();
            let mut blocks = crate::aligned::AlignedVec::<Bf16>::zeroed(len(rows, columns));
            from_f32(&x, rows, columns, blocks.as_mut_slice());
            let (mut back, mut sums) = (vec![0f32; x.len()], vec![1f32; rows]);
            to_f32(Blocks::new(blocks.as_slice(), rows, columns), &mut back);
            prop_assert_eq!(&back, &x);
            add_row_sums(Blocks::new(blocks.as_slice(), rows, columns), &mut sums);
            for r in 0..rows {
                prop_assert_eq!(sums[r], 1.0 + x[r * columns..][..columns].iter().sum::<f32>());
            }
            let mut transposed = crate::aligned::AlignedVec::<Bf16>::zeroed(len(columns, rows));
            transpose(Blocks::new(blocks.as_slice(), rows, columns), transposed.as_mut_slice());
            to_f32(Blocks::new(transposed.as_slice(), columns, rows), &mut back);
            for c in 0..columns {
                for r in 0..rows {
                    prop_assert_eq!(back[c * rows + r], x[r * columns + c]);
                }
            }
        }
    }
}
