//! Launches with one block for each row of a matrix, and sums of the values that they store for the rows.

use crate::context::Context;
use crate::driver::Element::F32;
use crate::driver::{Address, Error, Result};
use crate::launch::{WARP, to_blocks, to_i32};
use crate::matrix::{Matrix, MatrixMut};
use crate::scalars;

/// A grid with one block for each row.
pub(crate) struct Rows {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// Number of columns.
    pub width: i32,
}

impl Rows {
    /// # Errors
    /// If the rows have no columns.
    pub fn new(operation: &'static str, matrix: Matrix) -> Result<Self> {
        if matrix.columns() == 0 {
            return Err(Error::InvalidArgument {
                operation,
                reason: format!("{} rows have no columns", matrix.rows()),
            });
        }
        // Four values for each thread. With 1024 threads a multiprocessor has two rows at a time, so that the L2 cache keeps them.
        let threads = matrix.columns().div_ceil(4).next_multiple_of(WARP as usize).min(1024);
        Ok(Self {
            grid: [to_blocks(operation, matrix.rows())?, 1, 1],
            block: [threads as u32, 1, 1],
            width: to_i32(operation, matrix.columns())?,
        })
    }

    /// Shared memory with a value of `bytes` bytes for each warp.
    pub fn shared_bytes(&self, bytes: u32) -> u32 {
        self.block[0] / WARP * bytes
    }
}

/// Computes `out = Σ values / divisor` of values that `launch` stores for the rows of a matrix.
pub(crate) fn sum_of_rows(
    operation: &'static str,
    context: &Context,
    matrix: Matrix,
    divisor: f32,
    out: MatrixMut,
    launch: impl FnOnce(&Rows, Address) -> Result<()>,
) -> Result<()> {
    out.expect(operation, "out", [1, 1], F32)?;
    let values = context.allocate(matrix.rows() * F32.bytes())?;
    if matrix.rows() > 0 {
        launch(&Rows::new(operation, matrix)?, values.address())?;
    }
    scalars::sum(operation, context, &values, matrix.rows(), divisor, &out)
}
