//! Matrices in blocks of 32 × 32 values, and the packed operands that are made of them.
//!
//! Element (r, c) of a matrix is number `((r/32)·⌈columns/32⌉ + c/32)·1024 + (r%32)·32 + c%32`: blocks row by row, each of
//! them row-major, 2 KiB, padded with zeros at the edges. A row of blocks is a packed lhs as it stands. A packed rhs `[k, n]`
//! consists of blocks too: for 32 rows and 32 columns, two tiles of 16 columns, each with the rows 2p and 2p+1 interleaved in its
//! row p (what AMX and `vdpbf16ps` multiply).

mod pack;

use super::engine::assert_supported;
pub use super::engine::{BLOCK, SIDE};
use super::number::Bf16;
use crate::parallel::SharedMut;
pub(super) use pack::*;
use rayon::prelude::*;
use std::ops::Range;

/// Pairs of rows in a block.
pub(super) const PAIRS: usize = SIDE / 2;

/// A block that begins at a cache line.
#[repr(C, align(64))]
pub(super) struct Aligned(pub [Bf16; BLOCK]);

impl Default for Aligned {
    fn default() -> Self {
        Self([Bf16::default(); BLOCK])
    }
}

/// Elements that a matrix `[rows, columns]` takes, padding included.
///
/// # Panics
/// If their number overflows.
pub fn len(rows: usize, columns: usize) -> usize {
    let blocks = rows.div_ceil(SIDE).checked_mul(columns.div_ceil(SIDE));
    match blocks.and_then(|blocks| blocks.checked_mul(BLOCK)) {
        Some(len) => len,
        None => panic!("a matrix of {rows} × {columns} elements"),
    }
}

/// Checks what makes the kernels sound: they access whole cache lines with instructions that not every CPU has.
///
/// # Panics
/// If `data` is too short for a matrix `[rows, columns]` or does not begin at a cache line, or there is no
/// [`engine`](super::engine::engine).
pub(super) fn check(data: &[Bf16], rows: usize, columns: usize) {
    assert!(data.len() >= len(rows, columns), "matrix outside its slice");
    let aligned = data.as_ptr().cast::<Aligned>().is_aligned();
    assert!(data.is_empty() || aligned, "matrix off a cache line");
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
    /// A matrix `[rows, columns]`.
    ///
    /// # Panics
    /// If the slice is too short for it or off a cache line, or the CPU does not multiply bfloat16.
    pub fn new(data: &'a [Bf16], rows: usize, columns: usize) -> Self {
        check(data, rows, columns);
        Self { data, rows, columns }
    }

    /// Rows without padding.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns without padding.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Rows of blocks, `⌈rows/32⌉`.
    pub fn row_blocks(&self) -> usize {
        self.rows.div_ceil(SIDE)
    }

    /// Columns of blocks, `⌈columns/32⌉`.
    pub fn column_blocks(&self) -> usize {
        self.columns.div_ceil(SIDE)
    }

    /// The elements from (`row`, `column`) to the end of their block.
    pub(super) fn rest(&self, row: usize, column: usize) -> &'a [Bf16] {
        let block = &self.at(row / SIDE, column / SIDE)[..BLOCK];
        &block[row % SIDE * SIDE + column % SIDE..]
    }

    /// The blocks that cover these rows and columns, one run for each row of blocks.
    pub(super) fn runs(self, rows: Range<usize>, columns: Range<usize>) -> impl Iterator<Item = &'a [Bf16]> + Clone {
        let columns = columns.start / SIDE..columns.end.div_ceil(SIDE);
        let rows = rows.start / SIDE..rows.end.div_ceil(SIDE);
        rows.map(move |row| &self.at(row, columns.start)[..columns.len() * BLOCK])
    }

    /// The blocks from (`row_block`, `column_block`) on, row by row.
    pub(super) fn at(&self, row_block: usize, column_block: usize) -> &'a [Bf16] {
        &self.data[(row_block * self.column_blocks() + column_block) * BLOCK..]
    }
}

/// Rounds a row-major matrix into blocks.
///
/// # Panics
/// If the sizes do not fit, `out` is off a cache line, or the CPU does not multiply bfloat16.
pub fn from_f32(x: &[f32], rows: usize, columns: usize, out: &mut [Bf16]) {
    check(out, rows, columns);
    assert!(x.len() >= rows * columns, "matrix outside its slice");
    let column_blocks = columns.div_ceil(SIDE);
    out[..len(rows, columns)]
        .par_chunks_mut((column_blocks * BLOCK).max(1))
        .enumerate()
        .for_each(|(i, out)| {
            let first = i * SIDE;
            let x = &x[first * columns..];
            // SAFETY: `check` has found an engine and that `out` is long enough, the assert above these rows in `x`.
            unsafe { block_row_from_f32(x.as_ptr(), SIDE.min(rows - first), columns, columns, out.as_mut_ptr()) };
        });
}

/// Zeroes the padding of a matrix.
pub(super) fn clear_edges(data: &mut [Bf16], rows: usize, columns: usize) {
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

/// Converts blocks to a row-major f32 matrix.
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
                    for (value, element) in values.iter_mut().zip(&x.at(i, c)[r * SIDE..]) {
                        *value = element.to_f32();
                    }
                }
            }
        });
}

/// Writes the transpose `[columns, rows]`, in blocks, of the blocks that `block_of(row_block, column_block, buffer)` returns for
/// each block of `x`: that block itself, or one that it has written to `buffer`.
fn transpose_each(x: Blocks, out: &mut [Bf16], block_of: impl Fn(usize, usize, &mut Aligned) -> *const Bf16 + Sync) {
    let (row_blocks, column_blocks) = (x.row_blocks(), x.column_blocks());
    check(out, x.columns, x.rows);
    let out = SharedMut::new(out);
    (0..row_blocks).into_par_iter().for_each(|r| {
        let mut buffer = Aligned::default();
        for c in 0..column_blocks {
            // SAFETY: both are blocks of matrices that `check` has accepted; each block of the result is written once.
            unsafe { transpose_block(block_of(r, c, &mut buffer), out.at((c * row_blocks + r) * BLOCK)) };
        }
    });
}

/// Writes the transpose `[columns, rows]`, in blocks.
///
/// # Panics
/// If `out` is too short or off a cache line.
pub fn transpose(x: Blocks, out: &mut [Bf16]) {
    transpose_each(x, out, |r, c, _| x.at(r, c).as_ptr());
}

/// Writes the transpose `[columns, rows]`, in blocks, of the rows `x·w + b`: the output of a layer norm from its normalised rows.
///
/// # Panics
/// If the sizes do not fit, or `out` is off a cache line.
pub fn transpose_scaled(x: Blocks, w: &[f32], b: &[f32], out: &mut [Bf16]) {
    assert!(w.len() == x.columns && b.len() == x.columns, "scale of another width");
    transpose_each(x, out, |r, c, buffer| {
        let columns = SIDE.min(x.columns - c * SIDE);
        let (w, b) = (&w[c * SIDE..][..columns], &b[c * SIDE..][..columns]);
        // SAFETY: `check` has found an engine; both are blocks at cache lines, and `w` and `b` have at most 32 values.
        unsafe { scale_block(x.at(r, c), w, b, SIDE.min(x.rows - r * SIDE), &mut buffer.0) };
        buffer.0.as_ptr()
    });
}

/// Row sums: `out[r] += Σ_c x[r, c]`.
///
/// # Panics
/// If `out.len()` is not the number of rows.
pub fn add_row_sums(x: Blocks, out: &mut [f32]) {
    assert_eq!(out.len(), x.rows);
    out.par_chunks_mut(SIDE).enumerate().for_each(|(r, out)| {
        let row = &x.at(r, 0)[..x.column_blocks() * BLOCK];
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
