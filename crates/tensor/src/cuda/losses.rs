//! Losses whose forward pass keeps probabilities for the backward pass.

use super::memory::{CudaTensor, empty};
use super::{Cuda, complete};
use crate::tensor::Tensor;
use vlct_cuda::cross_entropy;
use vlct_cuda::driver::Element::F32;

impl Cuda {
    /// Returns the mean cross-entropy and the probabilities.
    pub(super) fn hard_cross_entropy(&self, logits: &Tensor, targets: &[u32]) -> (Tensor, Tensor) {
        let (mut loss, mut probabilities) = self.loss_and_probabilities(logits);
        let out = (probabilities.overwritten(), loss.overwritten());
        complete(cross_entropy::forward(
            &self.context,
            logits.matrix(),
            targets,
            out.0,
            out.1,
        ));
        (loss, probabilities)
    }

    /// Returns the mean cross-entropy with a weight of each class, and the probabilities.
    pub(super) fn cross_entropy_of_weights(&self, logits: &Tensor, targets: &Tensor) -> (Tensor, Tensor) {
        let (mut loss, mut probabilities) = self.loss_and_probabilities(logits);
        let (logits, targets) = (logits.matrix(), targets.matrix());
        let out = (probabilities.overwritten(), loss.overwritten());
        complete(cross_entropy::soft_forward(
            &self.context,
            logits,
            targets,
            out.0,
            out.1,
        ));
        (loss, probabilities)
    }

    /// Allocates a loss and the probabilities of these logits.
    fn loss_and_probabilities(&self, logits: &Tensor) -> (Tensor, Tensor) {
        let new = |rows, columns| empty(&self.context, rows, columns, F32);
        (new(1, 1), new(logits.rows(), logits.columns()))
    }
}
