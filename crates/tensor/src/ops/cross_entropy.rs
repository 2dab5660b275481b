//! Mean softmax cross-entropy.

use crate::{Tape, Tensor, Var};
use std::sync::Arc;

impl Tape {
    /// Returns the mean loss of `logits [T, classes]` against one target class per row, as a scalar. Without rows the loss is 0.
    ///
    /// # Panics
    /// If there is not one target per row, or a target is not below the number of classes.
    pub fn cross_entropy(&self, logits: &Var, targets: impl Into<Arc<[u32]>>) -> Var {
        let targets = targets.into();
        let rows = targets.len();
        assert_eq!(rows, logits.rows(), "one target per row");
        if rows == 0 {
            return Var::constant(self.device().zeros(1, 1));
        }
        let span = self.memory_bound_span("cross-entropy", 2.0 * logits.tensor().bytes());
        let (loss, mut probabilities) = self.backend().cross_entropy(logits.tensor(), &targets);
        drop(span);
        let logits_edge = logits.gradient_edge();
        self.push_scalar(loss, &[logits], move |d, back| {
            let _span = back.memory_bound_span("cross-entropy gradient", 2.0 * probabilities.bytes());
            back.backend().cross_entropy_gradient(&mut probabilities, &targets, d);
            back.add(logits_edge, probabilities);
        })
    }

    /// Returns the mean over rows of `−Σ targets[r, c] · log softmax(logits[r])[c]`, as a scalar; `logits` and `targets` are
    /// `[T, classes]`. Without rows the loss is 0. Label smoothing and mixup give such targets.
    ///
    /// # Panics
    /// If the shapes differ.
    pub fn soft_cross_entropy(&self, logits: &Var, targets: Tensor) -> Var {
        let shape = (targets.rows(), targets.columns());
        assert_eq!(shape, (logits.rows(), logits.columns()), "one target per logit");
        if shape.0 == 0 {
            return Var::constant(self.device().zeros(1, 1));
        }
        let span = self.memory_bound_span("soft cross-entropy", 3.0 * logits.tensor().bytes());
        let (loss, mut probabilities) = self.backend().soft_cross_entropy(logits.tensor(), &targets);
        drop(span);
        let logits_edge = logits.gradient_edge();
        self.push_scalar(loss, &[logits], move |d, back| {
            let _span = back.memory_bound_span("soft cross-entropy gradient", 3.0 * probabilities.bytes());
            back.backend()
                .soft_cross_entropy_gradient(&mut probabilities, &targets, d);
            back.add(logits_edge, probabilities);
        })
    }
}
