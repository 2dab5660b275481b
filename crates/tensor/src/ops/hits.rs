//! How many predictions are right. Not differentiable: counts for metrics, which stay on the device.

use crate::profile::pass;
use crate::{Tape, Tensor, Var};
use vlct_kernels::argmax::argmax_rows;

impl Tape {
    /// Number of rows of `logits [rows, classes]` whose largest value, the first of equals, is at the target: a scalar.
    ///
    /// # Panics
    /// If there is not one target per row.
    pub fn hits(&self, logits: &Var, targets: &[u32]) -> Tensor {
        assert_eq!(targets.len(), logits.rows(), "one target per row");
        let hits = predictions(logits).iter().zip(targets).filter(|(p, t)| p == t).count();
        Tensor::from_slice(1, 1, &[hits as f32])
    }

    /// Sum over the rows of the target `[rows, classes]` at the largest value of `logits`, the first of equals: a scalar.
    ///
    /// # Panics
    /// If the shapes differ.
    pub fn score_at_argmax(&self, logits: &Var, targets: &Tensor) -> Tensor {
        let shape = (targets.rows(), targets.columns());
        assert_eq!(shape, (logits.rows(), logits.columns()), "a target per logit");
        let rows = targets.data().chunks_exact(targets.columns());
        let score: f32 = rows.zip(predictions(logits)).map(|(row, p)| row[p as usize]).sum();
        Tensor::from_slice(1, 1, &[score])
    }
}

fn predictions(logits: &Var) -> Vec<u32> {
    let _span = pass("argmax", 4.0 * (logits.rows() * logits.columns()) as f64);
    argmax_rows(logits.tensor().data(), logits.columns())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Compute;

    #[test]
    fn predictions_are_compared_with_targets() {
        let tape = Tape::inference(Compute::default());
        let logits = Var::constant(Tensor::from_slice(3, 2, &[0.5, 0.25, 1.0, 1.0, -1.0, 2.0]));
        assert_eq!(tape.hits(&logits, &[0, 0, 0]).item(), 2.0);
        let targets = Tensor::from_slice(3, 2, &[0.5, 1.0, 0.25, 1.0, 1.0, 0.125]);
        assert_eq!(tape.score_at_argmax(&logits, &targets).item(), 0.875);
        let none = Var::constant(Tensor::zeros(0, 2));
        assert_eq!(tape.hits(&none, &[]).item(), 0.0);
    }
}
