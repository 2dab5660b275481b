//! The loss of masked autoencoding (He et al. 2022).

use crate::{Tape, Tensor, Var};

impl Tape {
    /// Returns the mean squared error of `prediction [patches, values]` and `target` of the same shape, as a scalar. Each row of
    /// `target` is first normalised to mean 0 and unbiased variance 1. Without patches the loss is 0.
    ///
    /// # Panics
    /// If the shapes differ.
    pub fn patch_loss(&self, prediction: &Var, mut target: Tensor) -> Var {
        let (rows, width) = (prediction.rows(), prediction.columns());
        assert!(
            target.rows() == rows && target.columns() == width,
            "prediction and target differ in shape"
        );
        if rows == 0 {
            return Var::constant(self.device().zeros(1, 1));
        }
        let span = self.memory_bound_span("patch loss", 4.0 * target.bytes());
        self.backend().normalise_rows(&mut target);
        let loss = self.backend().squared_error(prediction.tensor(), &target);
        drop(span);
        let (values, prediction_edge) = (prediction.tensor().clone(), prediction.gradient_edge());
        self.push_scalar(loss, &[prediction], move |d, back| {
            let _span = back.memory_bound_span("patch loss gradient", 3.0 * target.bytes());
            let mut gradient = values;
            back.backend().squared_error_gradient(&mut gradient, &target, d);
            back.add(prediction_edge, gradient);
        })
    }
}
