//! Layer normalisation of rows: `kernels/layer_norm.cu`.

use crate::column_sums::column_sums;
use crate::context::Context;
use crate::driver::Element::{Bf16, F32};
use crate::driver::{Address, Result};
use crate::launch::{THREADS, WARP, launch, to_blocks, to_i32};
use crate::matrix::{Matrix, MatrixMut};
use vlct_kernels::mat::Beta;

/// Warps of a block, each with a row.
const WARPS: usize = (THREADS / WARP) as usize;

/// Blocks of the backward pass, each with a row of partial sums. A constant, so that sums do not depend on the device; four for each of the
/// 132 multiprocessors of an H200.
const BACKWARD_BLOCKS: usize = 528;

/// Shared memory for partial sums in bytes: below the limit for which a kernel needs an attribute, and so small that a multiprocessor has four blocks.
const SHARED_BYTES: usize = 48 << 10;

/// Scale and shift `[1, D]`, and ε, which is added to the variance.
#[derive(Clone, Copy, Debug)]
pub struct Weights<'a> {
    /// The scale.
    pub scale: Matrix<'a>,
    /// The shift.
    pub shift: Matrix<'a>,
    /// ε.
    pub eps: f32,
}

impl Weights<'_> {
    fn check(&self, operation: &'static str, width: usize) -> Result<()> {
        self.scale.expect(operation, "scale", [1, width], F32)?;
        self.shift.expect(operation, "shift", [1, width], F32)
    }
}

/// Writes `y [T, D]`, and `mean` and `rstd = 1/sqrt(σ² + ε)` of each row, `[1, T]`. All are f32.
///
/// # Errors
/// Those of the driver, or if shapes or types do not fit.
pub fn forward(
    context: &Context,
    x: Matrix,
    norm: Weights,
    y: MatrixMut,
    mean: MatrixMut,
    rstd: MatrixMut,
) -> Result<()> {
    const OPERATION: &str = "layer norm";
    let (rows, width) = (x.rows(), x.columns());
    norm.check(OPERATION, width)?;
    x.expect(OPERATION, "x", [rows, width], F32)?;
    y.expect(OPERATION, "y", [rows, width], F32)?;
    mean.expect(OPERATION, "mean", [1, rows], F32)?;
    rstd.expect(OPERATION, "rstd", [1, rows], F32)?;
    if x.is_empty() {
        return Ok(());
    }
    let (grid, block) = forward_grid(OPERATION, rows)?;
    let (x, w, b, y) = (x.address(), norm.scale.address(), norm.shift.address(), y.address());
    let (mean, rstd) = (mean.address(), rstd.address());
    let (rows, width) = (to_i32(OPERATION, rows)?, to_i32(OPERATION, width)?);
    // SAFETY: the shapes were checked.
    unsafe {
        launch!(
            context,
            "layer_norm_f32",
            grid,
            block,
            0,
            [x, w, b, norm.eps, y, mean, rstd, rows, width]
        )
    }
}

/// Writes `normalised = (x − μ)·rstd` and `y = normalised·scale + shift` in bfloat16, `[T, D]` each, and `rstd = 1/sqrt(σ² + ε)` of each
/// row in f32, `[1, T]`; `x` is f32.
///
/// # Errors
/// Those of the driver, or if shapes or types do not fit.
pub fn forward_bf16(
    context: &Context,
    x: Matrix,
    norm: Weights,
    normalised: MatrixMut,
    y: MatrixMut,
    rstd: MatrixMut,
) -> Result<()> {
    const OPERATION: &str = "layer norm";
    let (rows, width) = (x.rows(), x.columns());
    norm.check(OPERATION, width)?;
    x.expect(OPERATION, "x", [rows, width], F32)?;
    normalised.expect(OPERATION, "normalised", [rows, width], Bf16)?;
    y.expect(OPERATION, "y", [rows, width], Bf16)?;
    rstd.expect(OPERATION, "rstd", [1, rows], F32)?;
    if x.is_empty() {
        return Ok(());
    }
    let (grid, block) = forward_grid(OPERATION, rows)?;
    let (x, w, b) = (x.address(), norm.scale.address(), norm.shift.address());
    let (normalised, y, rstd) = (normalised.address(), y.address(), rstd.address());
    let (rows, width) = (to_i32(OPERATION, rows)?, to_i32(OPERATION, width)?);
    let eps = norm.eps;
    // SAFETY: the shapes were checked.
    unsafe {
        launch!(
            context,
            "layer_norm_bf16",
            grid,
            block,
            0,
            [x, w, b, eps, normalised, y, rstd, rows, width]
        )
    }
}

/// Computes `y = normalised·scale + shift` in bfloat16, `[T, D]`: the output of [`forward_bf16`] from the rows that it saved.
///
/// # Errors
/// Those of the driver, or if shapes or types do not fit.
pub fn output_bf16(context: &Context, normalised: Matrix, norm: Weights, y: MatrixMut) -> Result<()> {
    const OPERATION: &str = "output of a layer norm";
    let (rows, width) = (normalised.rows(), normalised.columns());
    norm.check(OPERATION, width)?;
    normalised.expect(OPERATION, "normalised", [rows, width], Bf16)?;
    y.expect(OPERATION, "y", [rows, width], Bf16)?;
    if y.is_empty() {
        return Ok(());
    }
    let (grid, block) = forward_grid(OPERATION, rows)?;
    let (normalised, y) = (normalised.address(), y.address());
    let (w, b) = (norm.scale.address(), norm.shift.address());
    let (rows, width) = (to_i32(OPERATION, rows)?, to_i32(OPERATION, width)?);
    // SAFETY: the shapes were checked.
    unsafe {
        launch!(
            context,
            "layer_norm_output_bf16",
            grid,
            block,
            0,
            [normalised, w, b, y, rows, width]
        )
    }
}

fn forward_grid(operation: &'static str, rows: usize) -> Result<([u32; 3], [u32; 3])> {
    Ok(([to_blocks(operation, rows.div_ceil(WARPS))?, 1, 1], [THREADS, 1, 1]))
}

/// What a layer norm saves for its backward pass.
#[derive(Clone, Copy, Debug)]
pub enum Saved<'a> {
    /// In f32: the input `[T, D]` and the mean of each row `[1, T]`.
    Input {
        /// The input.
        x: Matrix<'a>,
        /// The means.
        mean: Matrix<'a>,
    },
    /// In bfloat16: the normalised rows `[T, D]`.
    Normalised(Matrix<'a>),
}

/// The results of the backward pass.
#[derive(Debug)]
pub struct Gradients<'a> {
    /// The gradient of the input `[T, D]`, f32: `dx = β·dx + …`.
    pub dx: MatrixMut<'a>,
    /// β.
    pub beta: Beta,
    /// The new `dx`, rounded to bfloat16, `[T, D]`; only with [`Saved::Normalised`].
    pub rounded: Option<MatrixMut<'a>>,
    /// The gradient of the scale `[1, D]`, f32.
    pub d_scale: MatrixMut<'a>,
    /// The gradient of the shift `[1, D]`, f32.
    pub d_shift: MatrixMut<'a>,
}

/// Computes the gradients of input, scale and shift. `dy [T, D]` is f32 with [`Saved::Input`], else bfloat16; `rstd` is `[1, T]`, `scale`
/// `[1, D]`.
///
/// # Errors
/// Those of the driver, or if shapes or types do not fit.
pub fn backward(
    context: &Context,
    dy: Matrix,
    saved: Saved,
    rstd: Matrix,
    scale: Matrix,
    gradients: Gradients,
) -> Result<()> {
    const OPERATION: &str = "gradient of layer norm";
    let (rows, width) = (dy.rows(), dy.columns());
    let Gradients {
        dx,
        beta,
        rounded,
        d_scale,
        d_shift,
    } = gradients;
    let element = if matches!(saved, Saved::Input { .. }) {
        F32
    } else {
        Bf16
    };
    dy.expect(OPERATION, "dy", [rows, width], element)?;
    match saved {
        Saved::Input { x, mean } => {
            x.expect(OPERATION, "x", [rows, width], F32)?;
            mean.expect(OPERATION, "mean", [1, rows], F32)?;
        }
        Saved::Normalised(normalised) => normalised.expect(OPERATION, "normalised", [rows, width], Bf16)?,
    }
    rstd.expect(OPERATION, "rstd", [1, rows], F32)?;
    scale.expect(OPERATION, "scale", [1, width], F32)?;
    dx.expect(OPERATION, "dx", [rows, width], F32)?;
    if let Some(rounded) = &rounded {
        // In f32, there is no rounded copy: an empty matrix is the only one that fits.
        let shape = if element == Bf16 { [rows, width] } else { [0, 0] };
        rounded.expect(OPERATION, "rounded", shape, Bf16)?;
    }
    d_scale.expect(OPERATION, "d_scale", [1, width], F32)?;
    d_shift.expect(OPERATION, "d_shift", [1, width], F32)?;
    if width == 0 {
        return Ok(());
    }
    // Each warp has two sums for each column. A width that is too large for shared memory gets blocks of one warp, which sum in memory.
    let warps = (SHARED_BYTES / (8 * width)).min(WARPS);
    let uses_shared = warps > 0;
    let warps = warps.max(1);
    let shared_bytes = if uses_shared { warps * 8 * width } else { 0 } as u32;
    let blocks = rows.div_ceil(warps).clamp(1, BACKWARD_BLOCKS);
    let bytes = blocks * width * F32.bytes();
    let [partial_scale, partial_shift] = [context.allocate(bytes)?, context.allocate(bytes)?];
    let (grid, block) = ([blocks as u32, 1, 1], [warps as u32 * WARP, 1, 1]);
    let (dy, rstd, w, dx, beta) = (
        dy.address(),
        rstd.address(),
        scale.address(),
        dx.address(),
        beta.factor(),
    );
    let (dw, db, uses_shared) = (partial_scale.address(), partial_shift.address(), i32::from(uses_shared));
    let (rows, columns) = (to_i32(OPERATION, rows)?, to_i32(OPERATION, width)?);
    match saved {
        Saved::Input { x, mean } => {
            let (x, mean) = (x.address(), mean.address());
            let kernel = "layer_norm_backward_f32";
            // SAFETY: the shapes were checked, and there is a row of partial sums for each block.
            unsafe {
                launch!(
                    context,
                    kernel,
                    grid,
                    block,
                    shared_bytes,
                    [dy, x, w, mean, rstd, dx, beta, dw, db, uses_shared, rows, columns]
                )?;
            }
        }
        Saved::Normalised(normalised) => {
            let normalised = normalised.address();
            let rounded = rounded.map_or(Address::NULL, |rounded| rounded.address());
            let kernel = "layer_norm_backward_bf16";
            // SAFETY: the shapes were checked, and there is a row of partial sums for each block.
            unsafe {
                launch!(
                    context,
                    kernel,
                    grid,
                    block,
                    shared_bytes,
                    [
                        dy,
                        normalised,
                        w,
                        rstd,
                        dx,
                        beta,
                        rounded,
                        dw,
                        db,
                        uses_shared,
                        rows,
                        columns
                    ]
                )?;
            }
        }
    }
    column_sums(context, partial_scale.matrix(blocks, width, F32), d_scale, Beta::Zero)?;
    column_sums(context, partial_shift.matrix(blocks, width, F32), d_shift, Beta::Zero)
}
