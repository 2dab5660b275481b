//! Softmax and its gradient for transposed scores: each row (two registers) is a key, and each lane is a query.

use vlct_simd::for_lanes;
use vlct_simd::lanes::{Lanes, exp2_nonpositive};

/// Loads a row into two registers.
///
/// # Safety
/// The CPU has the instruction set of `L`, and the row has `2·WIDTH` values.
#[inline(always)]
unsafe fn load<L: Lanes>(row: &[f32]) -> [L; 2] {
    // SAFETY: the row has `2·WIDTH` values (caller).
    unsafe { [L::load(row.as_ptr()), L::load(row.as_ptr().wrapping_add(L::WIDTH))] }
}

/// Stores two registers to a row.
///
/// # Safety
/// The CPU has the instruction set of `L`, and the row has `2·WIDTH` values.
#[inline(always)]
unsafe fn store<L: Lanes>(values: [L; 2], row: &mut [f32]) {
    for (half, value) in values.into_iter().enumerate() {
        // SAFETY: the row has `2·WIDTH` values (caller).
        unsafe { value.store(row.as_mut_ptr().wrapping_add(half * L::WIDTH)) };
    }
}

for_lanes! {
/// Writes the largest `factor·score` of each query to `row_max`, replaces the scores by `2^(factor·score − row_max)`, and writes the sum of
/// the new values of each query to `row_sum`.
///
/// # Panics
/// If `row_max`, `row_sum` or a row is not two registers long.
pub fn softmax<L>(scores: &mut [f32], factor: f32, row_max: &mut [f32], row_sum: &mut [f32]) {
    /// Number of independent running maxima, which hide the latency of the maximum instruction.
    const CHAINS: usize = 4;
    let width = 2 * L::WIDTH;
    assert!(row_max.len() == width && row_sum.len() == width && scores.len().is_multiple_of(width));
    // SAFETY: rows are two registers long (asserts); `for_lanes!` has checked the instruction set.
    unsafe {
        let factor = L::splat(factor);
        let mut maxima = [[L::splat(f32::NEG_INFINITY); 2]; CHAINS];
        for rows in scores.chunks(CHAINS * width) {
            for (row, max) in rows.chunks_exact(width).zip(&mut maxima) {
                let row = load::<L>(row);
                *max = [max[0].max(row[0]), max[1].max(row[1])];
            }
        }
        let mut total = maxima[0];
        for max in &maxima[1..] {
            total = [total[0].max(max[0]), total[1].max(max[1])];
        }
        let maxima = total.map(|max| max.mul(factor));
        let mut sums = [L::splat(0.0); 2];
        for row in scores.chunks_exact_mut(width) {
            let mut probs = load::<L>(row);
            for ((prob, max), sum) in probs.iter_mut().zip(maxima).zip(&mut sums) {
                // Not fused, so that the exponent of the largest score is exactly 0.
                *prob = exp2_nonpositive(prob.mul(factor).sub(max));
                *sum = sum.add(*prob);
            }
            store(probs, row);
        }
        store(maxima, row_max);
        store(sums, row_sum);
    }
}
}

for_lanes! {
/// Divides each value of column `i` by `row_sum[i]`. Column `i` belongs to query `i`.
///
/// # Panics
/// If `row_sum` or a row is not two registers long.
pub fn divide_columns<L>(values: &mut [f32], row_sum: &[f32]) {
    let width = 2 * L::WIDTH;
    assert!(row_sum.len() == width && values.len().is_multiple_of(width));
    // SAFETY: rows are two registers long (asserts); `for_lanes!` has checked the instruction set.
    unsafe {
        let factors = load::<L>(row_sum).map(|row_sum| L::splat(1.0).div(row_sum));
        for row in values.chunks_exact_mut(width) {
            let values = load::<L>(row);
            store([values[0].mul(factors[0]), values[1].mul(factors[1])], row);
        }
    }
}
}

for_lanes! {
/// Replaces the scores by the probabilities `p = 2^(factor·score − lse)`, and the gradients `d` of the probabilities by the gradients of
/// the scaled scores, `p·(d − delta)`. Each query has its `lse` (log-sum-exp) and its `delta` (`Σ p·d` over the keys).
///
/// # Panics
/// If the sizes do not fit, or `lse` or `delta` is not two registers long.
pub fn score_gradient<L>(scores: &mut [f32], gradients: &mut [f32], factor: f32, lse: &[f32], delta: &[f32]) {
    let width = 2 * L::WIDTH;
    assert!(lse.len() == width && delta.len() == width);
    assert!(scores.len() == gradients.len() && scores.len().is_multiple_of(width));
    // SAFETY: rows are two registers long (asserts); `for_lanes!` has checked the instruction set.
    unsafe {
        let factor = L::splat(factor);
        let (lse, delta) = (load::<L>(lse), load::<L>(delta));
        for (row, d_row) in scores.chunks_exact_mut(width).zip(gradients.chunks_exact_mut(width)) {
            let (mut probs, mut d_scores) = (load::<L>(row), load::<L>(d_row));
            for half in 0..2 {
                probs[half] = exp2_nonpositive(probs[half].mul(factor).sub(lse[half]));
                d_scores[half] = probs[half].mul(d_scores[half].sub(delta[half]));
            }
            store(probs, row);
            store(d_scores, d_row);
        }
    }
}
}

#[cfg(test)]
mod tests {
    use super::super::gemm::nr;
    use super::*;
    use vlct_simd::at_each_level;

    fn value(i: usize) -> f32 {
        ((i * 7919) % 1009) as f32 / 20.0 - 25.0
    }

    #[test]
    fn softmax_and_gradient_equal_their_definitions() {
        const FACTOR: f32 = 0.3;
        at_each_level(|| {
            for rows in [1, 2, 7, 40] {
                let width = nr();
                let before: Vec<f32> = (0..rows * width).map(value).collect();
                let column = |c: usize| before.iter().skip(c).step_by(width).map(|s| (FACTOR * s) as f64);
                let mut probs = before.clone();
                let [mut row_max, mut row_sum] = [(); 2].map(|_| vec![f32::NAN; width]);
                softmax(&mut probs, FACTOR, &mut row_max, &mut row_sum);
                for c in 0..width {
                    let largest = column(c).fold(f64::MIN, f64::max);
                    assert!((row_max[c] as f64 - largest).abs() < 1e-5);
                    let want: f64 = column(c).map(|s| (s - largest).exp2()).sum();
                    assert!((row_sum[c] as f64 / want - 1.0).abs() < 1e-5);
                    for (r, s) in column(c).enumerate() {
                        assert!((probs[r * width + c] as f64 / (s - largest).exp2() - 1.0).abs() < 1e-5);
                    }
                }

                let lse: Vec<f32> = row_max
                    .iter()
                    .zip(&row_sum)
                    .map(|(row_max, row_sum)| row_max + row_sum.log2())
                    .collect();
                let delta: Vec<f32> = (0..width).map(value).collect();
                let gradients: Vec<f32> = (0..rows * width).map(|i| value(i + 3)).collect();
                let (mut again, mut d_scores) = (before.clone(), gradients.clone());
                score_gradient(&mut again, &mut d_scores, FACTOR, &lse, &delta);
                divide_columns(&mut probs, &row_sum);
                for (i, prob) in probs.iter().enumerate() {
                    assert!((again[i] / prob - 1.0).abs() < 1e-5);
                    let want = prob * (gradients[i] - delta[i % width]);
                    assert!((d_scores[i] - want).abs() <= 1e-5 * want.abs());
                }
            }
        });
    }
}
