//! Sums of table rows: word, position and type embeddings.

use super::NONE;
use crate::{Tape, Tensor, Var};
use std::sync::Arc;

/// A table and, for each row of the result, which of its rows is added there ([`NONE`]: none).
pub struct Table<'a> {
    /// The table `[entries, D]`.
    pub table: &'a Var,
    /// One entry per row of the result.
    pub rows: Arc<[u32]>,
    /// A row that is read but never receives a gradient (the padding row of a word table).
    pub frozen_row: Option<u32>,
}

impl Tape {
    /// `base [n, D]` (zeros if absent) plus, for each table in order, its rows.
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
        let moved = ((tables.len() + 2) * n * width * 4) as f64;
        let span = self.pass("lookup", moved);
        let sources: Vec<(&Tensor, &[u32])> = tables.iter().map(|t| (t.table.tensor(), &*t.rows)).collect();
        let out = self.backend().lookup(base.map(Var::tensor), &sources);
        drop(span);
        let inputs: Vec<&Var> = base.into_iter().chain(tables.iter().map(|t| t.table)).collect();
        let to_base = base.map(Var::target);
        let targets: Vec<_> = tables
            .iter()
            .map(|t| (t.table.target(), t.table.rows(), Arc::clone(&t.rows), t.frozen_row))
            .collect();
        self.push(out, &inputs, move |d_out, back| {
            let (backend, _span) = (back.backend(), back.pass("lookup gradient", moved));
            for (target, entries, rows, frozen) in targets {
                let rows = match frozen {
                    Some(frozen) => rows.iter().map(|r| if *r == frozen { NONE } else { *r }).collect(),
                    None => rows,
                };
                back.accumulate(target, entries, width, |d, beta| {
                    backend.scatter_add(&d_out, &rows, d, beta);
                });
            }
            if let Some(to_base) = to_base {
                back.add(to_base, d_out);
            }
        })
    }
}
