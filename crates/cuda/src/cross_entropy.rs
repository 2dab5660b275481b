//! Softmax cross-entropy and accuracies of rows of logits: `kernels/cross_entropy.cu`. `C` is the number of classes.

use crate::context::Context;
use crate::driver::Element::F32;
use crate::driver::{Error, Result};
use crate::launch::launch;
use crate::matrix::{Matrix, MatrixMut};
use crate::row_blocks::{Rows, sum_of_rows};

/// Computes the mean `loss [1, 1]` of `−ln softmax(logits[r])[targets[r]]` over the rows `r`, and the probabilities; both matrices are
/// `[T, C]`. Without rows the loss is 0.
///
/// # Errors
/// Those of the driver, if shapes or types do not fit, or if a target is not below `C`.
pub fn forward(
    context: &Context,
    logits: Matrix,
    targets: &[u32],
    probabilities: MatrixMut,
    loss: MatrixMut,
) -> Result<()> {
    const OPERATION: &str = "cross-entropy";
    logits.expect(OPERATION, "logits", [targets.len(), logits.columns()], F32)?;
    probabilities.expect(OPERATION, "probabilities", [logits.rows(), logits.columns()], F32)?;
    expect_classes(OPERATION, targets, logits.columns())?;
    let divisor = logits.rows() as f32;
    sum_of_rows(OPERATION, context, logits, divisor, loss, |rows, losses| {
        let targets = context.upload(targets)?;
        let (logits, probabilities) = (logits.address(), probabilities.address());
        // SAFETY: both matrices have this shape, there is a target for each row, which is a column, and memory for a loss of each row.
        unsafe {
            launch!(
                context,
                "cross_entropy_forward",
                rows.grid,
                rows.block,
                rows.shared_bytes(8),
                [logits, targets.address(), probabilities, losses, rows.width]
            )
        }
    })
}

/// Replaces the probabilities of [`forward`] by the gradient of the logits; `d` is the gradient of the loss.
///
/// # Errors
/// Those of the driver, if shapes or types do not fit, or if a target is not below `C`.
pub fn backward(context: &Context, probabilities: MatrixMut, targets: &[u32], d: f32) -> Result<()> {
    const OPERATION: &str = "gradient of cross-entropy";
    probabilities.expect(
        OPERATION,
        "probabilities",
        [targets.len(), probabilities.columns()],
        F32,
    )?;
    expect_classes(OPERATION, targets, probabilities.columns())?;
    if targets.is_empty() {
        return Ok(());
    }
    let rows = Rows::new(OPERATION, *probabilities)?;
    let scale = d / targets.len() as f32;
    let targets = context.upload(targets)?;
    // SAFETY: the matrix has this shape, and there is a target for each row.
    unsafe {
        launch!(
            context,
            "cross_entropy_backward",
            rows.grid,
            rows.block,
            0,
            [probabilities.address(), targets.address(), scale, rows.width]
        )
    }
}

/// Computes the mean `loss [1, 1]` of `−Σ targets[r, c] · ln softmax(logits[r])[c]` over the rows `r`, and the probabilities; all other
/// matrices are `[T, C]`. Without rows the loss is 0.
///
/// # Errors
/// Those of the driver, or if shapes or types do not fit.
pub fn soft_forward(
    context: &Context,
    logits: Matrix,
    targets: Matrix,
    probabilities: MatrixMut,
    loss: MatrixMut,
) -> Result<()> {
    const OPERATION: &str = "soft cross-entropy";
    let shape = [logits.rows(), logits.columns()];
    logits.expect(OPERATION, "logits", shape, F32)?;
    targets.expect(OPERATION, "targets", shape, F32)?;
    probabilities.expect(OPERATION, "probabilities", shape, F32)?;
    let divisor = logits.rows() as f32;
    sum_of_rows(OPERATION, context, logits, divisor, loss, |rows, losses| {
        let addresses = [logits.address(), targets.address(), probabilities.address()];
        // SAFETY: all matrices have this shape, and there is memory for a loss of each row.
        unsafe {
            launch!(
                context,
                "soft_cross_entropy_forward",
                rows.grid,
                rows.block,
                rows.shared_bytes(8),
                [addresses[0], addresses[1], addresses[2], losses, rows.width]
            )
        }
    })
}

/// Replaces the probabilities of [`soft_forward`] by the gradient of the logits; `d` is the gradient of the loss.
///
/// # Errors
/// Those of the driver, or if shapes or types do not fit.
pub fn soft_backward(context: &Context, probabilities: MatrixMut, targets: Matrix, d: f32) -> Result<()> {
    const OPERATION: &str = "gradient of soft cross-entropy";
    let shape = [probabilities.rows(), probabilities.columns()];
    probabilities.expect(OPERATION, "probabilities", shape, F32)?;
    targets.expect(OPERATION, "targets", shape, F32)?;
    if probabilities.is_empty() {
        return Ok(());
    }
    let rows = Rows::new(OPERATION, *probabilities)?;
    let scale = d / probabilities.rows() as f32;
    // SAFETY: both matrices have this shape.
    unsafe {
        launch!(
            context,
            "soft_cross_entropy_backward",
            rows.grid,
            rows.block,
            rows.shared_bytes(4),
            [probabilities.address(), targets.address(), scale, rows.width]
        )
    }
}

/// Computes `hits [1, 1]`, the number of rows of `logits [T, C]` whose argmax is the target. Of equal logits, the first counts. NaNs are
/// ignored, except that a row whose first logit is NaN has argmax 0.
///
/// # Errors
/// Those of the driver, or if shapes or types do not fit.
pub fn hits(context: &Context, logits: Matrix, targets: &[u32], hits: MatrixMut) -> Result<()> {
    const OPERATION: &str = "hits";
    logits.expect(OPERATION, "logits", [targets.len(), logits.columns()], F32)?;
    sum_of_rows(OPERATION, context, logits, 1.0, hits, |rows, hit_rows| {
        let targets = context.upload(targets)?;
        // SAFETY: there is a target for each row of the logits, and memory for a value of each row.
        unsafe {
            launch!(
                context,
                "hit_rows",
                rows.grid,
                rows.block,
                rows.shared_bytes(8),
                [logits.address(), targets.address(), hit_rows, rows.width]
            )
        }
    })
}

/// Computes `score [1, 1]`, the sum of `targets[r, argmax(logits[r])]` over the rows `r`, with the argmax of [`hits`]. Logits and targets
/// are `[T, C]`.
///
/// # Errors
/// Those of the driver, or if shapes or types do not fit.
pub fn score_at_argmax(context: &Context, logits: Matrix, targets: Matrix, score: MatrixMut) -> Result<()> {
    const OPERATION: &str = "score at the argmax";
    let shape = [logits.rows(), logits.columns()];
    logits.expect(OPERATION, "logits", shape, F32)?;
    targets.expect(OPERATION, "targets", shape, F32)?;
    sum_of_rows(OPERATION, context, logits, 1.0, score, |rows, scores| {
        // SAFETY: both matrices have this shape, and there is memory for a value of each row.
        unsafe {
            launch!(
                context,
                "score_rows",
                rows.grid,
                rows.block,
                rows.shared_bytes(8),
                [logits.address(), targets.address(), scores, rows.width]
            )
        }
    })
}

/// Fails unless each target is below the number of classes.
fn expect_classes(operation: &'static str, targets: &[u32], classes: usize) -> Result<()> {
    match targets.iter().position(|target| *target as usize >= classes) {
        None => Ok(()),
        Some(row) => Err(Error::InvalidArgument {
            operation,
            reason: format!("target {} of row {row} is not below {classes}", targets[row]),
        }),
    }
}
