//! The masked-autoencoding loss.

use crate::profile::pass;
use crate::tensor::bytes;
use crate::{Tape, Tensor, Var};
use vlct_kernels::patch_loss;

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
            return Var::constant(Tensor::zeros(1, 1));
        }
        let span = pass("patch loss", 4.0 * bytes(&target));
        patch_loss::normalise_rows(target.make_mut(), width);
        let loss = patch_loss::forward(prediction.tensor().data(), target.data(), width);
        drop(span);
        let (pt, to_prediction) = (prediction.tensor().clone(), prediction.target());
        self.push(Tensor::from_slice(1, 1, &[loss]), &[prediction], move |d, back| {
            let _span = pass("patch loss gradient", 3.0 * bytes(&target));
            let mut gradient = pt;
            patch_loss::backward_in_place(gradient.make_mut(), target.data(), d.item());
            back.add(to_prediction, gradient);
        })
    }
}
