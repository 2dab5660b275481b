//! Softmax attention within packed sequences: `kernels/attention.cu`, `attention_mma.cu` and `attention_wgmma.cu`.
//!
//! `qkv [T, 3·D]` has rows `q | k | v`, each with the columns of `H` heads of `D / H` columns. The query tokens of a sequence are its
//! first tokens; a [`Plan`] has the sequences. The plain version is [`vlct_kernels::reference::attention_forward`].

mod kernels;
mod plan;

pub use kernels::{Kernel, kernel_for};
pub use plan::Plan;

use crate::context::Context;
use crate::driver::Element::{Bf16, F32};
use crate::driver::{Error, Result};
use crate::launch::{THREADS, WARP, launch, to_blocks, to_i32};
use crate::matrix::{Matrix, MatrixMut};
use kernels::Kernels;
use plan::Tiles;

/// A grid has at most this many blocks in its second dimension, which has the heads.
const MAX_HEADS: usize = 65535;

/// Attention with a number of heads, in the sequences of a plan.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// The sequences.
    pub plan: &'a Plan,
    /// The number of heads.
    pub heads: usize,
    /// The kernels, usually those of [`kernel_for`].
    pub kernel: Kernel,
}

/// The results of the forward pass, and its input.
#[derive(Clone, Copy, Debug)]
pub struct Saved<'a> {
    /// Queries, keys and values `[T, 3·D]`.
    pub qkv: Matrix<'a>,
    /// The outputs of the query tokens `[queries, D]`.
    pub out: Matrix<'a>,
    /// The log-sum-exp of the scores of each query token, to base 2, `[H, queries]`, f32.
    pub log_sum_exp: Matrix<'a>,
}

/// The kernels of a call, and arguments that they have in common.
struct Launch {
    kernels: Kernels,
    head_width: i32,
    heads: u32,
    queries: i32,
    /// `1/√w`
    scale: f32,
    /// `log₂e/√w`
    log2_scale: f32,
}

impl Attention<'_> {
    /// Checks `qkv` and the number of heads, and chooses the kernels.
    fn launch(&self, operation: &'static str, qkv: &Matrix) -> Result<Launch> {
        let invalid = |reason: String| Error::InvalidArgument { operation, reason };
        let (heads, element, width) = (self.heads, qkv.element(), qkv.columns() / 3);
        qkv.expect(operation, "qkv", [self.plan.tokens(), 3 * width], element)?;
        if heads == 0 || heads > MAX_HEADS || !width.is_multiple_of(heads) {
            return Err(invalid(format!("a width of {width} cannot have {heads} heads")));
        }
        let w = width / heads;
        let scale = 1.0 / (w as f32).sqrt();
        Ok(Launch {
            kernels: Kernels::new(self.kernel, element, w).map_err(invalid)?,
            head_width: to_i32(operation, w)?,
            heads: heads as u32,
            queries: to_i32(operation, self.plan.queries())?,
            scale,
            log2_scale: scale * std::f32::consts::LOG2_E,
        })
    }
}

/// Writes the outputs `out [queries, D]` and the log-sum-exp of the scores to base 2, `[H, queries]`, f32, from `qkv [T, 3·D]`.
///
/// # Errors
/// Those of the driver, or if shapes or types do not fit each other or the kernels.
pub fn forward(
    context: &Context,
    attention: &Attention,
    qkv: Matrix,
    out: MatrixMut,
    log_sum_exp: MatrixMut,
) -> Result<()> {
    const OPERATION: &str = "attention";
    let launch = attention.launch(OPERATION, &qkv)?;
    let queries = attention.plan.queries();
    out.expect(OPERATION, "out", [queries, qkv.columns() / 3], qkv.element())?;
    log_sum_exp.expect(OPERATION, "log_sum_exp", [attention.heads, queries], F32)?;
    if out.is_empty() {
        return Ok(());
    }
    let tiles = attention.plan.query_tiles();
    let (qkv, out, lse) = (qkv.address(), out.address(), log_sum_exp.address());
    let Launch {
        kernels,
        head_width,
        log2_scale,
        queries,
        ..
    } = &launch;
    // SAFETY: the shapes were checked; the tiles are within the rows of the plan.
    unsafe {
        launch!(
            context,
            kernels.names.forward,
            [tiles.count(), launch.heads, 1],
            [kernels.threads, 1, 1],
            kernels.shared_bytes,
            [qkv, tiles.address(), *head_width, *log2_scale, out, lse, *queries]
        )
    }
}

/// Writes the gradient `d_qkv [T, 3·D]` from `d_out [queries, D]` and the results of [`forward`]. All but the log-sum-exp have one type.
///
/// # Errors
/// Those of the driver, or if shapes or types do not fit each other or the kernels.
pub fn backward(context: &Context, attention: &Attention, d_out: Matrix, saved: Saved, d_qkv: MatrixMut) -> Result<()> {
    const OPERATION: &str = "gradient of attention";
    let Saved { qkv, out, log_sum_exp } = saved;
    let launch = attention.launch(OPERATION, &qkv)?;
    let (queries, element) = (attention.plan.queries(), qkv.element());
    out.expect(OPERATION, "out", [queries, qkv.columns() / 3], element)?;
    d_out.expect(OPERATION, "d_out", [queries, qkv.columns() / 3], element)?;
    log_sum_exp.expect(OPERATION, "log_sum_exp", [attention.heads, queries], F32)?;
    d_qkv.expect(OPERATION, "d_qkv", [qkv.rows(), qkv.columns()], element)?;
    if qkv.is_empty() {
        return Ok(());
    }
    let delta_buffer = context.allocate(attention.heads * queries * F32.bytes())?;
    let delta = delta_buffer.matrix(attention.heads, queries, F32);
    if queries > 0 {
        sum_products(context, &launch, d_out, out, delta)?;
    }
    let addresses = (d_out.address(), qkv.address(), log_sum_exp.address(), d_qkv.address());
    let gradient = |name: &str, shared_bytes: u32, tiles: &Tiles| {
        if tiles.count() == 0 {
            return Ok(());
        }
        let Launch {
            head_width,
            log2_scale,
            scale,
            queries,
            ..
        } = launch;
        let (d_out, qkv, lse, d_qkv) = addresses;
        // SAFETY: the shapes were checked; the tiles are within the rows of the plan.
        unsafe {
            launch!(
                context,
                name,
                [tiles.count(), launch.heads, 1],
                [launch.kernels.threads, 1, 1],
                shared_bytes,
                [
                    d_out,
                    qkv,
                    lse,
                    delta.address(),
                    tiles.address(),
                    head_width,
                    log2_scale,
                    scale,
                    d_qkv,
                    queries
                ]
            )
        }
    };
    let (kernels, plan) = (&launch.kernels, attention.plan);
    gradient(kernels.names.backward_queries, kernels.shared_bytes, plan.query_tiles())?;
    gradient(
        kernels.names.backward_keys,
        kernels.keys_shared_bytes,
        plan.token_tiles(),
    )
}

/// Writes `delta [H, queries]`: the dot product of each head's output and its gradient.
fn sum_products(context: &Context, launch: &Launch, d_out: Matrix, out: Matrix, delta: Matrix) -> Result<()> {
    let (kernel, heads) = match out.element() {
        F32 => ("attention_delta_f32", delta.rows()),
        Bf16 => ("attention_delta_bf16", delta.rows()),
    };
    // A thread has four columns at a time.
    let lanes = (launch.head_width as usize)
        .div_ceil(4)
        .next_power_of_two()
        .min(WARP as usize);
    // The kernel counts rows of heads with 32 bits.
    to_i32("gradient of attention", delta.len())?;
    let blocks = to_blocks("gradient of attention", delta.len().div_ceil(THREADS as usize / lanes))?;
    let (d_out, out, delta) = (d_out.address(), out.address(), delta.address());
    let (heads, lanes) = (heads as i32, lanes as i32);
    // SAFETY: the caller has checked the shapes; each group of lanes writes one value.
    unsafe {
        launch!(
            context,
            kernel,
            [blocks, 1, 1],
            [THREADS, 1, 1],
            0,
            [d_out, out, delta, launch.queries, heads, launch.head_width, lanes]
        )
    }
}
