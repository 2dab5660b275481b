//! Matrices in blocks of 32 × 32 numbers, and the operands of the matrix instructions that are made of them.
//!
//! Element (r, c) of a matrix is number `((r/32)·⌈columns/32⌉ + c/32)·1024 + (r%32)·32 + c%32`: blocks row by row, each of
//! them row-major, 2 KiB, the edge filled up with zeros. A row of blocks is a left operand as it stands. A right operand
//! `[k, n]` consists of *steps*: for 32 rows and 32 columns, two tiles of 16 columns, each with the rows 2p and 2p+1
//! alternating in its row p (what AMX and `vdpbf16ps` multiply).

use super::number::Bf16;
use super::support::assert_supported;
use crate::parallel::SharedMut;
use rayon::prelude::*;

/// Side of a block.
pub const SIDE: usize = 32;

/// Numbers of a block.
pub const BLOCK: usize = SIDE * SIDE;

/// Pairs of rows in a block.
pub(super) const PAIRS: usize = SIDE / 2;

/// A block at a cache line.
#[repr(C, align(64))]
pub(super) struct Aligned(pub [Bf16; BLOCK]);

impl Default for Aligned {
    fn default() -> Self {
        Self([Bf16::default(); BLOCK])
    }
}

/// Numbers that a matrix takes.
///
/// # Panics
/// If there are more than can be counted.
pub fn len(rows: usize, columns: usize) -> usize {
    let blocks = rows.div_ceil(SIDE).checked_mul(columns.div_ceil(SIDE));
    match blocks.and_then(|blocks| blocks.checked_mul(BLOCK)) {
        Some(len) => len,
        None => panic!("a matrix of {rows} × {columns} numbers"),
    }
}

/// What safe code has to hold to, for kernels to be sound: they read and write whole cache lines by instructions that not every
/// machine has.
///
/// # Panics
/// If `data` has no room for a matrix `[rows, columns]`, does not begin at a cache line, or [`super::support`] finds nothing.
pub(super) fn check(data: &[Bf16], rows: usize, columns: usize) {
    assert!(data.len() >= len(rows, columns), "matrix outside its slice");
    let aligned = data.as_ptr().cast::<Aligned>().is_aligned();
    assert!(data.is_empty() || aligned, "matrix off a cache line");
    assert_supported();
}

/// A matrix in blocks.
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
    /// If the slice is too short for it or off a cache line, or the machine does not multiply bfloat16.
    pub fn new(data: &'a [Bf16], rows: usize, columns: usize) -> Self {
        check(data, rows, columns);
        Self { data, rows, columns }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Number of rows of blocks.
    pub fn row_blocks(&self) -> usize {
        self.rows.div_ceil(SIDE)
    }

    /// Number of columns of blocks.
    pub fn column_blocks(&self) -> usize {
        self.columns.div_ceil(SIDE)
    }

    /// The numbers from (`row`, `column`) to the end of their block.
    pub(super) fn rest(&self, row: usize, column: usize) -> &'a [Bf16] {
        let block = &self.at(row / SIDE, column / SIDE)[..BLOCK];
        &block[row % SIDE * SIDE + column % SIDE..]
    }

    /// One block, or a run of them in a row.
    pub(super) fn at(&self, row_block: usize, column_block: usize) -> &'a [Bf16] {
        &self.data[(row_block * self.column_blocks() + column_block) * BLOCK..]
    }
}

/// Fills `out` with the rounded values of a row-major matrix.
///
/// # Panics
/// If the sizes do not fit, `out` is off a cache line, or the machine does not multiply bfloat16.
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
            // SAFETY: the machine has the instructions (this module's contract); `x` and `out` hold these rows.
            unsafe { block_row_from_f32(x.as_ptr(), SIDE.min(rows - first), columns, columns, out.as_mut_ptr()) };
        });
}

/// Zeroes what lies beyond the edges of a matrix whose inside somebody writes element by element.
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

/// Transposes 32 × 32 sums.
pub(super) fn transpose_sums(sums: &mut [f32]) {
    let sums: &mut [f32; BLOCK] = sums.try_into().unwrap_or_else(|_| unreachable!("sums of a block"));
    // SAFETY: the machine has the instructions (this module's contract).
    unsafe { transpose_in_place(sums) };
}

/// The values of a matrix, row by row.
///
/// # Panics
/// If the sizes differ.
pub fn to_f32(x: Blocks, out: &mut [f32]) {
    assert_eq!(out.len(), x.rows * x.columns);
    out.par_chunks_mut((SIDE * x.columns).max(1))
        .enumerate()
        .for_each(|(i, out)| {
            for (r, row) in out.chunks_mut(x.columns).enumerate() {
                for (c, values) in row.chunks_mut(SIDE).enumerate() {
                    for (value, number) in values.iter_mut().zip(&x.at(i, c)[r * SIDE..]) {
                        *value = number.to_f32();
                    }
                }
            }
        });
}

/// Writes the transpose `[columns, rows]`, in blocks, of what `block_of(row_block, column_block, changed)` gives for each
/// block of `x`: itself, or what it has written to `changed`.
fn transpose_each(x: Blocks, out: &mut [Bf16], block_of: impl Fn(usize, usize, &mut Aligned) -> *const Bf16 + Sync) {
    let (row_blocks, column_blocks) = (x.row_blocks(), x.column_blocks());
    check(out, x.columns, x.rows);
    let out = SharedMut::new(out);
    (0..row_blocks).into_par_iter().for_each(|r| {
        let mut changed = Aligned::default();
        for c in 0..column_blocks {
            // SAFETY: a block of `x` or `changed`; each block of the result is written once; the machine has the instructions.
            unsafe { transpose_block(block_of(r, c, &mut changed), out.at((c * row_blocks + r) * BLOCK)) };
        }
    });
}

/// The transpose `[columns, rows]`, in blocks.
///
/// # Panics
/// If `out` is too short or off a cache line.
pub fn transpose(x: Blocks, out: &mut [Bf16]) {
    transpose_each(x, out, |r, c, _| x.at(r, c).as_ptr());
}

/// The transpose `[columns, rows]`, in blocks, of `x · w + b`, row by row.
///
/// # Panics
/// If the sizes do not fit, or `out` is off a cache line.
pub fn transpose_scaled(x: Blocks, w: &[f32], b: &[f32], out: &mut [Bf16]) {
    assert!(w.len() == x.columns && b.len() == x.columns, "scale of another width");
    transpose_each(x, out, |r, c, changed| {
        let columns = SIDE.min(x.columns - c * SIDE);
        let (w, b) = (&w[c * SIDE..][..columns], &b[c * SIDE..][..columns]);
        // SAFETY: two blocks and `columns` values; the machine has the instructions.
        unsafe { scale_block(x.at(r, c), w, b, SIDE.min(x.rows - r * SIDE), &mut changed.0) };
        changed.0.as_ptr()
    });
}

/// Adds up rows: `out[r] += Σ_c x[r, c]`.
///
/// # Panics
/// If `out` has another length than a column.
pub fn add_row_sums(x: Blocks, out: &mut [f32]) {
    assert_eq!(out.len(), x.rows);
    out.par_chunks_mut(SIDE).enumerate().for_each(|(r, out)| {
        let row = &x.at(r, 0)[..x.column_blocks() * BLOCK];
        // SAFETY: whole blocks; the machine has the instructions (this module's contract).
        let sums = unsafe { block_row_sums(row) };
        out.iter_mut().zip(sums).for_each(|(o, s)| *o += s);
    });
}

pub(super) use x86::*;

mod x86 {
    use super::super::avx512::{round2, transpose, widen, zip};
    use super::super::math::gelu;
    use super::{BLOCK, Bf16, SIDE};
    use std::arch::x86_64::*;
    use std::ops::Range;

    /// Two masks of the first `count` (at most 32) numbers in two registers.
    pub fn masks(count: usize) -> [__mmask16; 2] {
        let bits = if count >= 32 { u32::MAX } else { (1 << count) - 1 };
        [bits as u16, (bits >> 16) as u16]
    }

    /// Up to 32 values, zero beyond.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub unsafe fn load(x: &[f32], column: usize) -> [__m512; 2] {
        let [low, high] = masks(x.len() - column);
        let x = x.as_ptr().wrapping_add(column);
        // SAFETY: masked-out addresses are not touched.
        unsafe {
            [
                _mm512_maskz_loadu_ps(low, x),
                _mm512_maskz_loadu_ps(high, x.wrapping_add(16)),
            ]
        }
    }

    /// # Safety
    /// `normalised` and `y` are blocks.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub unsafe fn scale_block(normalised: &[Bf16], w: &[f32], b: &[f32], rows: usize, y: &mut [Bf16]) {
        // SAFETY: by the contract; loads of `w` and `b` are masked.
        unsafe {
            let (w, b) = (load(w, 0), load(b, 0));
            for r in 0..SIDE {
                let n = widen(_mm512_loadu_si512(normalised.as_ptr().add(r * SIDE).cast()));
                let scaled = [_mm512_fmadd_ps(n[0], w[0], b[0]), _mm512_fmadd_ps(n[1], w[1], b[1])];
                let row = if r < rows {
                    round2(scaled[0], scaled[1])
                } else {
                    _mm512_setzero_si512()
                };
                _mm512_store_si512(y.as_mut_ptr().add(r * SIDE).cast(), row);
            }
        }
    }

    /// A row of up to 32 values, rounded, zero beyond.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn load_row(x: *const f32, [low, high]: [__mmask16; 2]) -> __m512i {
        // SAFETY: masked-out addresses are not touched.
        unsafe {
            round2(
                _mm512_maskz_loadu_ps(low, x),
                _mm512_maskz_loadu_ps(high, x.wrapping_add(16)),
            )
        }
    }

    /// # Safety
    /// `x` holds `rows` (at most 32) rows `stride` apart; `out` a row of blocks.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub unsafe fn block_row_from_f32(x: *const f32, rows: usize, columns: usize, stride: usize, out: *mut Bf16) {
        for c in 0..columns.div_ceil(SIDE) {
            let masks = masks(columns - c * SIDE);
            for r in 0..SIDE {
                // SAFETY: by the contract.
                unsafe {
                    let row = if r < rows {
                        load_row(x.add(r * stride + c * SIDE), masks)
                    } else {
                        _mm512_setzero_si512()
                    };
                    _mm512_store_si512(out.add(c * BLOCK + r * SIDE).cast(), row);
                }
            }
        }
    }

    /// Alternates the rows of a block: from `[k, n]` to a step; of its sixteen pairs of rows, those in `pairs`.
    ///
    /// # Safety
    /// Both are blocks, `out` at a cache line.
    #[target_feature(enable = "avx512f,avx512bw")]
    pub unsafe fn step_of_rows(block: *const Bf16, pairs: Range<usize>, out: *mut Bf16) {
        for p in pairs {
            // SAFETY: by the contract.
            unsafe {
                let [even, odd] = load_pair(block, p);
                store_pair(even, odd, p, out);
            }
        }
    }

    /// The same with the GELU of each number.
    ///
    /// # Safety
    /// As [`step_of_rows`].
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub unsafe fn step_of_gelu(block: *const Bf16, pairs: Range<usize>, out: *mut Bf16) {
        for p in pairs {
            // SAFETY: by the contract.
            unsafe {
                let [even, odd] = load_pair(block, p);
                store_pair(gelu(widen(even)), gelu(widen(odd)), p, out);
            }
        }
    }

    /// # Safety
    /// `block` is one.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load_pair(block: *const Bf16, pair: usize) -> [__m512i; 2] {
        // SAFETY: by the contract.
        unsafe {
            let row = block.add(2 * pair * SIDE);
            [_mm512_loadu_si512(row.cast()), _mm512_loadu_si512(row.add(SIDE).cast())]
        }
    }

    /// # Safety
    /// `out` is a block at a cache line.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn store_pair(even: __m512i, odd: __m512i, pair: usize, out: *mut Bf16) {
        let [low, high] = zip(even, odd);
        // SAFETY: by the contract.
        unsafe {
            _mm512_store_si512(out.add(pair * SIDE).cast(), low);
            _mm512_store_si512(out.add(512 + pair * SIDE).cast(), high);
        }
    }

    /// Transposes pairs: from `[n, k]` to a step.
    ///
    /// # Safety
    /// Both are blocks, `out` at a cache line.
    #[target_feature(enable = "avx512f,avx512bw")]
    pub unsafe fn step_of_columns(block: *const Bf16, out: *mut Bf16) {
        for half in [0, 512] {
            // SAFETY: by the contract.
            unsafe {
                let rows = block.add(half).cast::<[__m512i; 16]>().read();
                for (r, row) in transpose(rows).into_iter().enumerate() {
                    _mm512_store_si512(out.add(half + r * SIDE).cast(), row);
                }
            }
        }
    }

    /// # Safety
    /// Both are blocks, `out` at a cache line.
    #[target_feature(enable = "avx512f,avx512bw")]
    pub unsafe fn transpose_block(block: *const Bf16, out: *mut Bf16) {
        for half in 0..2 {
            // SAFETY: by the contract.
            unsafe {
                let mut rows = [_mm512_setzero_si512(); 16];
                for (p, row) in rows.iter_mut().enumerate() {
                    let [even, odd] = load_pair(block, p);
                    *row = zip(even, odd)[half];
                }
                for (r, row) in transpose(rows).into_iter().enumerate() {
                    _mm512_store_si512(out.add(half * 512 + r * SIDE).cast(), row);
                }
            }
        }
    }

    /// A step of 32 rows of a weight `[n, k]`, `stride` values apart, which are columns of the right operand.
    ///
    /// # Safety
    /// `w` holds `rows` rows of `columns` values (at most 32 of each), `out` a step at a cache line.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub unsafe fn step_of_weight_rows(w: *const f32, rows: usize, columns: usize, stride: usize, out: *mut Bf16) {
        let masks = masks(columns);
        for half in [0, 16] {
            // SAFETY: by the contract.
            unsafe {
                let mut sixteen = [_mm512_setzero_si512(); 16];
                for (r, row) in (half..rows).zip(&mut sixteen) {
                    *row = load_row(w.add(r * stride), masks);
                }
                for (r, row) in transpose(sixteen).into_iter().enumerate() {
                    _mm512_store_si512(out.add((half + r) * SIDE).cast(), row);
                }
            }
        }
    }

    /// A step of 32 rows of a weight `[k, n]`, `stride` values apart, which are rows of the right operand; of its sixteen
    /// pairs of rows, those in `pairs`.
    ///
    /// # Safety
    /// `w` holds `rows` rows of `columns` values (at most 32 of each), `out` a step at a cache line.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub unsafe fn step_of_weight_columns(
        w: *const f32,
        rows: usize,
        columns: usize,
        stride: usize,
        pairs: Range<usize>,
        out: *mut Bf16,
    ) {
        let masks = masks(columns);
        for p in pairs {
            // SAFETY: by the contract.
            unsafe {
                let w = w.wrapping_add(2 * p * stride);
                let even = if 2 * p < rows {
                    load_row(w, masks)
                } else {
                    _mm512_setzero_si512()
                };
                let odd = if 2 * p + 1 < rows {
                    load_row(w.wrapping_add(stride), masks)
                } else {
                    _mm512_setzero_si512()
                };
                store_pair(even, odd, p, out);
            }
        }
    }

    /// Sums of the rows of a row of blocks.
    ///
    /// # Safety
    /// The machine has the instructions.
    #[target_feature(enable = "avx512f,avx512bw")]
    pub unsafe fn block_row_sums(blocks: &[Bf16]) -> [f32; SIDE] {
        let mut sums = [_mm512_setzero_ps(); SIDE];
        for block in blocks.chunks_exact(BLOCK) {
            for (r, sum) in sums.iter_mut().enumerate() {
                // SAFETY: a block has 32 rows of 32.
                let [low, high] = widen(unsafe { _mm512_loadu_si512(block.as_ptr().add(r * SIDE).cast()) });
                *sum = _mm512_add_ps(*sum, _mm512_add_ps(low, high));
            }
        }
        let mut out = [0f32; SIDE];
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = _mm512_reduce_add_ps(sum);
        }
        out
    }

    /// Adds the rows `range` of a block to `sums`, as many columns as there are.
    ///
    /// # Safety
    /// `block` is one.
    #[target_feature(enable = "avx512f,avx512bw")]
    pub unsafe fn add_rows(block: *const Bf16, range: Range<usize>, sums: &mut [f32]) {
        // SAFETY: by the contract; masked-out addresses are not touched.
        unsafe {
            let mut row_sums = load(sums, 0);
            for r in range {
                let row = widen(_mm512_loadu_si512(block.add(r * SIDE).cast()));
                row_sums = [_mm512_add_ps(row_sums[0], row[0]), _mm512_add_ps(row_sums[1], row[1])];
            }
            let [low, high] = masks(sums.len());
            _mm512_mask_storeu_ps(sums.as_mut_ptr(), low, row_sums[0]);
            _mm512_mask_storeu_ps(sums.as_mut_ptr().wrapping_add(16), high, row_sums[1]);
        }
    }

    /// Sixteen rows of sixteen out of 32 × 32 numbers.
    ///
    /// # Safety
    /// `at` is the place of the first.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load_quarter(at: *const f32) -> [__m512i; 16] {
        let mut rows = [_mm512_setzero_si512(); 16];
        for (r, row) in rows.iter_mut().enumerate() {
            // SAFETY: by the contract.
            *row = unsafe { _mm512_loadu_si512(at.add(r * SIDE).cast()) };
        }
        rows
    }

    /// Writes what [`load_quarter`] reads.
    ///
    /// # Safety
    /// As there.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn store_quarter(at: *mut f32, rows: [__m512i; 16]) {
        for (r, row) in rows.into_iter().enumerate() {
            // SAFETY: by the contract.
            unsafe { _mm512_storeu_si512(at.add(r * SIDE).cast(), row) };
        }
    }

    /// # Safety
    /// The machine has the instructions.
    #[target_feature(enable = "avx512f,avx512bw")]
    pub unsafe fn transpose_in_place(sums: &mut [f32; BLOCK]) {
        let at = sums.as_mut_ptr();
        // SAFETY: four quarters of a block of 32 × 32.
        unsafe {
            let (upper_right, lower_left) = (at.add(16), at.add(16 * SIDE));
            for diagonal in [at, lower_left.add(16)] {
                store_quarter(diagonal, transpose(load_quarter(diagonal)));
            }
            let (upper, lower) = (load_quarter(upper_right), load_quarter(lower_left));
            store_quarter(upper_right, transpose(lower));
            store_quarter(lower_left, transpose(upper));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::support::{Support, support};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn blocks_and_their_transpose_hold_the_matrix(rows in 1usize..100, columns in 1usize..100) {
            if support() == Support::None {
                return Ok(());
            }
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
            let mut turned = crate::aligned::AlignedVec::<Bf16>::zeroed(len(columns, rows));
            transpose(Blocks::new(blocks.as_slice(), rows, columns), turned.as_mut_slice());
            to_f32(Blocks::new(turned.as_slice(), columns, rows), &mut back);
            for c in 0..columns {
                for r in 0..rows {
                    prop_assert_eq!(back[c * rows + r], x[r * columns + c]);
                }
            }
        }
    }
}
