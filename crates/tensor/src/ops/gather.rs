//! Rows picked from several matrices into one: packing text and image tokens, restoring patches, picking loss rows.

use crate::{Tape, Tensor, Var};
use std::sync::Arc;

/// A matrix and, for each row of the result, which of its rows goes there ([`super::NONE`]: none of them).
pub struct Pick<'a> {
    /// The matrix.
    pub from: &'a Var,
    /// One entry per row of the result.
    pub rows: Arc<[u32]>,
}

impl Tape {
    /// `[n, D]`, where row `i` is the row that one of the picks names; every row must be named by exactly one pick.
    ///
    /// # Panics
    /// If the picks have different lengths or widths, or there are none.
    pub fn gather(&self, picks: &[Pick]) -> Var {
        let (n, width) = (picks[0].rows.len(), picks[0].from.columns());
        assert!(
            picks.iter().all(|p| p.rows.len() == n && p.from.columns() == width),
            "picks of different shapes"
        );
        let moved = (2 * n * width * 4) as f64;
        let span = self.pass("gather", moved);
        let sources: Vec<(&Tensor, &[u32])> = picks.iter().map(|p| (p.from.tensor(), &*p.rows)).collect();
        let out = self.backend().gather(&sources);
        drop(span);
        let inputs: Vec<&Var> = picks.iter().map(|p| p.from).collect();
        let targets: Vec<_> = picks
            .iter()
            .map(|p| (p.from.target(), p.from.rows(), Arc::clone(&p.rows)))
            .collect();
        self.push(out, &inputs, move |d_out, back| {
            let (backend, _span) = (back.backend(), back.pass("gather gradient", moved));
            for (target, rows, picked) in targets {
                back.accumulate(target, rows, width, |d, beta| {
                    backend.scatter_add(&d_out, &picked, d, beta);
                });
            }
        })
    }

    /// The named rows of `x [T, D]`, in the given order.
    pub fn rows(&self, x: &Var, rows: impl Into<Arc<[u32]>>) -> Var {
        self.gather(&[Pick {
            from: x,
            rows: rows.into(),
        }])
    }
}
