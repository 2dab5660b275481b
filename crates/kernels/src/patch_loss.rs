//! The loss of masked autoencoding (He et al. 2022): the mean squared error of predictions and normalised patches. The plain versions
//! are [`reference::patch_loss_forward`](crate::reference::patch_loss_forward) and
//! [`reference::patch_loss_backward`](crate::reference::patch_loss_backward).

use rayon::prelude::*;
use vlct_simd::math::{sum, sum2};
use vlct_simd::multiversion;

/// Normalises each row of `width` values in place: subtracts its mean and divides by `sqrt(σ² + 1e-6)`, where σ² is the unbiased variance.
pub fn normalise_rows(x: &mut [f32], width: usize) {
    x.par_chunks_exact_mut(width).for_each(normalise_row);
}

multiversion! {
fn normalise_row(row: &mut [f32]) {
    let n = row.len() as f32;
    let mean = sum(row, |v| v) / n;
    let variance = sum(row, |v| (v - mean) * (v - mean)) / (n - 1.0);
    let scale = 1.0 / (variance + 1e-6).sqrt();
    for v in row {
        *v = (*v - mean) * scale;
    }
}
}

/// Returns the mean squared difference of `prediction` and `target`, both `[rows, width]`.
pub fn forward(prediction: &[f32], target: &[f32], width: usize) -> f32 {
    assert_eq!(prediction.len(), target.len());
    let rows = prediction.len() / width;
    let sums: Vec<f32> = prediction
        .par_chunks_exact(width)
        .zip(target.par_chunks_exact(width))
        .map(|(p, t)| squared_distance(p, t) / width as f32)
        .collect();
    sum(&sums, |v| v) / rows as f32
}

/// Replaces the prediction by its gradient `2·(prediction − target)·scale / prediction.len()`.
pub fn backward_in_place(prediction: &mut [f32], target: &[f32], scale: f32) {
    assert_eq!(prediction.len(), target.len());
    let factor = 2.0 * scale / prediction.len() as f32;
    crate::parallel::over_rows(prediction, 1, |first, p| gradient_block(p, &target[first..], factor));
}

multiversion! {
fn squared_distance(x: &[f32], y: &[f32]) -> f32 {
    sum2(x, y, |a, b| (a - b) * (a - b))
}
}

multiversion! {
fn gradient_block(p: &mut [f32], target: &[f32], factor: f32) {
    for (p, t) in p.iter_mut().zip(target) {
        *p = (*p - t) * factor;
    }
}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference;

    #[test]
    fn equals_the_recorded_loss_of_the_reference_implementation() {
        let mut t = [1.0, 2.0, 3.0, 4.0, 0.0, 0.0, 0.0, 0.0, 2.0, -1.0, 0.5, 3.0];
        let p = [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.1, 0.2, 0.3, 0.4];
        normalise_rows(&mut t, 4);
        let select = |x: &[f32], rows: [usize; 2]| {
            rows.iter()
                .flat_map(|r| x[r * 4..r * 4 + 4].to_vec())
                .collect::<Vec<_>>()
        };
        assert!((forward(&select(&p, [0, 2]), &select(&t, [0, 2]), 4) - 0.755_356_8).abs() < 1e-6);
        assert!((forward(&select(&p, [0, 1]), &select(&t, [0, 1]), 4) - 0.874_999_8).abs() < 1e-6);
    }

    #[test]
    fn forward_and_backward_equal_the_reference() {
        let (rows, width) = (7, 48);
        let values = |seed: usize| -> Vec<f32> {
            (0..rows * width)
                .map(|i| (((i + seed) * 7919) % 101) as f32 / 50.0 - 1.0)
                .collect()
        };
        let (mut p, mut t) = (values(1), values(2));
        let mut want_t = t.clone();
        normalise_rows(&mut t, width);
        reference::normalise_patches(&mut want_t, width);
        let assert_close = |got: &[f32], want: &[f32]| {
            for (got, want) in got.iter().zip(want) {
                assert!((got - want).abs() < 2e-6, "{got} instead of {want}");
            }
        };
        assert_close(&t, &want_t);
        assert_close(&[forward(&p, &t, width)], &[reference::patch_loss_forward(&p, &t)]);
        let mut want = vec![0f32; p.len()];
        reference::patch_loss_backward(&mut want, &p, &t, 1.5);
        backward_in_place(&mut p, &t, 1.5);
        assert_close(&p, &want);
    }
}
