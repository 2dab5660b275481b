//! Products of f32 matrices on the tile unit, as exact as f32 arithmetic.
//!
//! An f32 number of 24 bits is the sum of three bfloat16 numbers of 8 bits: `a = a₁ + a₂ + a₃`, each the rounded rest of the
//! ones before, so that `|a₂| ≤ 2⁻⁸|a|` and `|a₃| ≤ 2⁻¹⁶|a|`. Of the nine products of the parts of two numbers, six are formed
//! and added up in f32; the other three are below 2⁻²³ of the whole, a rounding error of f32. Six products on the unit are
//! still much faster than one on registers.
//!
//! What differs from f32 arithmetic: subnormal numbers count as zero, and infinite operands (and finite ones that bfloat16
//! rounds to infinity, above 3.39·10³⁸) give results that are no numbers.

use super::blocks::{self, Aligned, BLOCK, SIDE};
use super::tiles::{Tiles, multiply_triple};
use super::{Bf16, Support, support};
use crate::gemm::View;
use crate::memory::Scratch;
use crate::parallel::SharedMut;
use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::Range;

/// Numbers of a step of 32: three parts of a block.
const STEP: usize = 3 * BLOCK;

/// Whether the machine has the unit and the product is worth bringing into its form.
pub(crate) fn pays(rows: usize, columns: usize, inner: usize) -> bool {
    support() == Support::Tiles && rows >= 16 && columns >= 16 && inner >= 16
}

/// `out = keep·out + scale·a·b`; `out` has rows `stride` apart. The work is divided among the threads of the current pool; sums
/// do not depend on how.
///
/// # Safety
/// Sizes fit each other, `out` holds the result, and [`pays`] was true.
pub(crate) unsafe fn gemm(out: &mut [f32], stride: usize, keep: bool, scale: f32, a: View, b: View) {
    /// Blocks of sums that a task keeps in the second cache, in rows and columns.
    const PART: usize = 16;
    let (rows, columns) = (a.rows().div_ceil(SIDE), b.columns().div_ceil(SIDE));
    // Square parts need the fewest operands; threads need equal shares.
    let threads = rayon::current_num_threads();
    let share = |all: usize, parts: usize| all.div_ceil(parts.clamp(1, all));
    let row_parts = rows.div_ceil(PART);
    let per_row = columns.div_ceil(PART);
    let column_parts = (row_parts * per_row)
        .next_multiple_of(threads)
        .div_ceil(row_parts)
        .clamp(1, columns);
    let (high, wide) = (share(rows, row_parts), share(columns, column_parts));
    let (row_parts, column_parts) = (rows.div_ceil(high), columns.div_ceil(wide));
    let out = SharedMut::new(out);
    (0..row_parts * column_parts).into_par_iter().for_each(|i| {
        let range = |i: usize, size: usize, all: usize| i * size..((i + 1) * size).min(all);
        let part = Part {
            rows: range(i / column_parts, high, rows),
            panels: range(i % column_parts, wide, columns),
        };
        // SAFETY: by the contract (`pays` was asked first); parts are apart from each other.
        unsafe {
            let _tiles = Tiles::configure();
            part.run(a, b, |row, column, sums| {
                write(out, stride, keep, scale, row, column, sums, a.rows(), b.columns())
            })
        };
    });
}

/// # Safety
/// The block at (`row`, `column`) lies in the result as far as there are `rows` and `columns`, and is the caller's alone.
#[allow(clippy::too_many_arguments)]
unsafe fn write(
    out: SharedMut<f32>,
    stride: usize,
    keep: bool,
    scale: f32,
    row: usize,
    column: usize,
    sums: &[f32],
    rows: usize,
    columns: usize,
) {
    let (high, wide) = (SIDE.min(rows - row), SIDE.min(columns - column));
    // SAFETY: by the contract; the machine has the instructions.
    unsafe { x86::store(out.at(row * stride + column), high, wide, stride, sums, keep, scale) };
}

/// Some rows and columns of the result, in blocks.
struct Part {
    rows: Range<usize>,
    panels: Range<usize>,
}

thread_local! {
    /// Parts of the operands, and sums.
    static SCRATCH: RefCell<[Scratch; 3]> = const { RefCell::new([Scratch::new(), Scratch::new(), Scratch::new()]) };
}

impl Part {
    /// # Safety
    /// The calling thread holds the unit; the part lies within the product.
    unsafe fn run(&self, a: View, b: View, mut done: impl FnMut(usize, usize, &[f32])) {
        /// Steps that are multiplied together: 12 KiB of each operand's panel stay in the first cache.
        const GROUP: usize = 2;
        let depth = a.columns().div_ceil(SIDE);
        let (high, wide) = (self.rows.len(), self.panels.len());
        SCRATCH.with_borrow_mut(|[left, right, sums]| {
            let left = left.take::<Bf16>(high * GROUP * STEP);
            let right = right.take::<Bf16>(wide * GROUP * STEP);
            let sums = sums.take::<f32>(high * wide * BLOCK);
            for first in (0..depth).step_by(GROUP) {
                let count = GROUP.min(depth - first);
                for (i, row) in self.rows.clone().enumerate() {
                    for step in 0..count {
                        left_step(a, row, first + step, &mut left[(i * count + step) * STEP..][..STEP]);
                    }
                }
                for (j, panel) in self.panels.clone().enumerate() {
                    for step in 0..count {
                        right_step(b, first + step, panel, &mut right[(j * count + step) * STEP..][..STEP]);
                    }
                }
                let last = first + count == depth;
                for i in 0..high {
                    for j in 0..wide {
                        let sums = &mut sums[(i * wide + j) * BLOCK..][..BLOCK];
                        let (left, right) = (&left[i * count * STEP..], &right[j * count * STEP..]);
                        assert!(left.len() >= count * STEP && right.len() >= count * STEP);
                        // SAFETY: both hold `count` steps; the thread holds the unit (contract).
                        unsafe {
                            multiply_triple(left.as_ptr(), right.as_ptr(), count, sums.as_mut_ptr(), first > 0);
                        }
                        if last {
                            done((self.rows.start + i) * SIDE, (self.panels.start + j) * SIDE, sums);
                        }
                    }
                }
            }
        });
    }
}

/// Block (`row`, `column`) of `a` as left operand.
fn left_step(a: View, row: usize, column: usize, out: &mut [Bf16]) {
    if a.is_row_major() {
        // SAFETY: `out` is a step at a cache line.
        unsafe { split(a, row, column, out.as_mut_ptr()) };
        return;
    }
    let mut parts = [0; 3].map(|_| Aligned::default());
    // SAFETY: three blocks, one after the other; `out` is a step at a cache line; the machine has the instructions.
    unsafe {
        split(a.transposed(), column, row, parts.as_mut_ptr().cast());
        for (part, out) in parts.iter().zip(out.chunks_exact_mut(BLOCK)) {
            blocks::transpose_block(part.0.as_ptr(), out.as_mut_ptr());
        }
    }
}

/// Block (`row`, `column`) of `b` as right operand.
fn right_step(b: View, row: usize, column: usize, out: &mut [Bf16]) {
    let mut parts = [0; 3].map(|_| Aligned::default());
    // SAFETY: as in `left_step`.
    unsafe {
        if b.is_row_major() {
            split(b, row, column, parts.as_mut_ptr().cast());
        } else {
            split(b.transposed(), column, row, parts.as_mut_ptr().cast());
        }
        for (part, out) in parts.iter().zip(out.chunks_exact_mut(BLOCK)) {
            if b.is_row_major() {
                blocks::step_of_rows(part.0.as_ptr(), 0..blocks::PAIRS, out.as_mut_ptr());
            } else {
                blocks::step_of_columns(part.0.as_ptr(), out.as_mut_ptr());
            }
        }
    }
}

/// The three parts of block (`row`, `column`) of a row-major matrix, one after the other, zero beyond its edges.
///
/// # Safety
/// `out` has room for three blocks at a cache line; the machine has the instructions.
unsafe fn split(x: View, row: usize, column: usize, out: *mut Bf16) {
    let (rows, columns) = (SIDE.min(x.rows() - row * SIDE), SIDE.min(x.columns() - column * SIDE));
    let (values, stride) = x.from(row * SIDE, column * SIDE);
    // SAFETY: the view holds these rows and columns; for the rest by the contract.
    unsafe { x86::split(values.as_ptr(), rows, columns, stride, out) };
}

mod x86 {
    use super::super::blocks::masks;
    use super::super::vectors::{round2, widen};
    use super::{BLOCK, Bf16, SIDE};
    use std::arch::x86_64::*;

    /// # Safety
    /// `x` holds `rows` rows of `columns` values (at most 32 of each) `stride` apart; `out` three blocks at a cache line.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub unsafe fn split(x: *const f32, rows: usize, columns: usize, stride: usize, out: *mut Bf16) {
        let masks = masks(columns);
        for r in 0..SIDE {
            // SAFETY: masked-out addresses are not touched; the others are inside by the contract.
            unsafe {
                let mut rest = [_mm512_setzero_ps(); 2];
                if r < rows {
                    let row = x.add(r * stride);
                    rest = [
                        _mm512_maskz_loadu_ps(masks[0], row),
                        _mm512_maskz_loadu_ps(masks[1], row.wrapping_add(16)),
                    ];
                }
                for part in 0..3 {
                    let rounded = round2(rest[0], rest[1]);
                    let values = widen(rounded);
                    rest = [_mm512_sub_ps(rest[0], values[0]), _mm512_sub_ps(rest[1], values[1])];
                    _mm512_store_si512(out.add(part * BLOCK + r * SIDE).cast(), rounded);
                }
            }
        }
    }

    /// `out = keep·out + scale·sums` for a block.
    ///
    /// # Safety
    /// `out` holds `rows` rows of `columns` values (at most 32 of each) `stride` apart; `sums` is a block.
    #[target_feature(enable = "avx512f")]
    pub unsafe fn store(
        out: *mut f32,
        rows: usize,
        columns: usize,
        stride: usize,
        sums: &[f32],
        keep: bool,
        scale: f32,
    ) {
        let scale = _mm512_set1_ps(scale);
        for (half, mask) in [0, 16].into_iter().zip(masks(columns)) {
            for r in 0..rows {
                // SAFETY: masked-out addresses are not touched; the others are inside by the contract.
                unsafe {
                    let out = out.wrapping_add(r * stride + half);
                    let sums = _mm512_loadu_ps(sums.as_ptr().add(r * SIDE + half));
                    let values = if keep {
                        _mm512_fmadd_ps(sums, scale, _mm512_maskz_loadu_ps(mask, out))
                    } else {
                        _mm512_mul_ps(sums, scale)
                    };
                    _mm512_mask_storeu_ps(out, mask, values);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Numbers of very different sizes with all bits in use.
    fn values(n: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as f32 / (1u64 << 31) as f32 * 2.0 - 1.0
        };
        (0..n).map(|_| next() * (10.0f32).powi((next() * 4.0) as i32)).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn is_as_exact_as_f32(
            m in 16usize..100, n in 16usize..100, k in 16usize..300, ta: bool, tb: bool, keep: bool, threads in 1usize..4,
        ) {
            if !pays(m, n, k) {
                return Ok(());
            }
            let (a, b, before) = (values(m * k, 1), values(k * n, 2), values(m * n, 3));
            let va = if ta { View::new(&a, k, m, m).transposed() } else { View::new(&a, m, k, k) };
            let vb = if tb { View::new(&b, n, k, k).transposed() } else { View::new(&b, k, n, n) };
            let mut out = before.clone();
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
            // SAFETY: sizes fit.
            pool.install(|| unsafe { gemm(&mut out, n, keep, 0.5, va, vb) });
            for r in 0..m {
                for c in 0..n {
                    let (mut want, mut size) = (0f64, 0f64);
                    for i in 0..k {
                        let x = if ta { a[i * m + r] } else { a[r * k + i] };
                        let y = if tb { b[c * k + i] } else { b[i * n + c] };
                        want += x as f64 * y as f64;
                        size += (x as f64 * y as f64).abs();
                    }
                    let old = if keep { before[r * n + c] as f64 } else { 0.0 };
                    let want = 0.5 * want + old;
                    // What sums of k products in f32 may lose, and the rounding of the result.
                    let bound = (k as f64).sqrt() * f32::EPSILON as f64 * (size + old.abs());
                    prop_assert!((out[r * n + c] as f64 - want).abs() <= bound, "{} {want} {bound}", out[r * n + c]);
                }
            }
        }
    }

    #[test]
    fn a_large_product_in_several_parts() {
        let (m, n, k) = (600, 1100, 70);
        if !pays(m, n, k) {
            return;
        }
        let (a, b) = (vec![1.0f32; m * k], vec![2.0f32; k * n]);
        let mut out = vec![f32::NAN; m * n];
        // SAFETY: sizes fit.
        unsafe { gemm(&mut out, n, false, 1.0, View::new(&a, m, k, k), View::new(&b, k, n, n)) };
        assert!(out.iter().all(|v| *v == 140.0));
    }
}
