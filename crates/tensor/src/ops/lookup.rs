//! Embeddings: sums of rows of the tables for words, positions and token types.

use super::NONE;
use crate::{Tape, Tensor, Var};
use std::sync::Arc;

/// A table, and for each row of the result the index of the table row to add ([`NONE`]: no row).
pub struct Table<'a> {
    /// The table `[entries, D]`.
    pub table: &'a Var,
    /// For each row of the result, the index of a row of the table, or [`NONE`].
    pub rows: Arc<[u32]>,
    /// Index of a table row that receives no gradient, like PyTorch's `padding_idx`.
    pub frozen_row: Option<u32>,
}

impl Tape {
    /// Returns `[n, D]`, where row `i` is the sum of row `i` of `base [n, D]` (zeros if absent) and row `rows[i]` of each table, in order.
    ///
    /// # Panics
    /// If lengths or widths differ, or there is neither a base nor a table.
    pub fn lookup(&self, base: Option<&Var>, tables: &[Table]) -> Var {
        let (n, width) = match base {
            Some(base) => (base.rows(), base.columns()),
            None => (tables[0].rows.len(), tables[0].table.columns()),
        };
        assert!(
            tables.iter().all(|t| t.rows.len() == n && t.table.columns() == width),
            "tables of different shapes"
        );
        let bytes = ((tables.len() + 2) * n * width * 4) as f64;
        let span = self.memory_bound_span("lookup", bytes);
        let sources: Vec<(&Tensor, &[u32])> = tables.iter().map(|t| (t.table.tensor(), &*t.rows)).collect();
        let out = self.backend().lookup(base.map(Var::tensor), &sources);
        drop(span);
        let inputs: Vec<&Var> = base.into_iter().chain(tables.iter().map(|t| t.table)).collect();
        let base_edge = base.map(Var::gradient_edge);
        let edges: Vec<_> = tables
            .iter()
            .map(|t| {
                (
                    t.table.gradient_edge(),
                    t.table.rows(),
                    Arc::clone(&t.rows),
                    t.frozen_row,
                )
            })
            .collect();
        self.push(out, &inputs, move |d_out, back| {
            let (backend, _span) = (back.backend(), back.memory_bound_span("lookup gradient", bytes));
            for (edge, entries, rows, frozen) in edges {
                let rows = match frozen {
                    Some(frozen) => rows.iter().map(|r| if *r == frozen { NONE } else { *r }).collect(),
                    None => rows,
                };
                back.accumulate(edge, entries, width, |d, beta| {
                    backend.scatter_add(&d_out, &rows, d, beta);
                });
            }
            if let Some(base_edge) = base_edge {
                back.add(base_edge, d_out);
            }
        })
    }
}
