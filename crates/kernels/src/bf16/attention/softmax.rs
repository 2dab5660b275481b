//! Softmax and its gradient on blocks of scores, and what else is done to rows of them.

use super::super::avx512::{round2, transpose, widen, zip};
use super::super::blocks::{SIDE, masks};
use super::super::math::exp2;
use super::super::number::Bf16;
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
pub unsafe fn update_row_max(scores: &[f32], keys: usize, factor: f32, top: &mut [f32; SIDE]) {
    let lowest = _mm512_set1_ps(f32::NEG_INFINITY);
    let [low, high] = masks(keys);
    let mut rows = [lowest; SIDE];
    for (r, out) in rows.iter_mut().enumerate() {
        // SAFETY: a block has 32 rows of 32.
        unsafe {
            let row = scores.as_ptr().add(r * SIDE);
            let left = _mm512_mask_mov_ps(lowest, low, _mm512_loadu_ps(row));
            *out = _mm512_mask_max_ps(left, high, left, _mm512_loadu_ps(row.add(16)));
        }
    }
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
pub unsafe fn exp_scores(
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
            let mut p = [_mm512_setzero_ps(); 2];
            for half in 0..2 {
                // Not fused: the largest score has to give exactly 0, however large it is.
                let s = _mm512_mul_ps(_mm512_loadu_ps(row.add(16 * half)), factor);
                p[half] = exp2(_mm512_sub_ps(s, top));
                if keys < SIDE {
                    p[half] = _mm512_maskz_mov_ps(masks[half], p[half]);
                }
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
pub unsafe fn row_sums(sums: &Rows) -> [f32; SIDE] {
    across(sums.0, |a, b| _mm512_add_ps(a, b))
}

/// Reduces each of 32 registers to one number.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn across(rows: [__m512; SIDE], fold: impl Fn(__m512, __m512) -> __m512) -> [f32; SIDE] {
    let mut out = [0f32; SIDE];
    for half in [0, 16] {
        let mut sixteen = [_mm512_setzero_si512(); 16];
        for (turned, row) in sixteen.iter_mut().zip(&rows[half..]) {
            *turned = _mm512_castps_si512(*row);
        }
        let turned = transpose(sixteen);
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
        let lse = [_mm512_loadu_ps(lse.as_ptr()), _mm512_loadu_ps(lse.as_ptr().add(16))];
        let delta = [_mm512_loadu_ps(delta.as_ptr()), _mm512_loadu_ps(delta.as_ptr().add(16))];
        // Each row is written out: in a loop over both, they would pass through memory on their way to `zip`.
        for pair in 0..16 {
            let (r, at) = (2 * pair, 2 * pair * SIDE);
            let row = |r: usize| probs_and_dscores(scores, d_scores, r, keys, factor, &lse, &delta);
            let ([even, even_slope], [odd, odd_slope]) = (row(r), row(r + 1));
            let [low, high] = zip(even_slope, odd_slope);
            _mm512_store_si512(weights.as_mut_ptr().add(at).cast(), even);
            _mm512_store_si512(weights.as_mut_ptr().add(at + SIDE).cast(), odd);
            _mm512_store_si512(slopes.as_mut_ptr().add(at).cast(), even_slope);
            _mm512_store_si512(slopes.as_mut_ptr().add(at + SIDE).cast(), odd_slope);
            _mm512_store_si512(step.as_mut_ptr().add(pair * SIDE).cast(), low);
            _mm512_store_si512(step.as_mut_ptr().add(512 + pair * SIDE).cast(), high);
        }
    }
}

/// Row `r` of the weights and the slopes, rounded; see [`score_gradient`].
///
/// # Safety
/// `scores` and `d_scores` are blocks.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16")]
unsafe fn probs_and_dscores(
    scores: &[f32],
    d_scores: &[f32],
    r: usize,
    keys: usize,
    factor: __m512,
    lse: &[__m512; 2],
    delta: &[__m512; 2],
) -> [__m512i; 2] {
    if r >= keys {
        return [_mm512_setzero_si512(); 2];
    }
    // SAFETY: by the contract.
    unsafe {
        let (s, d) = (scores.as_ptr().add(r * SIDE), d_scores.as_ptr().add(r * SIDE));
        let left = prob_and_dscore(s, d, factor, lse[0], delta[0]);
        let right = prob_and_dscore(s.add(16), d.add(16), factor, lse[1], delta[1]);
        [round2(left[0], right[0]), round2(left[1], right[1])]
    }
}

/// Sixteen weights and slopes; see [`score_gradient`].
///
/// # Safety
/// Both pointers are to sixteen values.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
unsafe fn prob_and_dscore(
    scores: *const f32,
    d_scores: *const f32,
    factor: __m512,
    lse: __m512,
    delta: __m512,
) -> [__m512; 2] {
    // SAFETY: by the contract.
    let (s, d) = unsafe { (_mm512_loadu_ps(scores), _mm512_loadu_ps(d_scores)) };
    let weight = exp2(_mm512_fmsub_ps(s, factor, lse));
    [weight, _mm512_mul_ps(weight, _mm512_sub_ps(d, delta))]
}

/// `out[r] += Σ_c a[r, c] · b[r, c]` of two blocks.
///
/// # Safety
/// `a` and `b` are blocks, `out` has 32 values.
#[target_feature(enable = "avx512f,avx512bw")]
pub unsafe fn add_row_products(a: &[Bf16], b: &[Bf16], out: &mut [f32]) {
    for (r, out) in out.iter_mut().enumerate() {
        // SAFETY: by the contract.
        let [a, b] = unsafe {
            [
                widen(_mm512_loadu_si512(a.as_ptr().add(r * SIDE).cast())),
                widen(_mm512_loadu_si512(b.as_ptr().add(r * SIDE).cast())),
            ]
        };
        *out += _mm512_reduce_add_ps(_mm512_fmadd_ps(a[0], b[0], _mm512_mul_ps(a[1], b[1])));
    }
}

/// Rows of 32 values, each times its factor, rounded; past the caches, if `streamed`.
///
/// # Safety
/// `values` has a row for each of `factors`, `out` room for as many, at a cache line.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub unsafe fn round_rows(values: &[f32], factors: &[f32], out: *mut Bf16, streamed: bool) {
    for (r, factor) in factors.iter().enumerate() {
        let factor = _mm512_set1_ps(*factor);
        // SAFETY: by the contract.
        unsafe {
            let row = values.as_ptr().add(r * SIDE);
            let low = _mm512_mul_ps(_mm512_loadu_ps(row), factor);
            let high = _mm512_mul_ps(_mm512_loadu_ps(row.add(16)), factor);
            let (out, rounded) = (out.add(r * SIDE).cast(), round2(low, high));
            if streamed {
                _mm512_stream_si512(out, rounded);
            } else {
                _mm512_store_si512(out.cast(), rounded);
            }
        }
    }
}
