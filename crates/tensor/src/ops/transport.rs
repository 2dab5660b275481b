//! Word-patch alignment: optimal-transport distances between the text and image rows of packed sequences.

use super::{Ipot, Pair};
use crate::{Tape, Tensor, Var};
use std::ops::Range;

impl Tape {
    /// `Σ weight · distance` over the pairs of rows of `features [T, D]`, a scalar. The gradient flows through the costs, not
    /// through the plans.
    ///
    /// # Panics
    /// If a range is outside `features`, or the ranges, each pair's words and then its patches, are not in the order of rows.
    pub fn transport(&self, features: &Var, pairs: Vec<Pair>, method: Ipot) -> Var {
        let span = self.pass("optimal transport", features.tensor().bytes());
        let (loss, alignments) = self.backend().transport(features.tensor(), &pairs, method);
        drop(span);
        let (rows, width, target) = (features.rows(), features.columns(), features.target());
        self.push_scalar(loss, &[features], move |d, back| {
            let moved = (2 * rows * width * 4) as f64;
            let (backend, _span) = (back.backend(), back.pass("optimal transport gradient", moved));
            back.accumulate(target, rows, width, |out, beta| {
                backend.transport_gradient(&alignments, &pairs, d, out, beta);
            });
        })
    }

    /// The transport plan `[words, patches]` between two groups of rows of `features [T, D]`, for plots of alignments.
    ///
    /// # Panics
    /// If a range is outside `features`.
    pub fn transport_plan(&self, features: &Var, text: Range<usize>, image: Range<usize>, method: Ipot) -> Tensor {
        self.backend().transport_plan(features.tensor(), text, image, method)
    }
}
