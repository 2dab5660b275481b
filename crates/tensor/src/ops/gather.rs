//! Rows picked from several matrices into one: packing text and image tokens, restoring patches, picking loss rows.

use crate::profile::pass;
use crate::{Tape, Tensor, Var};
use std::sync::Arc;
use vlct_kernels::gather::{copy_rows, scatter_add};
use vlct_kernels::mat::Beta;

/// A matrix and, for each row of the result, which of its rows goes there ([`super::NONE`]: none of them).
pub struct Pick<'a> {
    /// The matrix.
    pub from: &'a Var,
    /// One entry per row of the result.
    pub rows: Arc<[u32]>,
}

impl Tape {
    /// `[n, width]`, where row `i` is the row that one of the picks names; every row must be named by exactly one pick.
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
        let span = pass("gather", moved);
        let out = Tensor::build(n, width, |out| {
            for pick in picks {
                copy_rows(pick.from.tensor().data(), width, &pick.rows, out);
            }
        });
        drop(span);
        let inputs: Vec<&Var> = picks.iter().map(|p| p.from).collect();
        let targets: Vec<_> = picks
            .iter()
            .map(|p| (p.from.target(), p.from.rows(), Arc::clone(&p.rows)))
            .collect();
        self.push(out, &inputs, move |d_out, back| {
            let _span = pass("gather gradient", moved);
            for (target, rows, picked) in targets {
                back.accumulate(target, rows, width, |d, beta| {
                    if beta == Beta::Zero {
                        d.fill(0.0);
                    }
                    scatter_add(d_out.data(), width, &picked, d);
                });
            }
        })
    }

    /// The named rows of `x`, in the given order.
    pub fn rows(&self, x: &Var, rows: impl Into<Arc<[u32]>>) -> Var {
        self.gather(&[Pick {
            from: x,
            rows: rows.into(),
        }])
    }
}
