//! Reshaping.

use crate::{Tape, Var};

impl Tape {
    /// Returns the values of `x`, in row-major order, as a `[rows, columns]` matrix.
    ///
    /// # Panics
    /// If the number of values differs.
    pub fn reshape(&self, x: &Var, rows: usize, columns: usize) -> Var {
        let (x_rows, x_columns, x_edge) = (x.rows(), x.columns(), x.gradient_edge());
        self.push(x.tensor().reshaped(rows, columns), &[x], move |dy, back| {
            back.add(x_edge, dy.reshaped(x_rows, x_columns));
        })
    }
}
