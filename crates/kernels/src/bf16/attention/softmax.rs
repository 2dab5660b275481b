//! Softmax and its gradient on blocks of scores, and other row-wise operations on blocks.

use super::super::blocks::{BLOCK, SIDE};
use super::super::math::exp2;
use super::super::number::Bf16;
use super::super::registers::{Registers, for_registers, masks};

/// Partial sums of 32 rows, one register per row.
#[repr(align(64))]
pub struct RowSums([[f32; 16]; SIDE]);

impl Default for RowSums {
    fn default() -> Self {
        Self([[0.0; 16]; SIDE])
    }
}

for_registers! {
/// Computes `row_max[r] = max(row_max[r], factor · max_c scores[r, c])` over the first `keys` columns.
///
/// # Safety
/// `engine()` is `Some`; `scores` is a block.
pub unsafe fn update_row_max<R>(scores: &[f32], keys: usize, factor: f32, row_max: &mut [f32; SIDE]) {
    // SAFETY: a block has 32 rows of 32 (caller).
    unsafe {
        let lowest = R::splat(f32::NEG_INFINITY);
        let [low, high] = masks(keys);
        let mut rows = [lowest; SIDE];
        for (r, out) in rows.iter_mut().enumerate() {
            let row = scores.as_ptr().add(r * SIDE);
            let first_half = R::select(low, R::load(row), lowest);
            *out = R::select(high, R::max(first_half, R::load(row.add(16))), first_half);
        }
        let largest = reduce_rows::<R, true>(rows);
        for (row_max, largest) in row_max.iter_mut().zip(largest) {
            // Clamped, because the difference of two infinite scores would be NaN.
            *row_max = row_max.max((largest * factor).clamp(f32::MIN, f32::MAX));
        }
    }
}
}

for_registers! {
/// Computes `2^(factor·score − row_max)`, adds the values to `sums`, and writes them, rounded, to `probs`. Column
/// `keys` and all later columns of `probs` are zero.
///
/// # Safety
/// `engine()` is `Some`; `scores` is a block, and `probs` a 64-byte aligned block.
pub unsafe fn exp_scores<R>(
    scores: &[f32],
    keys: usize,
    factor: f32,
    row_max: &[f32; SIDE],
    probs: &mut [Bf16],
    sums: &mut RowSums,
) {
    // SAFETY: a block has 32 rows of 32 (caller).
    unsafe {
        let factor = R::splat(factor);
        let masks = masks(keys);
        for r in 0..SIDE {
            let row = scores.as_ptr().add(r * SIDE);
            let row_max = R::splat(row_max[r]);
            let mut p = [R::splat(0.0); 2];
            for half in 0..2 {
                // Not fused, so that the exponent of the largest score is exactly 0.
                let s = R::mul(R::load(row.add(16 * half)), factor);
                p[half] = exp2::<R>(R::sub(s, row_max));
                if keys < SIDE {
                    p[half] = R::select(masks[half], p[half], R::splat(0.0));
                }
            }
            let sum = sums.0[r].as_mut_ptr();
            R::store(sum, R::add(R::load(sum), R::add(p[0], p[1])));
            R::store_bf16(probs.as_mut_ptr().add(r * SIDE), R::round(p[0], p[1]));
        }
    }
}
}

for_registers! {
/// Returns the sum of each row.
///
/// # Safety
/// `engine()` is `Some`.
pub unsafe fn row_sums<R>(sums: &RowSums) -> [f32; SIDE] {
    // SAFETY: each row has sixteen values.
    unsafe {
        let mut rows = [R::splat(0.0); SIDE];
        for (row, sums) in rows.iter_mut().zip(&sums.0) {
            *row = R::load(sums.as_ptr());
        }
        reduce_rows::<R, false>(rows)
    }
}
}

/// Returns the maximum of the lanes of each register if `MAX`, else their sum.
///
/// # Safety
/// The CPU has the instruction set of `R`.
#[inline(always)]
unsafe fn reduce_rows<R: Registers, const MAX: bool>(rows: [R::F32; SIDE]) -> [f32; SIDE] {
    let mut out = [0f32; SIDE];
    for half in [0, 16] {
        // SAFETY: `out` has sixteen values from `half` on.
        unsafe {
            let mut sixteen = [R::splat(0.0); 16];
            sixteen.copy_from_slice(&rows[half..half + 16]);
            let columns = R::transpose(sixteen);
            let mut result = columns[0];
            for column in &columns[1..] {
                result = if MAX {
                    R::max(result, *column)
                } else {
                    R::add(result, *column)
                };
            }
            R::store(out.as_mut_ptr().add(half), result);
        }
    }
    out
}

for_registers! {
/// Computes the probabilities `p = 2^(factor·score − lse)` and the gradients of the scores `p·(d − delta)`, both rounded. The scores are
/// transposed (keys are rows, queries are columns), and `d` is `d_probs`. The gradients of the scores are also packed as an rhs. Row `keys`
/// and all later rows of the results are zero.
///
/// # Safety
/// `engine()` is `Some`; `scores`, `d_probs` and the results are 64-byte aligned blocks, `lse` and `delta` have 32 values.
pub unsafe fn score_gradient<R>(
    scores: &[f32],
    d_probs: &[f32],
    lse: &[f32],
    delta: &[f32],
    factor: f32,
    keys: usize,
    probs: &mut [Bf16],
    d_scores: &mut [Bf16],
    d_scores_packed: &mut [Bf16],
) {
    // SAFETY: a block has 32 rows of 32 values, which are sixteen pairs of rows (caller).
    unsafe {
        let factor = R::splat(factor);
        let lse = [R::load(lse.as_ptr()), R::load(lse.as_ptr().add(16))];
        let delta = [R::load(delta.as_ptr()), R::load(delta.as_ptr().add(16))];
        let (probs, d_scores, packed) = (probs.as_mut_ptr(), d_scores.as_mut_ptr(), d_scores_packed.as_mut_ptr());
        // Unrolled by two rows: in a loop over both, the compiler passes the registers to `interleave` through memory.
        for pair in 0..16 {
            let (r, offset) = (2 * pair, 2 * pair * SIDE);
            let [even, d_even] = probs_and_dscores::<R>(scores, d_probs, r, keys, factor, &lse, &delta);
            let [odd, d_odd] = probs_and_dscores::<R>(scores, d_probs, r + 1, keys, factor, &lse, &delta);
            let [low, high] = R::interleave(d_even, d_odd);
            R::store_bf16(probs.add(offset), even);
            R::store_bf16(probs.add(offset + SIDE), odd);
            R::store_bf16(d_scores.add(offset), d_even);
            R::store_bf16(d_scores.add(offset + SIDE), d_odd);
            R::store_bf16(packed.add(pair * SIDE), low);
            R::store_bf16(packed.add(BLOCK / 2 + pair * SIDE), high);
        }
    }
}
}

/// Computes row `r` of the probabilities and of the gradients of the scores, rounded; see [`score_gradient`].
///
/// # Safety
/// The CPU has the instruction set of `R`; `scores` and `d_probs` are blocks; `r` is below 32.
#[inline(always)]
unsafe fn probs_and_dscores<R: Registers>(
    scores: &[f32],
    d_probs: &[f32],
    r: usize,
    keys: usize,
    factor: R::F32,
    lse: &[R::F32; 2],
    delta: &[R::F32; 2],
) -> [R::Bf16; 2] {
    // SAFETY: a block has 32 rows of 32 (caller).
    unsafe {
        if r >= keys {
            return [R::zero_bf16(); 2];
        }
        let (s, d) = (scores.as_ptr().add(r * SIDE), d_probs.as_ptr().add(r * SIDE));
        let low = prob_and_dscore::<R>(s, d, factor, lse[0], delta[0]);
        let high = prob_and_dscore::<R>(s.add(16), d.add(16), factor, lse[1], delta[1]);
        [R::round(low[0], high[0]), R::round(low[1], high[1])]
    }
}

/// Computes sixteen probabilities and gradients of scores; see [`score_gradient`].
///
/// # Safety
/// The CPU has the instruction set of `R`; both pointers are valid for sixteen values.
#[inline(always)]
unsafe fn prob_and_dscore<R: Registers>(
    scores: *const f32,
    d_probs: *const f32,
    factor: R::F32,
    lse: R::F32,
    delta: R::F32,
) -> [R::F32; 2] {
    // SAFETY: both pointers are valid for sixteen values (caller).
    unsafe {
        let prob = exp2::<R>(R::mul_sub(R::load(scores), factor, lse));
        [prob, R::mul(prob, R::sub(R::load(d_probs), delta))]
    }
}

for_registers! {
/// Adds the row-wise dot products of two blocks: `out[r] += Σ_c a[r, c] · b[r, c]`.
///
/// # Safety
/// `engine()` is `Some`; `a` and `b` are blocks, `out` has at most 32 values.
pub unsafe fn add_row_dots<R>(a: &[Bf16], b: &[Bf16], out: &mut [f32]) {
    for (r, out) in out.iter_mut().enumerate() {
        // SAFETY: a block has 32 rows of 32 (caller).
        unsafe {
            let a = R::widen(R::load_bf16(a.as_ptr().add(r * SIDE)));
            let b = R::widen(R::load_bf16(b.as_ptr().add(r * SIDE)));
            *out += R::reduce_add(R::mul_add(a[0], b[0], R::mul(a[1], b[1])));
        }
    }
}
}

for_registers! {
/// Multiplies each row of 32 values by its factor, rounds it, and stores it; with non-temporal stores if `non_temporal`.
///
/// # Safety
/// `engine()` is `Some`; `values` has a row for each of `factors`; `out` is valid for the same number of rows, and 64-byte aligned.
pub unsafe fn round_rows<R>(values: &[f32], factors: &[f32], out: *mut Bf16, non_temporal: bool) {
    for (r, factor) in factors.iter().enumerate() {
        // SAFETY: there is a row for each factor (caller).
        unsafe {
            let factor = R::splat(*factor);
            let row = values.as_ptr().add(r * SIDE);
            let low = R::mul(R::load(row), factor);
            let high = R::mul(R::load(row.add(16)), factor);
            let (out, rounded) = (out.add(r * SIDE), R::round(low, high));
            if non_temporal {
                R::stream_bf16(out, rounded);
            } else {
                R::store_bf16(out, rounded);
            }
        }
    }
}
}
