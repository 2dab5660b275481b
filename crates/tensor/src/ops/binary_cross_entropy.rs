//! Binary cross-entropy: many classes, each right or wrong (or partly right) by itself.

use crate::{Tape, Tensor, Var};
use vlct_kernels::binary_cross_entropy;

impl Tape {
    /// `logits [rows, classes]` against `targets` of the same shape, from 0 to 1 → the loss summed over the classes and
    /// averaged over the rows, a scalar. Without rows the loss is 0.
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
            return Var::constant(Tensor::zeros(1, 1));
        }
        let loss = binary_cross_entropy::forward(logits.tensor().data(), targets.data(), classes);
        let (values, to_logits) = (logits.tensor().clone(), logits.target());
        self.push(Tensor::from_slice(1, 1, &[loss]), &[logits], move |d, back| {
            let mut gradient = values;
            binary_cross_entropy::backward_in_place(gradient.make_mut(), targets.data(), classes, d.item());
            back.add(to_logits, gradient);
        })
    }
}
