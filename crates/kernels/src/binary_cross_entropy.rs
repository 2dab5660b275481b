//! Binary cross-entropy of logits against targets from 0 to 1, each class judged by itself.

use crate::parallel::over_rows;
use rayon::prelude::*;
use vlct_simd::math::{exp, sum, sum2};
use vlct_simd::multiversion;

/// Mean over rows of `Σ −t·ln σ(x) − (1 − t)·ln(1 − σ(x))`, for logits `x` and targets `t`, both `[rows, classes]`.
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

/// `d_logits = (σ(logits) − targets)·scale / rows`, in place of the logits.
pub fn backward_in_place(logits: &mut [f32], targets: &[f32], classes: usize, scale: f32) {
    assert_eq!(logits.len(), targets.len());
    let factor = scale * classes as f32 / logits.len() as f32;
    over_rows(logits, 1, |first, x| difference(x, &targets[first..], factor));
}

/// The loss of one logit, in a form whose exponential never overflows.
fn loss(x: f32, t: f32) -> f32 {
    x.max(0.0) - x * t + (-x.abs()).exp().ln_1p()
}

multiversion! {
fn difference(x: &mut [f32], targets: &[f32], factor: f32) {
    for (x, t) in x.iter_mut().zip(targets) {
        *x = (1.0 / (1.0 + exp(-*x)) - t) * factor;
    }
}
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 6] = [0.3, -2.0, 5.0, -0.7, 0.0, 1.2];
    const TARGETS: [f32; 6] = [1.0, 0.0, 0.3, 0.6, 0.9, 0.0];

    #[test]
    fn loss_equals_its_definition() {
        let definition = |(x, t): (&f32, &f32)| {
            let (x, t) = (*x as f64, *t as f64);
            let probability = 1.0 / (1.0 + (-x).exp());
            -t * probability.ln() - (1.0 - t) * (1.0 - probability).ln()
        };
        let want = LOGITS.iter().zip(&TARGETS).map(definition).sum::<f64>() / 2.0;
        assert!((forward(&LOGITS, &TARGETS, 3) as f64 - want).abs() < 1e-6);
    }

    #[test]
    fn gradient_equals_finite_differences() {
        let mut d = LOGITS;
        backward_in_place(&mut d, &TARGETS, 3, 1.5);
        for i in 0..LOGITS.len() {
            let at = |e: f32| {
                let mut x = LOGITS;
                x[i] += e;
                forward(&x, &TARGETS, 3)
            };
            assert!((d[i] - 1.5 * (at(1e-2) - at(-1e-2)) / 2e-2).abs() < 1e-3);
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
