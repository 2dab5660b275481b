//! The same values in another shape.

use crate::{Tape, Var};

impl Tape {
    /// The values of `x`, row by row, as `[rows, columns]`.
    ///
    /// # Panics
    /// If the number of values differs.
    pub fn reshape(&self, x: &Var, rows: usize, columns: usize) -> Var {
        let (rows_before, columns_before, to_x) = (x.rows(), x.columns(), x.target());
        self.push(x.tensor().reshaped(rows, columns), &[x], move |dy, back| {
            back.add(to_x, dy.reshaped(rows_before, columns_before));
        })
    }
}
