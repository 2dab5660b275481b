//! The same values under another shape.

use crate::{Tape, Tensor, Var};

impl Tape {
    /// The values of `x`, row by row, as `[rows, columns]`.
    ///
    /// # Panics
    /// If their number differs.
    pub fn reshape(&self, x: &Var, rows: usize, columns: usize) -> Var {
        let (rows_before, columns_before, to_x) = (x.rows(), x.columns(), x.target());
        let y = Tensor::from_slice(rows, columns, x.tensor().data());
        self.push(y, &[x], move |dy, back| {
            back.add(to_x, Tensor::from_slice(rows_before, columns_before, dy.data()));
        })
    }
}
