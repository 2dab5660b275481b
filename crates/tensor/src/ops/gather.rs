//! Gathering rows of several matrices: to pack text and image tokens, to restore masked patches, to select the rows of a loss.

use crate::{Tape, Tensor, Var};
use std::sync::Arc;

/// A matrix, and for each row of the result the index of the matrix row to copy ([`super::NONE`]: another
/// pick provides the row of the result).
pub struct Pick<'a> {
    /// The matrix.
    pub from: &'a Var,
    /// For each row of the result, the index of a row of the matrix, or [`super::NONE`].
    pub rows: Arc<[u32]>,
}

impl Tape {
    /// Returns `[n, D]`, where row `i` is a copy of row `rows[i]` of one pick. For each `i`, exactly one pick must have an
    /// index other than [`super::NONE`].
    ///
    /// # Panics
    /// If the picks have different lengths or widths, or there are no picks.
    pub fn gather(&self, picks: &[Pick]) -> Var {
        let (n, width) = (picks[0].rows.len(), picks[0].from.columns());
        assert!(
            picks.iter().all(|p| p.rows.len() == n && p.from.columns() == width),
            "picks of different shapes"
        );
        let bytes = (2 * n * width * 4) as f64;
        let span = self.memory_bound_span("gather", bytes);
        let sources: Vec<(&Tensor, &[u32])> = picks.iter().map(|p| (p.from.tensor(), &*p.rows)).collect();
        let out = self.backend().gather(&sources);
        drop(span);
        let inputs: Vec<&Var> = picks.iter().map(|p| p.from).collect();
        let edges: Vec<_> = picks
            .iter()
            .map(|p| (p.from.gradient_edge(), p.from.rows(), Arc::clone(&p.rows)))
            .collect();
        self.push(out, &inputs, move |d_out, back| {
            let (backend, _span) = (back.backend(), back.memory_bound_span("gather gradient", bytes));
            for (edge, rows, indices) in edges {
                back.accumulate(edge, rows, width, |d, beta| {
                    backend.scatter_add(&d_out, &indices, d, beta);
                });
            }
        })
    }

    /// Returns the given rows of `x [T, D]`, in the given order.
    pub fn rows(&self, x: &Var, rows: impl Into<Arc<[u32]>>) -> Var {
        self.gather(&[Pick {
            from: x,
            rows: rows.into(),
        }])
    }
}
