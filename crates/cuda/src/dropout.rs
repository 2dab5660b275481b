//! Dropout with the same mask as on the CPU: `kernels/dropout.cu`.

use crate::context::Context;
use crate::driver::Element::F32;
use crate::driver::{Address, Result};
use crate::launch::{THREADS, WARP, launch, to_blocks, to_i32};
use crate::matrix::{Matrix, MatrixMut};
use vlct_kernels::dropout::threshold;

/// Values of a warp, as in `dropout.cu`.
const WARP_VALUES: usize = 512;

/// Zeroes each value with probability `p` and scales the others by `1/(1 − p)`. Calls with equal keys zero the same values, which are those
/// of [`vlct_kernels::dropout::apply_in_place`]. Both matrices are f32.
///
/// # Errors
/// Those of the driver, or if shapes or types do not fit.
pub fn dropout(context: &Context, x: Matrix, out: MatrixMut, p: f32, key: [u64; 4]) -> Result<()> {
    const OPERATION: &str = "dropout";
    let shape = [x.rows(), x.columns()];
    x.expect(OPERATION, "x", shape, F32)?;
    out.expect(OPERATION, "out", shape, F32)?;
    apply(context, OPERATION, x.address(), out.as_ref(), p, key)
}

/// Applies [`dropout`] in place.
///
/// # Errors
/// Those of the driver, or if the matrix is not f32.
pub fn dropout_in_place(context: &Context, x: MatrixMut, p: f32, key: [u64; 4]) -> Result<()> {
    const OPERATION: &str = "dropout in place";
    x.expect(OPERATION, "x", [x.rows(), x.columns()], F32)?;
    apply(context, OPERATION, x.address(), x.as_ref(), p, key)
}

fn apply(context: &Context, operation: &'static str, x: Address, out: Matrix, p: f32, key: [u64; 4]) -> Result<()> {
    if out.is_empty() {
        return Ok(());
    }
    let warps_per_row = out.columns().div_ceil(WARP_VALUES);
    // The kernel computes the index of each warp of the grid.
    let warps = (out.rows() * warps_per_row).next_multiple_of((THREADS / WARP) as usize);
    let grid = [to_blocks(operation, warps)? / (THREADS / WARP), 1, 1];
    let [key0, key1, key2, key3] = key.map(u64::cast_signed);
    let (threshold, scale) = (threshold(p).cast_signed(), 1.0 / (1.0 - p));
    let (rows, width) = (to_i32(operation, out.rows())?, to_i32(operation, out.columns())?);
    let (out, warps_per_row) = (out.address(), to_i32(operation, warps_per_row)?);
    // SAFETY: both matrices have this shape, and each thread reads a value before it writes it.
    unsafe {
        launch!(
            context,
            "dropout_f32",
            grid,
            [THREADS, 1, 1],
            0,
            [
                x,
                out,
                key0,
                key1,
                key2,
                key3,
                threshold,
                scale,
                rows,
                width,
                warps_per_row
            ]
        )
    }
}
