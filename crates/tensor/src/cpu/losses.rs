//! Losses and accuracy metrics, which are scalars. A gradient function replaces a saved tensor by the gradient.

use super::memory::{CpuTensor, build, scalar};
use crate::tensor::Tensor;
use vlct_kernels::argmax::argmax_rows;
use vlct_kernels::{binary_cross_entropy as bce, cross_entropy as ce, patch_loss};

/// Returns the mean cross-entropy and the probabilities.
pub(super) fn cross_entropy(logits: &Tensor, targets: &[u32]) -> (Tensor, Tensor) {
    let rows = logits.rows();
    let mut losses = vec![0f32; rows];
    let probabilities = build(rows, logits.columns(), |p| {
        p.copy_from_slice(logits.data());
        ce::forward_in_place(p, targets, &mut losses);
    });
    (scalar(losses.iter().sum::<f32>() / rows as f32), probabilities)
}

/// Replaces the probabilities by the gradient of the logits.
pub(super) fn cross_entropy_gradient(probabilities: &mut Tensor, targets: &[u32], d: f32) {
    let rows = probabilities.rows();
    ce::backward_in_place(probabilities.data_mut(), targets, d / rows as f32);
}

/// Returns the mean cross-entropy with soft targets and the probabilities.
pub(super) fn soft_cross_entropy(logits: &Tensor, targets: &Tensor) -> (Tensor, Tensor) {
    let (rows, classes) = (logits.rows(), logits.columns());
    let mut losses = vec![0f32; rows];
    let probabilities = build(rows, classes, |p| {
        p.copy_from_slice(logits.data());
        ce::soft_forward_in_place(p, targets.data(), classes, &mut losses);
    });
    (scalar(losses.iter().sum::<f32>() / rows as f32), probabilities)
}

/// Replaces the probabilities by the gradient of the logits.
pub(super) fn soft_cross_entropy_gradient(probabilities: &mut Tensor, targets: &Tensor, d: f32) {
    let (rows, classes) = (probabilities.rows(), probabilities.columns());
    ce::soft_backward_in_place(probabilities.data_mut(), targets.data(), classes, d / rows as f32);
}

/// Returns the number of rows whose largest logit is that of the target.
pub(super) fn hits(logits: &Tensor, targets: &[u32]) -> Tensor {
    let predictions = argmax_rows(logits.data(), logits.columns());
    scalar(predictions.iter().zip(targets).filter(|(p, t)| p == t).count() as f32)
}

/// Returns the sum of `targets[i, argmax(logits[i])]` over all rows `i`.
pub(super) fn score_at_argmax(logits: &Tensor, targets: &Tensor) -> Tensor {
    let predictions = argmax_rows(logits.data(), logits.columns());
    let rows = targets.data().chunks_exact(targets.columns());
    scalar(rows.zip(predictions).map(|(row, p)| row[p as usize]).sum())
}

/// Returns the binary cross-entropy, summed over classes and averaged over rows.
pub(super) fn binary_cross_entropy(logits: &Tensor, targets: &Tensor) -> Tensor {
    scalar(bce::forward(logits.data(), targets.data(), logits.columns()))
}

/// Replaces the logits by their gradient.
pub(super) fn binary_cross_entropy_gradient(logits: &mut Tensor, targets: &Tensor, d: f32) {
    let classes = logits.columns();
    bce::backward_in_place(logits.data_mut(), targets.data(), classes, d);
}

/// Normalises each row to mean 0 and unbiased variance 1.
pub(super) fn normalise_rows(x: &mut Tensor) {
    let width = x.columns();
    patch_loss::normalise_rows(x.data_mut(), width);
}

/// Returns the mean squared error.
pub(super) fn squared_error(prediction: &Tensor, target: &Tensor) -> Tensor {
    scalar(patch_loss::forward(
        prediction.data(),
        target.data(),
        prediction.columns(),
    ))
}

/// Replaces the prediction by its gradient.
pub(super) fn squared_error_gradient(prediction: &mut Tensor, target: &Tensor, d: f32) {
    patch_loss::backward_in_place(prediction.data_mut(), target.data(), d);
}

/// Returns `Σ factor · value`.
pub(super) fn weighted_sum(terms: &[(&Tensor, f32)]) -> Tensor {
    scalar(terms.iter().map(|(term, factor)| term.data()[0] * factor).sum())
}
