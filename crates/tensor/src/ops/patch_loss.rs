//! The loss of masked autoencoding (He et al. 2022).

use crate::{Tape, Tensor, Var};

impl Tape {
    /// Mean squared error of `prediction [patches, values]` against `target` of the same shape, whose rows are first
    /// normalised to mean 0 and (unbiased) variance 1. A scalar; 0 without patches.
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
        let span = self.pass("patch loss", 4.0 * target.bytes());
        self.backend().normalise_rows(&mut target);
        let loss = self.backend().squared_error(prediction.tensor(), &target);
        drop(span);
        let (pt, to_prediction) = (prediction.tensor().clone(), prediction.target());
        self.push_scalar(loss, &[prediction], move |d, back| {
            let _span = back.pass("patch loss gradient", 3.0 * target.bytes());
            let mut gradient = pt;
            back.backend().squared_error_gradient(&mut gradient, &target, d);
            back.add(to_prediction, gradient);
        })
    }
}
