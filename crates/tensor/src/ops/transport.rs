//! Word-patch alignment: optimal-transport distances between the text rows and the image rows of packed sequences.

use super::{Ipot, Pair};
use crate::{Tape, Tensor, Var};
use std::ops::Range;

impl Tape {
    /// Returns `Σ weight · distance` over the pairs, as a scalar; `pairs` refers to rows of `features [T, D]`. The gradient flows through
    /// the costs, not through the transport plans.
    ///
    /// # Panics
    /// If a range is outside `features`. The backward pass panics if the ranges are not in ascending order: words, then patches, pair by
    /// pair.
    pub fn transport(&self, features: &Var, pairs: Vec<Pair>, ipot: Ipot) -> Var {
        let span = self.memory_bound_span("optimal transport", features.tensor().bytes());
        let (loss, saved) = self.backend().transport(features.tensor(), &pairs, ipot);
        drop(span);
        let (rows, width, edge) = (features.rows(), features.columns(), features.gradient_edge());
        self.push_scalar(loss, &[features], move |d, back| {
            let bytes = (2 * rows * width * 4) as f64;
            let (backend, _span) = (
                back.backend(),
                back.memory_bound_span("optimal transport gradient", bytes),
            );
            back.accumulate(edge, rows, width, |out, beta| {
                backend.transport_gradient(&saved, &pairs, d, out, beta);
            });
        })
    }

    /// Returns the transport plan `[words, patches]` between two groups of rows of `features [T, D]`, for plots of alignments.
    ///
    /// # Panics
    /// If a range is outside `features`.
    pub fn transport_plan(&self, features: &Var, text: Range<usize>, image: Range<usize>, ipot: Ipot) -> Tensor {
        self.backend().transport_plan(features.tensor(), text, image, ipot)
    }
}
