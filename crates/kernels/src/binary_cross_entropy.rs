//! Binary cross-entropy with logits, for targets from 0 to 1; classes are independent. The plain versions are
//! [`reference::binary_cross_entropy_forward`](crate::reference::binary_cross_entropy_forward) and
//! [`reference::binary_cross_entropy_backward`](crate::reference::binary_cross_entropy_backward).

use crate::parallel::over_rows;
use rayon::prelude::*;
use vlct_simd::math::{exp, sum, sum2};
use vlct_simd::multiversion;

/// Returns the mean over rows of `Σ −t·ln σ(x) − (1 − t)·ln(1 − σ(x))`, for logits `x` and targets `t`, both `[rows, classes]`.
pub fn forward(logits: &[f32], targets: &[f32], classes: usize) -> f32 {
    assert_eq!(logits.len(), targets.len());
    let rows = logits.len() / classes;
    let sums: Vec<f32> = logits
        .par_chunks_exact(classes)
        .zip(targets.par_chunks_exact(classes))
        .map(|(x, t)| sum2(x, t, loss))
        .collect();
    sum(&sums, |v| v) / rows as f32
}

/// Replaces the logits by their gradient `(σ(logits) − targets)·scale / rows`.
pub fn backward_in_place(logits: &mut [f32], targets: &[f32], classes: usize, scale: f32) {
    assert_eq!(logits.len(), targets.len());
    let factor = scale * classes as f32 / logits.len() as f32;
    over_rows(logits, 1, |first, x| gradient_block(x, &targets[first..], factor));
}

/// Returns the loss of one logit `x` and target `t`. The exponential never overflows.
fn loss(x: f32, t: f32) -> f32 {
    x.max(0.0) - x * t + (-x.abs()).exp().ln_1p()
}

multiversion! {
fn gradient_block(x: &mut [f32], targets: &[f32], factor: f32) {
    for (x, t) in x.iter_mut().zip(targets) {
        *x = (1.0 / (1.0 + exp(-*x)) - t) * factor;
    }
}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference;

    const LOGITS: [f32; 6] = [0.3, -2.0, 5.0, -0.7, 0.0, 1.2];
    const TARGETS: [f32; 6] = [1.0, 0.0, 0.3, 0.6, 0.9, 0.0];

    #[test]
    fn forward_and_backward_equal_the_reference() {
        let want = reference::binary_cross_entropy_forward(&LOGITS, &TARGETS, 3);
        assert!((forward(&LOGITS, &TARGETS, 3) - want).abs() < 1e-6);
        let (mut d, mut want) = (LOGITS, [0f32; 6]);
        backward_in_place(&mut d, &TARGETS, 3, 1.5);
        reference::binary_cross_entropy_backward(&mut want, &LOGITS, &TARGETS, 3, 1.5);
        for (got, want) in d.iter().zip(want) {
            assert!((got - want).abs() < 1e-6, "{got} instead of {want}");
        }
    }

    #[test]
    fn large_logits_stay_finite() {
        let mut x = [200.0, -200.0, 1e30, -1e30];
        let t = [0.0, 1.0, 1.0, 0.0];
        assert_eq!(forward(&x, &t, 4), 400.0);
        backward_in_place(&mut x, &t, 4, 1.0);
        assert_eq!(x, [1.0, -1.0, 0.0, 0.0]);
    }
}
