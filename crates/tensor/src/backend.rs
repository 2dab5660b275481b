//! The interface between operations and devices.
//!
//! An operation ([`crate::ops`]) checks shapes, decides what is saved for the backward pass, and passes gradients on. A [`Backend`]
//! computes the values. Its functions take tensors, and slices only to copy values between host and device. Row indices, offsets of
//! sequences and the gradients of scalar losses come from the host. Only [`Tensor::to_host`] copies values back to the host.
//!
//! In shapes, `T` is the number of tokens, `D` the width, `H` the number of heads.

use crate::precision::{F32Products, Precision};
use crate::tensor::{Order, Planes, Tensor};
use crate::varlen::Varlen;
use std::any::Any;
use std::ops::Range;
use std::time::{Duration, Instant};
use vlct_cuda::context::Context;
pub(crate) use vlct_kernels::mat::Beta;
use vlct_kernels::optimizer::Betas;
pub use vlct_kernels::sparse::SparseMatrix;
pub use vlct_kernels::transport::Ipot;

/// Memory of a device, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnMemory {
    /// The most that the program has allocated at once.
    pub peak: u64,
    /// The memory of the device.
    pub total: u64,
}

/// A point in the work of a device. The difference of two timestamps is the time of the work between them.
pub(crate) enum Timestamp {
    /// A point in time, for a device that has done all submitted work.
    Host {
        /// Wall-clock time.
        wall: Instant,
        /// CPU time of the process, summed over all cores; zero where the operating system does not report it.
        cpu: Duration,
    },
    /// A point in the stream of a device, which may not have reached it.
    Stream(Box<dyn StreamPoint>),
}

/// A point in the stream of a device.
pub(crate) trait StreamPoint: Any {
    /// Returns the time of the device between this point and a later one. Waits until the device has reached both.
    fn until(&self, later: &dyn StreamPoint) -> Duration;
}

impl Timestamp {
    /// Returns the time until a later timestamp of the same device, and the CPU time, summed over all cores. Waits until the device has
    /// reached both points.
    pub fn until(&self, later: &Self) -> [Duration; 2] {
        match (self, later) {
            (
                Self::Host { wall, cpu },
                Self::Host {
                    wall: later,
                    cpu: cpu_later,
                },
            ) => [later.saturating_duration_since(*wall), cpu_later.saturating_sub(*cpu)],
            (Self::Stream(start), Self::Stream(later)) => [start.until(&**later), Duration::ZERO],
            _ => panic!("timestamps of two devices"),
        }
    }
}

/// A linear layer: weight `[out, in]`, bias `[1, out]`.
#[derive(Clone)]
pub(crate) struct Layer {
    pub weight: Tensor,
    pub bias: Option<Tensor>,
    /// Whether more products with the same weight will follow, so that packing the weight once pays off.
    pub reused: bool,
    /// The method for f32 products with the weight.
    pub f32_products: F32Products,
}

/// A layer norm: scale `[1, D]` (weight), shift `[1, D]` (bias), and ε, which is added to the variance.
#[derive(Clone)]
pub(crate) struct LayerNorm {
    pub weight: Tensor,
    pub bias: Tensor,
    pub eps: f32,
}

/// The tensors that a layer norm saves for its backward pass.
pub(crate) enum SavedNorm {
    /// In f32: the input `[T, D]`, and the mean and reciprocal standard deviation of each row, `[1, T]` each.
    Input { x: Tensor, mean: Tensor, rstd: Tensor },
    /// In bfloat16: the normalised rows `[T, D]` as an operand, and the reciprocal standard deviations `[1, T]`.
    Rows { normalised: Tensor, rstd: Tensor },
}

impl SavedNorm {
    /// The saved matrix `[T, D]`.
    pub fn matrix(&self) -> &Tensor {
        match self {
            Self::Input { x, .. } => x,
            Self::Rows { normalised, .. } => normalised,
        }
    }
}

/// The input of a linear layer, for the gradient of its weight. The backend recomputes inputs that are not saved themselves.
pub(crate) enum Input<'a> {
    /// An operand.
    Operand(&'a Tensor),
    /// The output of a layer norm.
    NormOutput(&'a SavedNorm, &'a LayerNorm),
    /// The GELU of an operand.
    Gelu(&'a Tensor),
}

/// A caption and an image, as rows of a packed matrix, and the weight of the pair in the loss.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The rows of the caption's words.
    pub text: Range<usize>,
    /// The rows of the image's patches.
    pub image: Range<usize>,
    /// The factor of the distance between words and patches.
    pub weight: f32,
}

/// The state that optimal transport saves for its backward pass; its type is private to the backend.
pub(crate) struct SavedTransport(pub Box<dyn Any + Send + Sync>);

/// The update rule of an optimiser.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Rule {
    /// AdamW as in Hugging Face Transformers, with β = (0.9, 0.98).
    AdamW,
    /// Adam as in PyTorch, with β = (0.9, 0.999) and weight decay as an L2 term.
    Adam,
    /// AdamW as in PyTorch, with β = (0.9, 0.999).
    AdamWPyTorch,
    /// Gradient descent with momentum 0.9 and weight decay as an L2 term.
    Sgd,
    /// LARS as in MAE's linear probing, with momentum 0.9.
    Lars,
}

impl Rule {
    /// The names of the moments in PyTorch's optimiser states, and in MAE's for LARS.
    pub(crate) fn moments(self) -> &'static [&'static str] {
        match self {
            Self::Sgd => &["momentum_buffer"],
            Self::Lars => &["mu"],
            Self::AdamW | Self::Adam | Self::AdamWPyTorch => &["exp_avg", "exp_avg_sq"],
        }
    }
}

/// Momentum of [`Rule::Sgd`] and [`Rule::Lars`].
pub(crate) const MOMENTUM: f32 = 0.9;

/// Constants of [`Rule::AdamW`].
pub(crate) const ADAMW: Betas = Betas {
    beta1: 0.9,
    beta2: 0.98,
    epsilon: 1e-8,
};

/// Constants of [`Rule::Adam`] and [`Rule::AdamWPyTorch`].
pub(crate) const ADAM: Betas = Betas {
    beta1: 0.9,
    beta2: 0.999,
    epsilon: 1e-8,
};

/// The update of one parameter in one step.
pub(crate) struct ParameterUpdate<'a> {
    pub values: &'a mut Tensor,
    pub gradient: &'a Tensor,
    /// Running averages: one for [`Rule::Sgd`] and [`Rule::Lars`], two for the other rules.
    pub moments: Vec<&'a mut Tensor>,
    pub learning_rate: f64,
    pub weight_decay: f64,
    /// The number of updates of the parameter, this one included.
    pub step: u64,
}

/// The norm of the gradients of a step, and the largest norm that the update may use. The norm stays on the device.
#[derive(Clone)]
pub struct Clip {
    /// The L2 norm of all gradients, `[1, 1]`.
    pub norm: Tensor,
    /// If the norm is greater than this limit, the gradients are multiplied by their ratio.
    pub limit: f32,
}

/// The computations of a device.
///
/// Matrices are f32 in row-major order unless they are *operands*. An operand is an activation in the form in which matrix products
/// read it: f32 or bfloat16, in a memory order that the device chooses. `beta` (β of BLAS) is zero if a function overwrites its result
/// and one if it adds to its result.
pub(crate) trait Backend: Send + Sync {
    /// Returns the name of the device, for messages.
    fn name(&self) -> &str;

    /// Returns the model of the device.
    fn model(&self) -> &str {
        "CPU"
    }

    /// Describes the device's own memory; `None` if the device uses the memory of the machine.
    fn own_memory(&self) -> Option<OwnMemory> {
        None
    }

    /// Returns the context of a CUDA device.
    fn cuda_context(&self) -> Option<&Context> {
        None
    }

    /// Returns the name of the memory that holds the tensors. Backends with the same memory accept each other's tensors.
    fn memory(&self) -> &str {
        self.name()
    }

    /// Whether matrix products are faster in bfloat16 than in f32. If they are not, callers use only f32.
    fn bf16_is_fast(&self) -> bool;

    /// Whether the device supports this method for large f32 products.
    fn supports_f32_products(&self, method: F32Products) -> bool;

    /// Times a large product by each method that the device supports and returns the fastest method. A method other than FMA must
    /// take at least 10 % less time than FMA.
    fn fastest_f32_products(&self) -> F32Products;

    /// Waits for all submitted work and returns the time.
    fn timestamp(&self) -> Timestamp;

    /// Waits until all submitted work is done.
    fn synchronize(&self) {}

    /// Returns unused memory to the operating system.
    fn release_unused(&self);

    /// Allocates a matrix with arbitrary content.
    fn empty(&self, rows: usize, columns: usize) -> Tensor;

    /// Allocates a matrix of zeros.
    fn zeros(&self, rows: usize, columns: usize) -> Tensor;

    /// Allocates matrices with arbitrary content in one piece of memory.
    fn empty_together(&self, shapes: &[[usize; 2]]) -> Vec<Tensor>;

    /// Allocates matrices of zeros in one piece of memory: the weights of a model, or the moments of an optimiser.
    fn zeros_together(&self, shapes: &[[usize; 2]]) -> Vec<Tensor>;

    /// Copies `rows · columns` values from host memory to a new matrix.
    fn upload(&self, rows: usize, columns: usize, values: &[f32]) -> Tensor;

    /// Replaces all values of a matrix. Calls `write` once with a buffer in host memory, whose content is arbitrary at first, and copies
    /// the buffer to the matrix.
    fn overwrite(&self, to: &mut Tensor, write: &mut dyn FnMut(&mut [f32]));

    /// Copies patches of `side · side` pixels from images in host memory. `images` lists each image with the indices of its patches.
    /// Returns a row `[3 · side²]` for each patch.
    fn patches(&self, images: &[(Planes, &[u32])], side: usize, order: Order) -> Tensor;

    /// Copies images to the device while it computes, if the device has memory of its own. [`Backend::patches`] uses the copy until the
    /// returned value is dropped.
    fn upload_images(&self, _: &[Planes]) -> Option<Box<dyn Send>> {
        None
    }

    /// Returns the index of the first matrix with a value that is infinite or NaN.
    fn first_non_finite(&self, matrices: &[Tensor]) -> Option<usize>;

    /// Converts `x` to an operand.
    fn operand(&self, x: &Tensor, precision: Precision) -> Tensor;

    /// Returns `x·wᵀ + b (+ residual)`, `[T, out]`; `x [T, in]` is an operand.
    fn linear(&self, x: &Tensor, layer: &Layer, residual: Option<&Tensor>) -> Tensor;

    /// Returns `x·wᵀ + b` as an operand `[T, out]`; `x [T, in]` is an operand.
    fn linear_operand(&self, x: &Tensor, layer: &Layer) -> Tensor;

    /// Returns `hidden = x·wᵀ + b` (only if `save_hidden`) and `gelu(hidden)` as operands; `x` is an operand. The layer must have a bias.
    fn linear_gelu(&self, x: &Tensor, layer: &Layer, save_hidden: bool) -> (Option<Tensor>, Tensor);

    /// Computes `dx [T, in] = β·dx + dy·w`; `dy [T, out]` is an operand.
    fn input_gradient(&self, dy: &Tensor, layer: &Layer, dx: &mut Tensor, beta: Beta);

    /// Returns `dy·w` as an operand `[T, in]`; `dy [T, out]` is an operand.
    fn input_gradient_operand(&self, dy: &Tensor, layer: &Layer) -> Tensor;

    /// Returns the gradient of `hidden [T, in]`, given the gradient `dy` of `gelu(hidden)·wᵀ`; all are operands.
    fn input_gradient_gelu(&self, dy: &Tensor, layer: &Layer, hidden: &Tensor) -> Tensor;

    /// Computes `dw [out, in] = β·dw + dyᵀ·x`, and adds the sum of the rows of `dy` to `db [1, out]`; `dy [T, out]` is an operand.
    fn layer_gradient(
        &self,
        dy: &Tensor,
        x: Input,
        dw: &mut Tensor,
        beta: Beta,
        db: Option<&mut Tensor>,
        method: F32Products,
    );

    /// Adds the sum of the rows of `dy` to `db [1, out]`; `dy [T, out]` is an operand.
    fn bias_gradient(&self, dy: &Tensor, db: &mut Tensor);

    /// Returns the tensors for the backward pass, and the layer norm of each row of `x [T, D]` as an operand.
    fn norm(&self, x: &Tensor, norm: &LayerNorm, precision: Precision) -> (SavedNorm, Tensor);

    /// Writes the gradient of the input to `dx [T, D]`, or adds it (`beta`). Returns the gradients of scale and shift, `[1, D]` each.
    /// `dy [T, D]` is an operand.
    fn norm_gradient(
        &self,
        saved: &SavedNorm,
        dy: &Tensor,
        norm: &LayerNorm,
        dx: &mut Tensor,
        beta: Beta,
    ) -> [Tensor; 2];

    /// Computes softmax attention within each sequence from the operand `qkv [T, 3·D]`. Returns the outputs of the query tokens as an
    /// operand `[queries, D]`, and the log-sum-exp of their scores, to base 2, `[H, queries]`.
    fn attention(&self, qkv: &Tensor, varlen: &Varlen, heads: usize) -> (Tensor, Tensor);

    /// Returns the gradient of `qkv`, given the gradient `d_out` of `out`; all are operands.
    fn attention_gradient(
        &self,
        d_out: &Tensor,
        qkv: &Tensor,
        out: &Tensor,
        log_sum_exp: &Tensor,
        varlen: &Varlen,
        heads: usize,
    ) -> Tensor;

    /// Computes `sum = β·sum + x`.
    fn add(&self, x: &Tensor, sum: &mut Tensor, beta: Beta);

    /// Returns the GELU of every value, computed with the error function.
    fn gelu(&self, x: &Tensor) -> Tensor;

    /// Multiplies each value of `dy` by the derivative of the GELU at `x`.
    fn gelu_gradient(&self, x: &Tensor, dy: &mut Tensor);

    /// Returns the hyperbolic tangent of every value.
    fn tanh(&self, x: &Tensor) -> Tensor;

    /// Multiplies each value of `dy` by the derivative of the hyperbolic tangent, given its value `y`.
    fn tanh_gradient(&self, y: &Tensor, dy: &mut Tensor);

    /// Zeroes each value with probability `p` and scales the others by `1/(1−p)`. Calls with equal keys zero the same values.
    fn dropout(&self, x: &Tensor, p: f32, key: [u64; 4]) -> Tensor;

    /// Applies [`Backend::dropout`] to a gradient, in place.
    fn dropout_gradient(&self, dy: &mut Tensor, p: f32, key: [u64; 4]);

    /// Copies rows of matrices, or rows of operands with the same format. Each matrix comes with a list `rows` of row indices. Row `i` of the
    /// result is row `rows[i]` of the only matrix whose `rows[i]` is not [`NONE`](crate::ops::NONE).
    fn gather(&self, picks: &[(&Tensor, &[u32])]) -> Tensor;

    /// Adds rows of tables. Each table comes with a list `rows` of row indices. Row `i` of the result is the sum of row `i` of `base` and
    /// row `rows[i]` of each table, in order; [`NONE`](crate::ops::NONE) skips a table. There must be a base or a table.
    fn lookup(&self, base: Option<&Tensor>, tables: &[(&Tensor, &[u32])]) -> Tensor;

    /// Computes `d_table = β·d_table`, then `d_table[rows[i]] += d_out[i]` for each row `i` of `d_out`; [`NONE`](crate::ops::NONE) skips a
    /// row.
    fn scatter_add(&self, d_out: &Tensor, rows: &[u32], d_table: &mut Tensor, beta: Beta);

    /// Computes `out = β·out + matrix·x`.
    fn sparse_product(&self, matrix: &SparseMatrix, x: &Tensor, out: &mut Tensor, beta: Beta);

    /// Returns the mean softmax cross-entropy `[1, 1]` of `logits [T, classes]`, and the probabilities.
    fn cross_entropy(&self, logits: &Tensor, targets: &[u32]) -> (Tensor, Tensor);

    /// Replaces the probabilities by the gradient of the logits; `d` is the gradient of the loss.
    fn cross_entropy_gradient(&self, probabilities: &mut Tensor, targets: &[u32], d: f32);

    /// Returns the mean softmax cross-entropy `[1, 1]` of `logits [T, classes]` with a weight of each class in `targets [T, classes]`, and
    /// the probabilities.
    fn soft_cross_entropy(&self, logits: &Tensor, targets: &Tensor) -> (Tensor, Tensor);

    /// Replaces the probabilities by the gradient of the logits; `d` is the gradient of the loss.
    fn soft_cross_entropy_gradient(&self, probabilities: &mut Tensor, targets: &Tensor, d: f32);

    /// Returns `x + factors[r] · (y − x)` for each row `r` of `x` and `y`.
    fn interpolate_rows(&self, x: &Tensor, y: &Tensor, factors: &[f32]) -> Tensor;

    /// Returns `factors[r] · x[r]` for each row `r`.
    fn scale_rows(&self, x: &Tensor, factors: &[f32]) -> Tensor;

    /// Returns the mean `[segments, D]` of the rows of each segment of `x [T, D]`; segments are in the order of the rows and do not
    /// overlap.
    fn segment_mean(&self, x: &Tensor, segments: &[Range<usize>]) -> Tensor;

    /// Computes `dx = β·dx`, then adds the gradient of [`Backend::segment_mean`].
    fn segment_mean_gradient(&self, d_out: &Tensor, segments: &[Range<usize>], dx: &mut Tensor, beta: Beta);

    /// Returns the number of rows of `logits [T, classes]` whose argmax is the target, as a `[1, 1]` matrix. Of equal logits, the first
    /// counts.
    fn hits(&self, logits: &Tensor, targets: &[u32]) -> Tensor;

    /// Returns the sum of `targets[i, argmax(logits[i])]` over all rows `i`, as a `[1, 1]` matrix. Of equal logits, the first counts.
    /// Logits and targets are `[T, classes]`.
    fn score_at_argmax(&self, logits: &Tensor, targets: &Tensor) -> Tensor;

    /// Returns the binary cross-entropy `[1, 1]` of `logits [T, classes]`, summed over classes and averaged over rows.
    fn binary_cross_entropy(&self, logits: &Tensor, targets: &Tensor) -> Tensor;

    /// Replaces the logits by their gradient; `d` is the gradient of the loss.
    fn binary_cross_entropy_gradient(&self, logits: &mut Tensor, targets: &Tensor, d: f32);

    /// Normalises each row to mean 0 and unbiased variance 1.
    fn normalise_rows(&self, x: &mut Tensor);

    /// Returns the mean squared error `[1, 1]`.
    fn squared_error(&self, prediction: &Tensor, target: &Tensor) -> Tensor;

    /// Replaces the prediction by its gradient; `d` is the gradient of the loss.
    fn squared_error_gradient(&self, prediction: &mut Tensor, target: &Tensor, d: f32);

    /// Returns the scalar `Σ weight · distance` over the pairs, and the state for the backward pass. `distance` is the optimal-transport
    /// distance of a pair.
    fn transport(&self, features: &Tensor, pairs: &[Pair], ipot: Ipot) -> (Tensor, SavedTransport);

    /// Writes the gradient of the features to `d_features`, or adds it (`beta`); `d` is the gradient of the sum.
    fn transport_gradient(&self, saved: &SavedTransport, pairs: &[Pair], d: f32, d_features: &mut Tensor, beta: Beta);

    /// Returns the transport plan `[words, patches]` between two groups of rows of `features`.
    fn transport_plan(&self, features: &Tensor, text: Range<usize>, image: Range<usize>, ipot: Ipot) -> Tensor;

    /// Returns `Σ factor · value` of scalars, as a `[1, 1]` matrix.
    fn weighted_sum(&self, terms: &[(&Tensor, f32)]) -> Tensor;

    /// Computes `y += rate · (x − y)` for each pair of matrices `(y, x)` of the same shape.
    fn interpolate(&self, pairs: &mut [(&mut Tensor, &Tensor)], rate: f32);

    /// Returns the L2 norm of all values of the matrices, `[1, 1]`.
    fn l2_norm(&self, matrices: &[&Tensor]) -> Tensor;

    /// Updates parameters by one step of an optimiser. With `clip`, the gradients are multiplied by `min(1, limit / (norm + 1e-6))` as they
    /// are read.
    fn update(&self, rule: Rule, clip: Option<&Clip>, updates: &mut [ParameterUpdate]);
}
