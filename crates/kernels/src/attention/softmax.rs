//! Softmax and its gradient of scores whose rows are keys and whose columns are queries, as many as two registers hold.

use vlct_simd::for_lanes;
use vlct_simd::lanes::{Lanes, exp2_nonpositive};

/// One register of each half of a row.
#[inline(always)]
unsafe fn halves<L: Lanes>(row: &[f32]) -> [L; 2] {
    // SAFETY: a row has two registers' numbers; the machine has the instructions (callers).
    unsafe { [L::load(row.as_ptr()), L::load(row.as_ptr().wrapping_add(L::WIDTH))] }
}

/// The same, written.
#[inline(always)]
unsafe fn store<L: Lanes>(values: [L; 2], row: &mut [f32]) {
    for (half, value) in values.into_iter().enumerate() {
        // SAFETY: as in `halves`.
        unsafe { value.store(row.as_mut_ptr().wrapping_add(half * L::WIDTH)) };
    }
}

for_lanes! {
/// Replaces scores by `2^(factor·score − top)`, where `top` is the largest one of the query, times the factor; the sums go to
/// `total`.
///
/// # Panics
/// If the rows have another length than `top` and `total`, or that is another one than two registers have.
pub fn softmax<L>(scores: &mut [f32], factor: f32, top: &mut [f32], total: &mut [f32]) {
    /// Rows whose maxima are found beside each other: the next one need not wait for the last.
    const BESIDE: usize = 4;
    let width = 2 * L::WIDTH;
    assert!(top.len() == width && total.len() == width && scores.len().is_multiple_of(width));
    // SAFETY: rows of two registers; the machine has the instructions.
    unsafe {
        let factor = L::splat(factor);
        let mut largest = [[L::splat(f32::NEG_INFINITY); 2]; BESIDE];
        for rows in scores.chunks(BESIDE * width) {
            for (row, largest) in rows.chunks_exact(width).zip(&mut largest) {
                let row = halves::<L>(row);
                *largest = [largest[0].max(row[0]), largest[1].max(row[1])];
            }
        }
        let mut highest = largest[0];
        for largest in &largest[1..] {
            highest = [highest[0].max(largest[0]), highest[1].max(largest[1])];
        }
        let highest = highest.map(|h| h.mul(factor));
        let mut sums = [L::splat(0.0); 2];
        for row in scores.chunks_exact_mut(width) {
            let mut weights = halves::<L>(row);
            for ((weight, highest), sum) in weights.iter_mut().zip(highest).zip(&mut sums) {
                // Not fused: the largest score has to give exactly 0, however large it is.
                *weight = exp2_nonpositive(weight.mul(factor).sub(highest));
                *sum = sum.add(*weight);
            }
            store(weights, row);
        }
        store(highest, top);
        store(sums, total);
    }
}
}

for_lanes! {
/// Divides each column by its total.
///
/// # Panics
/// As [`softmax`].
pub fn divide_columns<L>(values: &mut [f32], total: &[f32]) {
    let width = 2 * L::WIDTH;
    assert!(total.len() == width && values.len().is_multiple_of(width));
    // SAFETY: rows of two registers; the machine has the instructions.
    unsafe {
        let factors = halves::<L>(total).map(|total| L::splat(1.0).div(total));
        for row in values.chunks_exact_mut(width) {
            let values = halves::<L>(row);
            store([values[0].mul(factors[0]), values[1].mul(factors[1])], row);
        }
    }
}
}

for_lanes! {
/// Replaces scores by weights `w = 2^(factor·score − lse)` and the weights' gradients `d` by `w·(d − delta)`, the gradients of
/// the scores before they were scaled.
///
/// # Panics
/// If the sizes do not fit each other, or `lse` and `delta` are not two registers' numbers.
pub fn score_gradient<L>(scores: &mut [f32], gradients: &mut [f32], factor: f32, lse: &[f32], delta: &[f32]) {
    let width = 2 * L::WIDTH;
    assert!(lse.len() == width && delta.len() == width);
    assert!(scores.len() == gradients.len() && scores.len().is_multiple_of(width));
    // SAFETY: rows of two registers; the machine has the instructions.
    unsafe {
        let factor = L::splat(factor);
        let (lse, delta) = (halves::<L>(lse), halves::<L>(delta));
        for (row, d_row) in scores.chunks_exact_mut(width).zip(gradients.chunks_exact_mut(width)) {
            let (mut weights, mut slopes) = (halves::<L>(row), halves::<L>(d_row));
            for half in 0..2 {
                weights[half] = exp2_nonpositive(weights[half].mul(factor).sub(lse[half]));
                slopes[half] = weights[half].mul(slopes[half].sub(delta[half]));
            }
            store(weights, row);
            store(slopes, d_row);
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
    fn weights_and_their_gradients_are_those_of_the_definition() {
        const FACTOR: f32 = 0.3;
        at_each_level(|| {
            for rows in [1, 2, 7, 40] {
                let width = nr();
                let before: Vec<f32> = (0..rows * width).map(value).collect();
                let column = |c: usize| before.iter().skip(c).step_by(width).map(|s| (FACTOR * s) as f64);
                let mut weights = before.clone();
                let [mut top, mut total] = [(); 2].map(|_| vec![f32::NAN; width]);
                softmax(&mut weights, FACTOR, &mut top, &mut total);
                for c in 0..width {
                    let largest = column(c).fold(f64::MIN, f64::max);
                    assert!((top[c] as f64 - largest).abs() < 1e-5);
                    let want: f64 = column(c).map(|s| (s - largest).exp2()).sum();
                    assert!((total[c] as f64 / want - 1.0).abs() < 1e-5);
                    for (r, s) in column(c).enumerate() {
                        assert!((weights[r * width + c] as f64 / (s - largest).exp2() - 1.0).abs() < 1e-5);
                    }
                }

                let lse: Vec<f32> = top.iter().zip(&total).map(|(top, total)| top + total.log2()).collect();
                let delta: Vec<f32> = (0..width).map(value).collect();
                let gradients: Vec<f32> = (0..rows * width).map(|i| value(i + 3)).collect();
                let (mut again, mut slopes) = (before.clone(), gradients.clone());
                score_gradient(&mut again, &mut slopes, FACTOR, &lse, &delta);
                divide_columns(&mut weights, &total);
                for (i, weight) in weights.iter().enumerate() {
                    assert!((again[i] / weight - 1.0).abs() < 1e-5);
                    let want = weight * (gradients[i] - delta[i % width]);
                    assert!((slopes[i] - want).abs() <= 1e-5 * want.abs());
                }
            }
        });
    }
}
