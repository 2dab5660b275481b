//! The loss of masked autoencoding: `kernels/patch_loss.cu`.

use crate::context::Context;
use crate::driver::Element::F32;
use crate::driver::Result;
use crate::launch::{THREADS, WARP, flat_grid, launch, to_blocks, to_i32};
use crate::matrix::{Matrix, MatrixMut};
use crate::row_blocks::sum_of_rows;

/// Normalises each row of `x [T, D]`: subtracts its mean and divides by `sqrt(σ² + 1e-6)`, where σ² is the unbiased variance.
///
/// # Errors
/// Those of the driver, or if the matrix is not f32.
pub fn normalise_rows(context: &Context, x: MatrixMut) -> Result<()> {
    const OPERATION: &str = "normalisation of rows";
    x.expect(OPERATION, "x", [x.rows(), x.columns()], F32)?;
    if x.is_empty() {
        return Ok(());
    }
    let grid = [
        to_blocks(OPERATION, x.rows().div_ceil((THREADS / WARP) as usize))?,
        1,
        1,
    ];
    let (rows, width) = (to_i32(OPERATION, x.rows())?, to_i32(OPERATION, x.columns())?);
    // SAFETY: the matrix has this shape.
    unsafe {
        launch!(
            context,
            "normalise_rows_f32",
            grid,
            [THREADS, 1, 1],
            0,
            [x.address(), rows, width]
        )
    }
}

/// Computes `loss [1, 1]`, the mean squared difference of prediction and target, `[T, D]` each. Without rows the loss is 0.
///
/// # Errors
/// Those of the driver, or if shapes or types do not fit.
pub fn forward(context: &Context, prediction: Matrix, target: Matrix, loss: MatrixMut) -> Result<()> {
    const OPERATION: &str = "squared error";
    let shape = [prediction.rows(), prediction.columns()];
    prediction.expect(OPERATION, "prediction", shape, F32)?;
    target.expect(OPERATION, "target", shape, F32)?;
    let divisor = prediction.rows() as f32;
    sum_of_rows(OPERATION, context, prediction, divisor, loss, |rows, errors| {
        let (prediction, target) = (prediction.address(), target.address());
        // SAFETY: both matrices have this shape, and there is memory for an error of each row.
        unsafe {
            launch!(
                context,
                "squared_error_forward",
                rows.grid,
                rows.block,
                rows.shared_bytes(4),
                [prediction, target, errors, rows.width]
            )
        }
    })
}

/// Replaces the prediction by its gradient `2·(prediction − target)·d / (T·D)`.
///
/// # Errors
/// Those of the driver, or if shapes or types do not fit.
pub fn backward(context: &Context, prediction: MatrixMut, target: Matrix, d: f32) -> Result<()> {
    const OPERATION: &str = "gradient of squared error";
    let shape = [prediction.rows(), prediction.columns()];
    prediction.expect(OPERATION, "prediction", shape, F32)?;
    target.expect(OPERATION, "target", shape, F32)?;
    if prediction.is_empty() {
        return Ok(());
    }
    let (grid, count) = (flat_grid(context, prediction.len()), prediction.len() as i64);
    let factor = 2.0 * d / prediction.len() as f32;
    let (prediction, target) = (prediction.address(), target.address());
    // SAFETY: both matrices have this many elements.
    unsafe {
        launch!(
            context,
            "squared_error_backward",
            grid,
            [THREADS, 1, 1],
            0,
            [prediction, target, factor, count]
        )
    }
}
