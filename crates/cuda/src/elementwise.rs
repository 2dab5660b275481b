//! Element-wise operations, and operations on rows with one factor each: `kernels/elementwise.cu`.

use crate::context::Context;
use crate::driver::Element::{Bf16, F32};
use crate::driver::Result;
use crate::launch::{THREADS, WARP, flat_grid, launch, to_blocks, to_i32};
use crate::matrix::{Matrix, MatrixMut};
use vlct_kernels::mat::Beta;

/// Sets every value.
///
/// # Errors
/// Those of the driver, or if the matrix is not f32.
pub fn fill(context: &Context, value: f32, out: MatrixMut) -> Result<()> {
    out.expect("fill", "out", [out.rows(), out.columns()], F32)?;
    if out.is_empty() {
        return Ok(());
    }
    let grid = flat_grid(context, out.len());
    // SAFETY: the kernel writes the elements of `out`.
    unsafe {
        launch!(
            context,
            "fill_f32",
            grid,
            [THREADS, 1, 1],
            0,
            [value, out.address(), out.len() as i64]
        )
    }
}

/// Computes `sum = β·sum + x`.
///
/// # Errors
/// Those of the driver, or if shapes or types do not fit.
pub fn add(context: &Context, x: Matrix, sum: MatrixMut, beta: Beta) -> Result<()> {
    const OPERATION: &str = "addition";
    let shape = [x.rows(), x.columns()];
    x.expect(OPERATION, "x", shape, F32)?;
    sum.expect(OPERATION, "sum", shape, F32)?;
    if x.is_empty() {
        return Ok(());
    }
    let grid = flat_grid(context, x.len());
    let (x, sum, count) = (x.address(), sum.address(), x.len() as i64);
    // SAFETY: both matrices have this many elements.
    unsafe {
        launch!(
            context,
            "add_f32",
            grid,
            [THREADS, 1, 1],
            0,
            [x, beta.factor(), sum, count]
        )
    }
}

/// Rounds to bfloat16, to the nearest number, ties to even.
///
/// # Errors
/// Those of the driver, or if shapes or types do not fit.
pub fn round(context: &Context, x: Matrix, out: MatrixMut) -> Result<()> {
    x.expect("rounding", "x", [x.rows(), x.columns()], F32)?;
    out.expect("rounding", "out", [x.rows(), x.columns()], Bf16)?;
    map(context, "round_to_bf16", x, out)
}

/// Converts bfloat16 to f32, without error.
///
/// # Errors
/// Those of the driver, or if shapes or types do not fit.
pub fn widen(context: &Context, x: Matrix, out: MatrixMut) -> Result<()> {
    x.expect("conversion to f32", "x", [x.rows(), x.columns()], Bf16)?;
    out.expect("conversion to f32", "out", [x.rows(), x.columns()], F32)?;
    map(context, "widen_to_f32", x, out)
}

/// Computes `y = gelu(x)`, with the error function.
///
/// # Errors
/// Those of the driver, or if shapes or types do not fit.
pub fn gelu(context: &Context, x: Matrix, y: MatrixMut) -> Result<()> {
    map_f32(context, "gelu_f32", x, y)
}

/// Multiplies each value of `dy` by the derivative of the GELU at `x`.
///
/// # Errors
/// Those of the driver, or if shapes or types do not fit.
pub fn gelu_backward(context: &Context, x: Matrix, dy: MatrixMut) -> Result<()> {
    map_f32(context, "gelu_backward_f32", x, dy)
}

/// Computes `y = gelu(x)` in bfloat16, with the tanh form of cuBLASLt ([`Epilogue::Gelu`](crate::driver::Epilogue::Gelu)).
///
/// # Errors
/// Those of the driver, or if shapes or types do not fit.
pub fn gelu_tanh(context: &Context, x: Matrix, y: MatrixMut) -> Result<()> {
    x.expect("GELU", "x", [x.rows(), x.columns()], Bf16)?;
    y.expect("GELU", "y", [x.rows(), x.columns()], Bf16)?;
    map(context, "gelu_tanh_bf16", x, y)
}

/// Computes `y = tanh(x)`.
///
/// # Errors
/// Those of the driver, or if shapes or types do not fit.
pub fn tanh(context: &Context, x: Matrix, y: MatrixMut) -> Result<()> {
    map_f32(context, "tanh_f32", x, y)
}

/// Multiplies each value of `dy` by `1 − y²`, the derivative of the hyperbolic tangent with the value `y`.
///
/// # Errors
/// Those of the driver, or if shapes or types do not fit.
pub fn tanh_backward(context: &Context, y: Matrix, dy: MatrixMut) -> Result<()> {
    map_f32(context, "tanh_backward_f32", y, dy)
}

/// Computes `out[r] = factors[r] · x[r]` for each row `r`; `factors` is `[1, T]`.
///
/// # Errors
/// Those of the driver, or if shapes or types do not fit.
pub fn scale_rows(context: &Context, x: Matrix, factors: Matrix, out: MatrixMut) -> Result<()> {
    const OPERATION: &str = "scaling of rows";
    let shape = [x.rows(), x.columns()];
    x.expect(OPERATION, "x", shape, F32)?;
    factors.expect(OPERATION, "factors", [1, x.rows()], F32)?;
    out.expect(OPERATION, "out", shape, F32)?;
    if x.is_empty() {
        return Ok(());
    }
    let rows = RowGrid::new(OPERATION, x)?;
    let addresses = [x.address(), factors.address(), out.address()];
    // SAFETY: both matrices have this shape, and there is a factor for each row.
    unsafe {
        launch!(
            context,
            "scale_rows_f32",
            rows.grid,
            rows.block,
            0,
            [
                addresses[0],
                addresses[1],
                addresses[2],
                rows.width,
                rows.blocks_per_row
            ]
        )
    }
}

/// Computes `out[r] = x[r] + factors[r] · (y[r] − x[r])` for each row `r`; `factors` is `[1, T]`. Rows with the factor 0 or 1 are copies.
///
/// # Errors
/// Those of the driver, or if shapes or types do not fit.
pub fn interpolate_rows(context: &Context, x: Matrix, y: Matrix, factors: Matrix, out: MatrixMut) -> Result<()> {
    const OPERATION: &str = "interpolation of rows";
    let shape = [x.rows(), x.columns()];
    x.expect(OPERATION, "x", shape, F32)?;
    y.expect(OPERATION, "y", shape, F32)?;
    factors.expect(OPERATION, "factors", [1, x.rows()], F32)?;
    out.expect(OPERATION, "out", shape, F32)?;
    if x.is_empty() {
        return Ok(());
    }
    let rows = RowGrid::new(OPERATION, x)?;
    let addresses = [x.address(), y.address(), factors.address(), out.address()];
    // SAFETY: all matrices have this shape, and there is a factor for each row.
    unsafe {
        launch!(
            context,
            "interpolate_rows_f32",
            rows.grid,
            rows.block,
            0,
            [
                addresses[0],
                addresses[1],
                addresses[2],
                addresses[3],
                rows.width,
                rows.blocks_per_row
            ]
        )
    }
}

/// The grid of a kernel in which each block has a part of a row.
struct RowGrid {
    grid: [u32; 3],
    block: [u32; 3],
    width: i32,
    blocks_per_row: i32,
}

impl RowGrid {
    fn new(operation: &'static str, x: Matrix) -> Result<Self> {
        let groups = x.columns().div_ceil(4);
        let threads = groups.next_multiple_of(WARP as usize).min(THREADS as usize);
        let blocks_per_row = groups.div_ceil(threads);
        Ok(Self {
            grid: [to_blocks(operation, x.rows() * blocks_per_row)?, 1, 1],
            block: [threads as u32, 1, 1],
            width: to_i32(operation, x.columns())?,
            blocks_per_row: blocks_per_row as i32,
        })
    }
}

/// Launches a kernel with the parameters `x [n]`, `y [n]` and `n`.
fn map(context: &Context, kernel: &str, x: Matrix, y: MatrixMut) -> Result<()> {
    if x.is_empty() {
        return Ok(());
    }
    let grid = flat_grid(context, x.len());
    let (x, y, count) = (x.address(), y.address(), x.len() as i64);
    // SAFETY: the callers have checked that both matrices have this many elements.
    unsafe { launch!(context, kernel, grid, [THREADS, 1, 1], 0, [x, y, count]) }
}

fn map_f32(context: &Context, kernel: &'static str, x: Matrix, y: MatrixMut) -> Result<()> {
    let shape = [x.rows(), x.columns()];
    x.expect(kernel, "x", shape, F32)?;
    y.expect(kernel, "y", shape, F32)?;
    map(context, kernel, x, y)
}
