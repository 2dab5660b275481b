//! Binary cross-entropy: each class has an independent target from 0 to 1.

use crate::{Tape, Tensor, Var};

impl Tape {
    /// Returns the loss of `logits [T, classes]` against `targets` of the same shape, summed over the classes and averaged over the
    /// rows, as a scalar. Without rows the loss is 0.
    ///
    /// # Panics
    /// If the shapes differ.
    pub fn binary_cross_entropy(&self, logits: &Var, targets: Tensor) -> Var {
        let (rows, classes) = (logits.rows(), logits.columns());
        assert!(
            targets.rows() == rows && targets.columns() == classes,
            "logits and targets differ in shape"
        );
        if rows == 0 {
            return Var::constant(self.device().zeros(1, 1));
        }
        let loss = self.backend().binary_cross_entropy(logits.tensor(), &targets);
        let (values, logits_edge) = (logits.tensor().clone(), logits.gradient_edge());
        self.push_scalar(loss, &[logits], move |d, back| {
            let mut gradient = values;
            back.backend().binary_cross_entropy_gradient(&mut gradient, &targets, d);
            back.add(logits_edge, gradient);
        })
    }
}
