//! Accuracy metrics, which are not differentiable. The results stay on the device.

use crate::{Tape, Tensor, Var};

impl Tape {
    /// Returns the number of rows of `logits [T, classes]` whose argmax is the target, as a scalar. Of equal logits, the first counts.
    ///
    /// # Panics
    /// If there is not one target per row.
    pub fn hits(&self, logits: &Var, targets: &[u32]) -> Tensor {
        assert_eq!(targets.len(), logits.rows(), "one target per row");
        let _span = self.memory_bound_span("argmax", logits.tensor().bytes());
        self.backend().hits(logits.tensor(), targets)
    }

    /// Returns the sum of `targets[i, argmax(logits[i])]` over all rows `i`, as a scalar. Of equal logits, the first counts. Logits and
    /// targets are `[T, classes]`.
    ///
    /// # Panics
    /// If the shapes differ.
    pub fn score_at_argmax(&self, logits: &Var, targets: &Tensor) -> Tensor {
        let shape = (targets.rows(), targets.columns());
        assert_eq!(shape, (logits.rows(), logits.columns()), "one target per logit");
        let _span = self.memory_bound_span("argmax", logits.tensor().bytes());
        self.backend().score_at_argmax(logits.tensor(), targets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Compute;

    #[test]
    fn metrics_read_the_argmax_of_each_row() {
        let tape = Tape::inference(Compute::default());
        let logits = Var::constant(tape.device().tensor(3, 2, &[0.5, 0.25, 1.0, 1.0, -1.0, 2.0]));
        assert_eq!(tape.hits(&logits, &[0, 0, 0]).item(), 2.0);
        let targets = tape.device().tensor(3, 2, &[0.5, 1.0, 0.25, 1.0, 1.0, 0.125]);
        assert_eq!(tape.score_at_argmax(&logits, &targets).item(), 0.875);
        let empty = Var::constant(tape.device().zeros(0, 2));
        assert_eq!(tape.hits(&empty, &[]).item(), 0.0);
    }
}
