//! Products of constant sparse matrices with dense ones.

use super::SparseMatrix;
use crate::backend::Beta;
use crate::{Tape, Var};

impl Tape {
    /// Returns `matrix·x`, `[rows, D]`: each row is a weighted sum of rows of `x [columns, D]`. The matrix has no gradient.
    ///
    /// # Panics
    /// If the number of rows of `x` is not the number of columns of the matrix.
    pub fn sparse_product(&self, matrix: SparseMatrix, x: &Var) -> Var {
        assert_eq!(x.rows(), matrix.columns(), "rows of the dense matrix");
        let (rows, width) = (x.rows(), x.columns());
        let bytes = ((matrix.rows() + matrix.entries()) * width * 4) as f64;
        let span = self.memory_bound_span("sparse product", bytes);
        let mut out = self.backend().empty(matrix.rows(), width);
        self.backend().sparse_product(&matrix, x.tensor(), &mut out, Beta::Zero);
        drop(span);
        let x_edge = x.gradient_edge();
        self.push(out, &[x], move |d_out, back| {
            let (backend, _span) = (back.backend(), back.memory_bound_span("sparse product gradient", bytes));
            let transpose = matrix.transpose();
            back.accumulate(x_edge, rows, width, |dx, beta| {
                backend.sparse_product(&transpose, &d_out, dx, beta);
            });
        })
    }
}
