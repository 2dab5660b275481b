//! Mean softmax cross-entropy.

use crate::profile::pass;
use crate::tensor::bytes;
use crate::{Tape, Tensor, Var};
use std::sync::Arc;
use vlct_kernels::cross_entropy;

impl Tape {
    /// `logits [rows, classes]`, one right class per row → the mean loss, a scalar. Without rows the loss is 0.
    ///
    /// # Panics
    /// If a class is outside the logits.
    pub fn cross_entropy(&self, logits: &Var, targets: impl Into<Arc<[u32]>>) -> Var {
        let targets = targets.into();
        let rows = targets.len();
        assert_eq!(rows, logits.rows(), "one target per row");
        if rows == 0 {
            return Var::constant(Tensor::zeros(1, 1));
        }
        let mut losses = vec![0f32; rows];
        let span = pass("cross-entropy", 2.0 * bytes(logits.tensor()));
        let mut probabilities = Tensor::build(rows, logits.columns(), |p| {
            p.copy_from_slice(logits.tensor().data());
            cross_entropy::forward_in_place(p, &targets, &mut losses);
        });
        drop(span);
        let mean = losses.iter().sum::<f32>() / rows as f32;
        let to_logits = logits.target();
        self.push(Tensor::from_slice(1, 1, &[mean]), &[logits], move |d, back| {
            let _span = pass("cross-entropy gradient", 2.0 * bytes(&probabilities));
            cross_entropy::backward_in_place(probabilities.make_mut(), &targets, d.item() / rows as f32);
            back.add(to_logits, probabilities);
        })
    }
}
