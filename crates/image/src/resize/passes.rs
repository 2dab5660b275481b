//! The two passes of a resize on plain slices.
//!
//! The horizontal pass processes sixteen rows at once. The rows are transposed, so that a SIMD vector holds the values of all sixteen
//! rows at one position. The result is planar: red, then green, then blue.

#![allow(
    clippy::needless_range_loop,
    reason = "loops over lanes are clearer with indices, and vectorise too"
)]

use vlct_simd::multiversion;

use super::weights::{WEIGHT_BITS, Weights};

/// Rows per call of the horizontal pass.
pub(super) const ROWS: usize = 16;

/// The values of [`ROWS`] rows at one position.
pub(super) type Column = [u8; ROWS];

/// One half in the fixed-point format of the sums, for rounding to nearest.
const HALF: i32 = 1 << (WEIGHT_BITS - 1);

/// Values per iteration of the vertical pass.
const LANES: usize = 32;

multiversion! {
    /// Resizes [`ROWS`] rows of interleaved pixels. `transposed` is scratch memory with one element per value of a row. Writes the
    /// three channels one after the other to `columns` `[3 · weights.len()]`, mirrored if `flip`.
    pub(super) fn horizontal(rows: &[&[u8]; ROWS], weights: &Weights, flip: bool, transposed: &mut [Column], columns: &mut [Column]) {
        transpose_rows(rows, transposed);
        let pixels = transposed.as_chunks::<3>().0;
        let width = weights.len();
        for x in 0..width {
            let (first, weights) = weights.of_result(x);
            let column = if flip { width - 1 - x } else { x };
            let (mut red, mut green, mut blue) = ([HALF; ROWS], [HALF; ROWS], [HALF; ROWS]);
            for (pixel, weight) in pixels[first..].iter().zip(weights) {
                red = add_weighted(red, *weight, &pixel[0]);
                green = add_weighted(green, *weight, &pixel[1]);
                blue = add_weighted(blue, *weight, &pixel[2]);
            }
            columns[column] = levels(red);
            columns[width + column] = levels(green);
            columns[2 * width + column] = levels(blue);
        }
    }
}

multiversion! {
    /// Computes the weighted sum of the rows of one channel that begin at the offsets `row_starts` in `rows`, and writes
    /// `level · scale + offset` for each value of the resized row.
    pub(super) fn vertical(rows: &[u8], row_starts: &[usize], weights: &[i32], scale: f32, offset: f32, out: &mut [f32]) {
        weighted_sum(rows, row_starts, weights, out, scale, offset);
    }
}

multiversion! {
    /// Like [`vertical`], but writes the levels without scale and offset.
    pub(super) fn vertical_levels(rows: &[u8], row_starts: &[usize], weights: &[i32], out: &mut [u8]) {
        weighted_sum(rows, row_starts, weights, out, 1.0, 0.0);
    }
}

/// A type of value that the vertical pass can write.
trait FromLevel {
    fn from_level(level: u8, scale: f32, offset: f32) -> Self;
}

impl FromLevel for f32 {
    #[inline(always)]
    fn from_level(level: u8, scale: f32, offset: f32) -> Self {
        f32::from(level) * scale + offset
    }
}

impl FromLevel for u8 {
    #[inline(always)]
    fn from_level(level: u8, _: f32, _: f32) -> Self {
        level
    }
}

#[inline(always)]
fn weighted_sum<T: FromLevel>(
    rows: &[u8],
    row_starts: &[usize],
    weights: &[i32],
    out: &mut [T],
    scale: f32,
    offset: f32,
) {
    let (chunks, rest) = out.as_chunks_mut::<LANES>();
    for (i, chunk) in chunks.iter_mut().enumerate() {
        let mut sums = [HALF; LANES];
        for (row_start, weight) in row_starts.iter().zip(weights) {
            sums = add_weighted(sums, *weight, first_n(&rows[row_start + i * LANES..]));
        }
        for (value, level) in chunk.iter_mut().zip(levels(sums)) {
            *value = T::from_level(level, scale, offset);
        }
    }
    for (x, value) in rest.iter_mut().enumerate() {
        let mut sums = [HALF];
        for (row_start, weight) in row_starts.iter().zip(weights) {
            sums = add_weighted(sums, *weight, &[rows[row_start + chunks.len() * LANES + x]]);
        }
        *value = T::from_level(levels(sums)[0], scale, offset);
    }
}

/// Returns `sums + weight · values`. Takes `sums` by value, so that they stay in registers in a loop.
#[inline(always)]
fn add_weighted<const N: usize>(mut sums: [i32; N], weight: i32, values: &[u8; N]) -> [i32; N] {
    for i in 0..N {
        sums[i] += weight * i32::from(values[i]);
    }
    sums
}

/// Converts fixed-point sums to levels, clipped to 0..=255.
#[inline(always)]
fn levels<const N: usize>(sums: [i32; N]) -> [u8; N] {
    let mut levels = [0; N];
    for i in 0..N {
        levels[i] = (sums[i] >> WEIGHT_BITS).clamp(0, 255) as u8;
    }
    levels
}

/// Returns the first `N` elements of `values`.
#[inline(always)]
fn first_n<const N: usize>(values: &[u8]) -> &[u8; N] {
    &values.as_chunks::<N>().0[0]
}

/// Transposes rows of equal length into columns.
#[inline(always)]
fn transpose_rows(rows: &[&[u8]; ROWS], columns: &mut [Column]) {
    let length = columns.len();
    let blocks_end = length - length % 8;
    for half in [0, 8] {
        for x in (0..blocks_end).step_by(8) {
            let mut block = [0u64; 8];
            for r in 0..8 {
                block[r] = u64::from_le_bytes(first_8(&rows[half + r][x..]));
            }
            transpose_8x8(&mut block);
            for (column, values) in columns[x..x + 8].iter_mut().zip(block) {
                column[half..half + 8].copy_from_slice(&values.to_le_bytes());
            }
        }
    }
    for (x, column) in columns.iter_mut().enumerate().skip(blocks_end) {
        for (value, row) in column.iter_mut().zip(rows) {
            *value = row[x];
        }
    }
}

multiversion! {
    /// Transposes columns back to [`ROWS`] rows, one after the other.
    pub(super) fn transpose_back(columns: &[Column], rows: &mut [u8]) {
        let length = columns.len();
        let blocks_end = length - length % 8;
        for half in [0, 8] {
            for x in (0..blocks_end).step_by(8) {
                let mut block = [0u64; 8];
                for i in 0..8 {
                    block[i] = u64::from_le_bytes(first_8(&columns[x + i][half..]));
                }
                transpose_8x8(&mut block);
                for i in 0..8 {
                    rows[(half + i) * length + x..][..8].copy_from_slice(&block[i].to_le_bytes());
                }
            }
        }
        for x in blocks_end..length {
            for r in 0..ROWS {
                rows[r * length + x] = columns[x][r];
            }
        }
    }
}

#[inline(always)]
fn first_8(bytes: &[u8]) -> [u8; 8] {
    let mut values = [0; 8];
    values.copy_from_slice(&bytes[..8]);
    values
}

/// Transposes 8 × 8 bytes by swapping blocks of 4 × 4, then of 2 × 2, then single bytes.
#[inline(always)]
fn transpose_8x8(rows: &mut [u64; 8]) {
    for (distance, shift, mask) in [
        (4, 32, 0x0000_0000_ffff_ffff),
        (2, 16, 0x0000_ffff_0000_ffff),
        (1, 8, 0x00ff_00ff_00ff_00ff),
    ] {
        for i in (0..8).filter(|i| i & distance == 0) {
            let difference = ((rows[i] >> shift) ^ rows[i + distance]) & mask;
            rows[i + distance] ^= difference;
            rows[i] ^= difference << shift;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn transpose_back_inverts_transpose_rows(values in proptest::collection::vec(any::<u8>(), ROWS * 45), length in 0usize..45) {
            let rows: [&[u8]; ROWS] = std::array::from_fn(|r| &values[r * 45..r * 45 + length]);
            let mut columns = vec![[0; ROWS]; length];
            transpose_rows(&rows, &mut columns);
            for (x, column) in columns.iter().enumerate() {
                for (r, value) in column.iter().enumerate() {
                    prop_assert_eq!(*value, rows[r][x]);
                }
            }
            let mut back = vec![0; ROWS * length];
            transpose_back(&columns, &mut back);
            prop_assert_eq!(back, rows.concat());
        }
    }
}
