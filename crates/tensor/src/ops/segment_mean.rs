//! Means over segments of a packed matrix.

use crate::{Tape, Var};
use std::ops::Range;
use std::sync::Arc;

impl Tape {
    /// Returns `[segments, D]`, the mean of the rows of each segment of `x [T, D]`; 0 for an empty segment.
    ///
    /// # Panics
    /// If the segments are not in the order of the rows, overlap, or end after the last row.
    pub fn segment_mean(&self, x: &Var, segments: impl Into<Arc<[Range<usize>]>>) -> Var {
        let segments = segments.into();
        let ends = segments.iter().map(|segment| segment.end);
        assert!(
            segments
                .iter()
                .zip(std::iter::once(0).chain(ends))
                .all(|(s, end)| end <= s.start && s.start <= s.end)
                && segments.last().is_none_or(|last| last.end <= x.rows()),
            "segments out of order"
        );
        let (rows, width) = (x.rows(), x.columns());
        let bytes = x.tensor().bytes();
        let span = self.memory_bound_span("segment mean", bytes);
        let out = self.backend().segment_mean(x.tensor(), &segments);
        drop(span);
        let x_edge = x.gradient_edge();
        self.push(out, &[x], move |d_out, back| {
            let (backend, _span) = (back.backend(), back.memory_bound_span("segment mean gradient", bytes));
            back.accumulate(x_edge, rows, width, |dx, beta| {
                backend.segment_mean_gradient(&d_out, &segments, dx, beta);
            });
        })
    }
}
