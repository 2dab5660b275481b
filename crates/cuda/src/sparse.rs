//! Products of a sparse matrix with a dense one: `kernels/sparse.cu`.

use crate::context::Context;
use crate::driver::Element::F32;
use crate::driver::Result;
use crate::launch::{launch, to_i32};
use crate::matrix::{Matrix, MatrixMut};
use crate::packed::Packed;
use crate::rows::row_grid;
use bytemuck::{Pod, Zeroable};
use vlct_kernels::mat::Beta;
use vlct_kernels::sparse::SparseMatrix;

/// An entry, as in `sparse.cu`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Entry {
    column: u32,
    value: f32,
}

/// Computes `out = β·out + matrix·x`; `x` is `[columns, D]`, `out` `[rows, D]`, both f32. The terms of a sum are added in the order of the
/// entries.
///
/// # Errors
/// Those of the driver, or if shapes or types do not fit.
pub fn sparse_product(context: &Context, matrix: &SparseMatrix, x: Matrix, out: MatrixMut, beta: Beta) -> Result<()> {
    const OPERATION: &str = "sparse product";
    let (rows, width) = (matrix.rows(), x.columns());
    x.expect(OPERATION, "x", [matrix.columns(), width], F32)?;
    out.expect(OPERATION, "out", [rows, width], F32)?;
    if out.is_empty() {
        return Ok(());
    }
    // The last offset is the largest.
    to_i32(OPERATION, matrix.entries())?;
    let (mut offsets, mut entries) = (vec![0i32], Vec::with_capacity(matrix.entries()));
    for row in 0..rows {
        let row = matrix.row(row).iter();
        entries.extend(row.map(|(column, value)| Entry {
            column: *column,
            value: *value,
        }));
        offsets.push(entries.len() as i32);
    }
    let mut arrays = Packed::default();
    let (offsets, entries) = (arrays.push(&offsets), arrays.push(&entries));
    let arrays = arrays.upload(context)?;
    let (offsets, entries) = (arrays.address(offsets), arrays.address(entries));
    let (grid, block) = row_grid(OPERATION, rows, width, 4)?;
    let (x, out, width) = (x.address(), out.address(), to_i32(OPERATION, width)?);
    // SAFETY: the shapes were checked, and a sparse matrix has only entries in its columns.
    unsafe {
        launch!(
            context,
            "sparse_product_f32",
            grid,
            block,
            0,
            [offsets, entries, x, beta.factor(), out, width]
        )
    }
}
