//! Softmax attention within packed sequences: `kernels/attention.cu` and `kernels/attention_mma.cu`.
//!
//! `qkv [T, 3·D]` has rows `q | k | v`, each with the columns of `H` heads of `D / H` columns. The query tokens of a sequence are its
//! first tokens; a [`Plan`] has the sequences. The plain version is [`vlct_kernels::reference::attention_forward`].

mod plan;

pub use plan::Plan;

use crate::context::Context;
use crate::driver::Element::{Bf16, F32};
use crate::driver::{Element, Error, Result};
use crate::launch::{THREADS, WARP, launch, to_blocks, to_i32};
use crate::matrix::{Matrix, MatrixMut};
use plan::{TILE, Tiles};

/// Widest head of the plain kernels: their threads sum eight columns each.
const MAX_HEAD_WIDTH: usize = 256;

/// A grid has at most this many blocks in its second dimension, which has the heads.
const MAX_HEADS: usize = 65535;

/// Which kernels compute attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// For f32 and bfloat16, and any head of up to 256 columns, with f32 arithmetic.
    Plain,
    /// Tensor cores by `mma.sync`: for bfloat16 and heads of 8, 16, … 128 columns. Probabilities and gradients of scores are rounded to
    /// bfloat16.
    Mma,
}

/// The fastest kernel for a compute capability, a type and a number of columns of each head.
pub fn kernel_for(capability: (u32, u32), element: Element, head_width: usize) -> Kernel {
    if element == Bf16 && capability >= (8, 0) && MmaKernels::for_width(head_width).is_some() {
        Kernel::Mma
    } else {
        Kernel::Plain
    }
}

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

/// The kernels for heads of up to `width` columns, which is a multiple of 16: the instances in `attention_mma.cu`.
struct MmaKernels {
    width: usize,
    forward: &'static str,
    backward_queries: &'static str,
    backward_keys: &'static str,
}

impl MmaKernels {
    const ALL: [Self; 4] = [
        Self {
            width: 32,
            forward: "attention_mma_32",
            backward_queries: "attention_backward_queries_mma_32",
            backward_keys: "attention_backward_keys_mma_32",
        },
        Self {
            width: 64,
            forward: "attention_mma_64",
            backward_queries: "attention_backward_queries_mma_64",
            backward_keys: "attention_backward_keys_mma_64",
        },
        Self {
            width: 80,
            forward: "attention_mma_80",
            backward_queries: "attention_backward_queries_mma_80",
            backward_keys: "attention_backward_keys_mma_80",
        },
        Self {
            width: 128,
            forward: "attention_mma_128",
            backward_queries: "attention_backward_queries_mma_128",
            backward_keys: "attention_backward_keys_mma_128",
        },
    ];

    /// The narrowest kernels for a head. Asynchronous copies need rows of whole 16 bytes.
    fn for_width(head_width: usize) -> Option<&'static Self> {
        let fits = |kernels: &&Self| head_width.is_multiple_of(8) && head_width <= kernels.width;
        Self::ALL.iter().find(fits)
    }

    /// Two buffers for tiles of two matrices: rows have 8 columns of padding.
    fn tiles_bytes(&self) -> u32 {
        (2 * 2 * TILE * (self.width + 8) * Bf16.bytes()) as u32
    }

    /// Two buffers for the log-sum-exp and `delta` of the rows of a tile.
    const STATISTICS_BYTES: u32 = (2 * 2 * TILE * F32.bytes()) as u32;
}

/// A kernel and the sizes of its blocks.
struct Choice {
    name: &'static str,
    threads: u32,
    shared_bytes: u32,
}

/// The kernels of an operation, and the arguments that all of them have.
struct Launch {
    forward: Choice,
    backward_queries: Choice,
    backward_keys: Choice,
    head_width: i32,
    heads: u32,
    queries: i32,
    /// `1/√w`
    scale: f32,
    /// `log₂e/√w`
    log2_scale: f32,
}

/// Threads of a block of `attention_mma.cu`.
const MMA_THREADS: u32 = 128;

impl Attention<'_> {
    /// Checks `qkv` and the number of heads, and chooses the kernels.
    fn launch(&self, operation: &'static str, qkv: &Matrix) -> Result<Launch> {
        let fails = |reason: String| Err(Error::InvalidArgument { operation, reason });
        let (heads, element) = (self.heads, qkv.element());
        let width = qkv.columns() / 3;
        qkv.expect(operation, "qkv", [self.plan.tokens(), 3 * width], element)?;
        if heads == 0 || heads > MAX_HEADS || !width.is_multiple_of(heads) {
            return fails(format!("a width of {width} cannot have {heads} heads"));
        }
        let w = width / heads;
        let scale = 1.0 / (w as f32).sqrt();
        let kernels = |names: [&'static str; 3], threads, shared_bytes: [u32; 3]| {
            let [forward, backward_queries, backward_keys] = std::array::from_fn(|i| Choice {
                name: names[i],
                threads,
                shared_bytes: shared_bytes[i],
            });
            Ok(Launch {
                forward,
                backward_queries,
                backward_keys,
                head_width: to_i32(operation, w)?,
                heads: heads as u32,
                queries: to_i32(operation, self.plan.queries())?,
                scale,
                log2_scale: scale * std::f32::consts::LOG2_E,
            })
        };
        match (self.kernel, element) {
            (Kernel::Mma, Bf16) => {
                let Some(mma) = MmaKernels::for_width(w) else {
                    return fails(format!("the kernels with mma.sync do not support heads of {w} columns"));
                };
                let (names, tiles) = (
                    [mma.forward, mma.backward_queries, mma.backward_keys],
                    mma.tiles_bytes(),
                );
                kernels(names, MMA_THREADS, [tiles, tiles, tiles + MmaKernels::STATISTICS_BYTES])
            }
            (Kernel::Mma, F32) => fails("the kernels with mma.sync do not support f32".into()),
            (Kernel::Plain, _) if w > MAX_HEAD_WIDTH => fails(format!(
                "heads have at most {MAX_HEAD_WIDTH} columns, but {width} / {heads} are {w}"
            )),
            (Kernel::Plain, element) => {
                let names = match element {
                    F32 => [
                        "attention_f32",
                        "attention_backward_queries_f32",
                        "attention_backward_keys_f32",
                    ],
                    Bf16 => [
                        "attention_bf16",
                        "attention_backward_queries_bf16",
                        "attention_backward_keys_bf16",
                    ],
                };
                // Two rows of a head, and two values for each lane of a warp.
                let values = (THREADS / WARP) as usize * 2 * (w.next_multiple_of(4) + WARP as usize);
                kernels(names, THREADS, [(values * F32.bytes()) as u32; 3])
            }
        }
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
        head_width,
        log2_scale,
        queries,
        ..
    } = launch;
    // SAFETY: the shapes were checked; the tiles are within the rows of the plan.
    unsafe {
        launch!(
            context,
            launch.forward.name,
            [tiles.count(), launch.heads, 1],
            [launch.forward.threads, 1, 1],
            launch.forward.shared_bytes,
            [qkv, tiles.address(), head_width, log2_scale, out, lse, queries]
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
    let gradient = |kernel: &Choice, tiles: &Tiles| {
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
                kernel.name,
                [tiles.count(), launch.heads, 1],
                [kernel.threads, 1, 1],
                kernel.shared_bytes,
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
    gradient(&launch.backward_queries, attention.plan.query_tiles())?;
    gradient(&launch.backward_keys, attention.plan.token_tiles())
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
