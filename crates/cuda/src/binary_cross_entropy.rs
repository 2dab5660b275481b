//! Binary cross-entropy of rows of logits: `kernels/binary_cross_entropy.cu`. `C` is the number of classes.

use crate::context::Context;
use crate::driver::Element::F32;
use crate::driver::Result;
use crate::launch::{THREADS, flat_grid, launch};
use crate::matrix::{Matrix, MatrixMut};
use crate::row_blocks::sum_of_rows;

/// Computes `loss [1, 1]`, the mean over rows of `Σ −t·ln σ(x) − (1 − t)·ln(1 − σ(x))`; logits `x` and targets `t` are `[T, C]`. Without rows
/// the loss is 0.
///
/// # Errors
/// Those of the driver, or if shapes or types do not fit.
pub fn forward(context: &Context, logits: Matrix, targets: Matrix, loss: MatrixMut) -> Result<()> {
    const OPERATION: &str = "binary cross-entropy";
    let shape = [logits.rows(), logits.columns()];
    logits.expect(OPERATION, "logits", shape, F32)?;
    targets.expect(OPERATION, "targets", shape, F32)?;
    sum_of_rows(
        OPERATION,
        context,
        logits,
        logits.rows() as f32,
        loss,
        |rows, losses| {
            let (logits, targets) = (logits.address(), targets.address());
            // SAFETY: both matrices have this shape, and there is memory for a loss of each row.
            unsafe {
                launch!(
                    context,
                    "binary_cross_entropy_forward",
                    rows.grid,
                    rows.block,
                    rows.shared_bytes(4),
                    [logits, targets, losses, rows.width]
                )
            }
        },
    )
}

/// Replaces the logits by their gradient; `d` is the gradient of the loss.
///
/// # Errors
/// Those of the driver, or if shapes or types do not fit.
pub fn backward(context: &Context, logits: MatrixMut, targets: Matrix, d: f32) -> Result<()> {
    const OPERATION: &str = "gradient of binary cross-entropy";
    let shape = [logits.rows(), logits.columns()];
    logits.expect(OPERATION, "logits", shape, F32)?;
    targets.expect(OPERATION, "targets", shape, F32)?;
    if logits.is_empty() {
        return Ok(());
    }
    let (grid, count) = (flat_grid(context, logits.len()), logits.len() as i64);
    let factor = d / logits.rows() as f32;
    let (logits, targets) = (logits.address(), targets.address());
    // SAFETY: both matrices have this many elements.
    unsafe {
        launch!(
            context,
            "binary_cross_entropy_backward",
            grid,
            [THREADS, 1, 1],
            0,
            [logits, targets, factor, count]
        )
    }
}
