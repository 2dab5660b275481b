//! Softmax and its gradient on blocks of scores, and what else is done to rows of them.

use super::super::Bf16;
use super::super::blocks::{SIDE, masks};
use super::super::math::exp2;
use super::super::vectors::{round2, transpose, widen, zip};
use std::arch::x86_64::*;

/// A register for each of 32 rows.
pub struct Rows([__m512; SIDE]);

impl Default for Rows {
    fn default() -> Self {
        // SAFETY: zeros are numbers.
        unsafe { std::mem::zeroed() }
    }
}

/// `top[r] = max(top[r], factor · the largest score of row r)`, of the first `keys` columns.
///
/// # Safety
/// `scores` is a block.
#[target_feature(enable = "avx512f,avx512bw,avx512dq")]
pub unsafe fn raise_to_maxima(scores: &[f32], keys: usize, factor: f32, top: &mut [f32; SIDE]) {
    let lowest = _mm512_set1_ps(f32::NEG_INFINITY);
    let [low, high] = masks(keys);
    // SAFETY: a block has 32 rows of 32.
    let rows = std::array::from_fn(|r| unsafe {
        let row = scores.as_ptr().add(r * SIDE);
        let left = _mm512_mask_mov_ps(lowest, low, _mm512_loadu_ps(row));
        _mm512_mask_max_ps(left, high, left, _mm512_loadu_ps(row.add(16)))
    });
    let largest = across(rows, |a, b| _mm512_max_ps(a, b));
    for (top, largest) in top.iter_mut().zip(largest) {
        // The clamp keeps infinite scores from becoming differences of infinities.
        *top = top.max((largest * factor).clamp(f32::MIN, f32::MAX));
    }
}

/// `2^(factor·score − top of the row)`, rounded, to `weights`, and added to `sums`. Columns from `keys` on have no weight.
///
/// # Safety
/// `scores` is a block, `weights` one at a cache line.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16")]
pub unsafe fn weigh(
    scores: &[f32],
    keys: usize,
    factor: f32,
    top: &[f32; SIDE],
    weights: &mut [Bf16],
    sums: &mut Rows,
) {
    let factor = _mm512_set1_ps(factor);
    let masks = masks(keys);
    for r in 0..SIDE {
        // SAFETY: a block has 32 rows of 32.
        unsafe {
            let row = scores.as_ptr().add(r * SIDE);
            let top = _mm512_set1_ps(top[r]);
            let mut p = [0, 1].map(|half| {
                // Not fused: the largest score has to give exactly 0, however large it is.
                let s = _mm512_mul_ps(_mm512_loadu_ps(row.add(16 * half)), factor);
                exp2(_mm512_sub_ps(s, top))
            });
            if keys < SIDE {
                p = [0, 1].map(|half| _mm512_maskz_mov_ps(masks[half], p[half]));
            }
            sums.0[r] = _mm512_add_ps(sums.0[r], _mm512_add_ps(p[0], p[1]));
            _mm512_store_si512(weights.as_mut_ptr().add(r * SIDE).cast(), round2(p[0], p[1]));
        }
    }
}

/// The sum of each row's register.
///
/// # Safety
/// The machine has the instructions.
#[target_feature(enable = "avx512f,avx512bw")]
pub unsafe fn totals(sums: &Rows) -> [f32; SIDE] {
    across(sums.0, |a, b| _mm512_add_ps(a, b))
}

/// Reduces each of 32 registers to one number.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn across(rows: [__m512; SIDE], fold: impl Fn(__m512, __m512) -> __m512) -> [f32; SIDE] {
    let mut out = [0f32; SIDE];
    for half in [0, 16] {
        let turned = transpose(std::array::from_fn(|r| _mm512_castps_si512(rows[half + r])));
        let mut all = _mm512_castsi512_ps(turned[0]);
        for row in &turned[1..] {
            all = fold(all, _mm512_castsi512_ps(*row));
        }
        // SAFETY: sixteen of 32 values.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr().add(half), all) };
    }
    out
}

/// From scores and their gradients before the softmax, both with keys as rows and queries as columns: weights
/// `p = 2^(factor·score − lse)`, slopes `p·(d − delta)`, both rounded, and the slopes once more as a step. Rows from
/// `keys` on are zero.
///
/// # Safety
/// `scores`, `d_scores` and the results are blocks at cache lines, `lse` and `delta` 32 values.
#[allow(clippy::too_many_arguments)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16")]
pub unsafe fn score_gradient(
    scores: &[f32],
    d_scores: &[f32],
    lse: &[f32],
    delta: &[f32],
    factor: f32,
    keys: usize,
    weights: &mut [Bf16],
    slopes: &mut [Bf16],
    step: &mut [Bf16],
) {
    let factor = _mm512_set1_ps(factor);
    // SAFETY: by the contract.
    unsafe {
        let lse = [0, 16].map(|c| _mm512_loadu_ps(lse.as_ptr().add(c)));
        let delta = [0, 16].map(|c| _mm512_loadu_ps(delta.as_ptr().add(c)));
        for pair in 0..16 {
            let pair_slopes = [2 * pair, 2 * pair + 1].map(|r| {
                let (mut p, mut d) = (_mm512_setzero_si512(), _mm512_setzero_si512());
                if r < keys {
                    let parts = [0, 1].map(|half| {
                        let at = r * SIDE + 16 * half;
                        let s = _mm512_fmsub_ps(_mm512_loadu_ps(scores.as_ptr().add(at)), factor, lse[half]);
                        let p = exp2(s);
                        let d = _mm512_sub_ps(_mm512_loadu_ps(d_scores.as_ptr().add(at)), delta[half]);
                        (p, _mm512_mul_ps(p, d))
                    });
                    p = round2(parts[0].0, parts[1].0);
                    d = round2(parts[0].1, parts[1].1);
                }
                _mm512_store_si512(weights.as_mut_ptr().add(r * SIDE).cast(), p);
                _mm512_store_si512(slopes.as_mut_ptr().add(r * SIDE).cast(), d);
                d
            });
            let [low, high] = zip(pair_slopes[0], pair_slopes[1]);
            _mm512_store_si512(step.as_mut_ptr().add(pair * SIDE).cast(), low);
            _mm512_store_si512(step.as_mut_ptr().add(512 + pair * SIDE).cast(), high);
        }
    }
}

/// `out[r] += Σ_c a[r, c] · b[r, c]` of two blocks.
///
/// # Safety
/// `a` and `b` are blocks, `out` has 32 values.
#[target_feature(enable = "avx512f,avx512bw")]
pub unsafe fn add_row_products(a: &[Bf16], b: &[Bf16], out: &mut [f32]) {
    for (r, out) in out.iter_mut().enumerate() {
        // SAFETY: by the contract.
        let [a, b] = [a, b].map(|m| unsafe { widen(_mm512_loadu_si512(m.as_ptr().add(r * SIDE).cast())) });
        *out += _mm512_reduce_add_ps(_mm512_fmadd_ps(a[0], b[0], _mm512_mul_ps(a[1], b[1])));
    }
}

/// Rows of 32 values, each times its factor, rounded.
///
/// # Safety
/// `values` has a row for each of `factors`, `out` room for as many.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub unsafe fn round_rows(values: &[f32], factors: &[f32], out: *mut Bf16) {
    for (r, factor) in factors.iter().enumerate() {
        let factor = _mm512_set1_ps(*factor);
        // SAFETY: by the contract.
        unsafe {
            let row = values.as_ptr().add(r * SIDE);
            let [low, high] = [0, 16].map(|c| _mm512_mul_ps(_mm512_loadu_ps(row.add(c)), factor));
            _mm512_storeu_si512(out.add(r * SIDE).cast(), round2(low, high));
        }
    }
}
