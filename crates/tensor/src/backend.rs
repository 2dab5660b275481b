//! The seam between operations and devices.
//!
//! An operation ([`crate::ops`]) checks shapes, decides what is saved for the backward pass and where gradients go. A [`Backend`]
//! computes the values. It names tensors, never slices, except where values cross between host and device. Row numbers, offsets of
//! sequences and the gradients of scalar losses come from the host; nothing goes back there but through [`Tensor::to_host`].
//!
//! Letters of shapes: `T` tokens, `D` width, `H` heads.

use crate::precision::{F32Products, Precision};
use crate::tensor::{Order, Tensor};
use crate::varlen::Varlen;
use std::any::Any;
use std::ops::Range;
use std::time::{Duration, Instant};
pub(crate) use vlct_kernels::mat::Beta;
pub use vlct_kernels::transport::Ipot;

/// The time as a device tells it: differences say how long its work took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Time {
    /// By the clock.
    pub clock: Instant,
    /// What all cores together have worked; zero where the system does not tell.
    pub cores: Duration,
}

/// A linear layer: weight `[out, in]`, bias `[1, out]`.
#[derive(Clone)]
pub(crate) struct Layer {
    pub weight: Tensor,
    pub bias: Option<Tensor>,
    /// Whether more products with the same weight will follow, so that packing it once pays off.
    pub reused: bool,
    /// How f32 products with the weight are computed.
    pub f32_products: F32Products,
}

/// A layer norm: scale `[1, D]`, shift `[1, D]`, and ε, which is added to the variance.
#[derive(Clone)]
pub(crate) struct Scale {
    pub weight: Tensor,
    pub bias: Tensor,
    pub eps: f32,
}

/// The tensors that a layer norm saves for its backward pass.
pub(crate) enum Normed {
    /// The input `[T, D]`, and mean and reciprocal standard deviation of its rows, `[1, T]` each.
    Input { x: Tensor, mean: Tensor, rstd: Tensor },
    /// The normalised rows `[T, D]`, an operand, and the reciprocal standard deviations `[1, T]`.
    Rows { normalised: Tensor, rstd: Tensor },
}

impl Normed {
    /// The matrix `[T, D]` that is saved.
    pub fn saved(&self) -> &Tensor {
        match self {
            Self::Input { x, .. } => x,
            Self::Rows { normalised, .. } => normalised,
        }
    }
}

/// The input of a layer for the gradient of its weight. What can be recomputed from saved tensors is not saved.
pub(crate) enum Input<'a> {
    /// An operand.
    Operand(&'a Tensor),
    /// The output of a layer norm.
    Normed(&'a Normed, &'a Scale),
    /// The GELU of an operand.
    Gelu(&'a Tensor),
}

/// One caption and image: consecutive rows of a packed matrix, and the factor of their distance in the loss.
#[derive(Clone, Debug)]
pub struct Pair {
    /// Rows of the words.
    pub text: Range<usize>,
    /// Rows of the patches.
    pub image: Range<usize>,
    /// Factor of the distance.
    pub weight: f32,
}

/// What optimal transport saves for its backward pass, in the backend's own form.
pub(crate) struct Alignments(pub Box<dyn Any + Send + Sync>);

/// The update rule of an optimiser.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Rule {
    /// AdamW of the transformers library with β = (0.9, 0.98).
    AdamW,
    /// Adam of PyTorch with β = (0.9, 0.999), weight decay as an L2 term.
    Adam,
    /// Gradient descent with momentum 0.9, weight decay as an L2 term.
    Sgd,
}

/// The update of one parameter in one step.
pub(crate) struct ParameterUpdate<'a> {
    pub values: &'a mut Tensor,
    pub gradient: &'a Tensor,
    /// Running averages of the gradient: one for [`Rule::Sgd`], two for the others.
    pub moments: Vec<&'a mut Tensor>,
    pub learning_rate: f64,
    pub weight_decay: f64,
    /// How often the parameter has been updated, this time included.
    pub step: u64,
}

/// What a device computes.
///
/// Matrices are f32 in row-major order unless they are *operands*: the form in which activations enter matrix products, f32 or
/// bfloat16, in whatever order the device likes. A result has arbitrary content until the function has written all of it. `beta`
/// (BLAS's β) says whether a function overwrites its result or adds to it.
pub(crate) trait Backend: Send + Sync {
    /// The name of the device, for messages.
    fn name(&self) -> &str;

    /// The name of the memory that tensors are in. Backends with the same memory accept each other's tensors.
    fn memory(&self) -> &str {
        self.name()
    }

    /// Whether matrix products are faster in bfloat16 than in f32. If not, nothing is asked for in bfloat16.
    fn bf16_is_fast(&self) -> bool;

    /// Whether large f32 products can be computed by this method.
    fn has_f32_products(&self, products: F32Products) -> bool;

    /// Times a large product by each method that the device has and returns the fastest; another one than FMA only if it needs at
    /// least 10 % less time.
    fn fastest_f32_products(&self) -> F32Products;

    /// The time, after all work that was asked for so far.
    fn time(&self) -> Time;

    /// Gives memory that no tensor uses back to the system.
    fn release_unused(&self);

    /// A matrix of arbitrary content.
    fn empty(&self, rows: usize, columns: usize) -> Tensor;

    /// A matrix of zeros.
    fn zeros(&self, rows: usize, columns: usize) -> Tensor;

    /// Matrices of zeros that live equally long: the weights of a model, or their running averages.
    fn zeros_together(&self, shapes: &[[usize; 2]]) -> Vec<Tensor>;

    /// A copy of values in host memory, `rows · columns` of them.
    fn upload(&self, rows: usize, columns: usize, values: &[f32]) -> Tensor;

    /// Calls `write` once with host memory for all values of the matrix, whose content is arbitrary, and replaces them by what
    /// it leaves there.
    fn overwrite(&self, to: &mut Tensor, write: &mut dyn FnMut(&mut [f32]));

    /// Cuts patches of `side · side` pixels out of images `[3, size, size]` in host memory: for each image the patches of the
    /// given numbers, one row `[3 · side²]` each.
    fn patches(&self, images: &[(&[f32], &[u32])], size: usize, side: usize, order: Order) -> Tensor;

    /// The position of the first matrix with a value that is infinite or not a number.
    fn first_non_finite(&self, matrices: &[Tensor]) -> Option<usize>;

    /// `x` as an operand.
    fn operand(&self, x: &Tensor, precision: Precision) -> Tensor;

    /// `x·wᵀ + b (+ residual)`, `[T, out]`; `x [T, in]` is an operand.
    fn linear(&self, x: &Tensor, layer: &Layer, residual: Option<&Tensor>) -> Tensor;

    /// `x·wᵀ + b` as an operand `[T, out]`; `x [T, in]` is one.
    fn linear_operand(&self, x: &Tensor, layer: &Layer) -> Tensor;

    /// `hidden = x·wᵀ + b`, if `keep`, and `gelu(hidden)`, all operands. The layer has a bias.
    fn linear_gelu(&self, x: &Tensor, layer: &Layer, keep: bool) -> (Option<Tensor>, Tensor);

    /// `dx [T, in] = β·dx + dy·w`; `dy [T, out]` is an operand.
    fn input_gradient(&self, dy: &Tensor, layer: &Layer, dx: &mut Tensor, beta: Beta);

    /// `dy·w` as an operand `[T, in]`; `dy [T, out]` is one.
    fn input_gradient_operand(&self, dy: &Tensor, layer: &Layer) -> Tensor;

    /// The gradient of `hidden [T, in]` from that of `gelu(hidden)·wᵀ`; all are operands.
    fn input_gradient_gelu(&self, dy: &Tensor, layer: &Layer, hidden: &Tensor) -> Tensor;

    /// `dw [out, in] = β·dw + dyᵀ·x`, and `db [1, out] += Σ rows of dy`; `dy [T, out]` is an operand.
    fn layer_gradient(
        &self,
        dy: &Tensor,
        x: Input,
        dw: &mut Tensor,
        beta: Beta,
        db: Option<&mut Tensor>,
        products: F32Products,
    );

    /// `db [1, out] += Σ rows of dy` alone; `dy [T, out]` is an operand.
    fn bias_gradient(&self, dy: &Tensor, db: &mut Tensor);

    /// The layer norm of each row of `x [T, D]`, as an operand.
    fn norm(&self, x: &Tensor, scale: &Scale, precision: Precision) -> (Normed, Tensor);

    /// The gradient of the input, `dx [T, D] = β·dx + …`, and those of scale and shift, `[1, D]` each; `dy [T, D]` is an operand.
    fn norm_gradient(&self, normed: &Normed, dy: &Tensor, scale: &Scale, dx: &mut Tensor, beta: Beta) -> [Tensor; 2];

    /// Softmax attention within each sequence: from `qkv [T, 3·D]`, an operand, the outputs of the query tokens, an operand
    /// `[queries, D]`, and the logarithms of their softmax's denominators `[H, queries]`.
    fn attention(&self, qkv: &Tensor, varlen: &Varlen, heads: usize) -> (Tensor, Tensor);

    /// The gradient of `qkv`, an operand, from that of `out`, an operand.
    fn attention_gradient(
        &self,
        d_out: &Tensor,
        qkv: &Tensor,
        out: &Tensor,
        log_sum_exp: &Tensor,
        varlen: &Varlen,
        heads: usize,
    ) -> Tensor;

    /// `to = β·to + x`.
    fn add(&self, x: &Tensor, to: &mut Tensor, beta: Beta);

    /// The exact GELU of every value.
    fn gelu(&self, x: &Tensor) -> Tensor;

    /// Multiplies `dy` by the derivatives of the GELU at `x`.
    fn gelu_gradient(&self, x: &Tensor, dy: &mut Tensor);

    /// The hyperbolic tangent of every value.
    fn tanh(&self, x: &Tensor) -> Tensor;

    /// Multiplies `dy` by the derivatives of the hyperbolic tangent, whose values are `y`.
    fn tanh_gradient(&self, y: &Tensor, dy: &mut Tensor);

    /// Zeroes each value with probability `p` and scales the others by `1/(1−p)`. The same `key` drops the same places.
    fn dropout(&self, x: &Tensor, p: f32, key: [u64; 4]) -> Tensor;

    /// As [`Backend::dropout`], in place.
    fn dropout_gradient(&self, dy: &mut Tensor, p: f32, key: [u64; 4]);

    /// Row `i` is row `rows[i]` of the one matrix whose list does not say [`NONE`](crate::ops::NONE) there.
    fn gather(&self, picks: &[(&Tensor, &[u32])]) -> Tensor;

    /// Row `i` is the sum of row `i` of `base` and, in order, of the rows `rows[i]` of the tables, but where they say
    /// [`NONE`](crate::ops::NONE). There is a base or a table.
    fn lookup(&self, base: Option<&Tensor>, tables: &[(&Tensor, &[u32])]) -> Tensor;

    /// The gradient of a table of which row `rows[i]` went to row `i` of a result: `d_table = β·d_table`, then
    /// `d_table[rows[i]] += d_out[i]`.
    fn scatter_add(&self, d_out: &Tensor, rows: &[u32], d_table: &mut Tensor, beta: Beta);

    /// The mean softmax cross-entropy `[1, 1]` of `logits [T, classes]`, and the probabilities.
    fn cross_entropy(&self, logits: &Tensor, targets: &[u32]) -> (Tensor, Tensor);

    /// Turns the probabilities into the gradient of the logits, `d` being that of the loss.
    fn cross_entropy_gradient(&self, probabilities: &mut Tensor, targets: &[u32], d: f32);

    /// The number of rows of `logits [T, classes]` whose largest value, the first of equals, is at the target, `[1, 1]`.
    fn hits(&self, logits: &Tensor, targets: &[u32]) -> Tensor;

    /// The sum over the rows of the target `[T, classes]` at the largest value of `logits`, the first of equals, `[1, 1]`.
    fn score_at_argmax(&self, logits: &Tensor, targets: &Tensor) -> Tensor;

    /// The binary cross-entropy `[1, 1]` of `logits [T, classes]`, summed over classes, averaged over rows.
    fn binary_cross_entropy(&self, logits: &Tensor, targets: &Tensor) -> Tensor;

    /// Turns the logits into their gradient, `d` being that of the loss.
    fn binary_cross_entropy_gradient(&self, logits: &mut Tensor, targets: &Tensor, d: f32);

    /// Normalises each row to mean 0 and unbiased variance 1.
    fn normalise_rows(&self, x: &mut Tensor);

    /// The mean squared error `[1, 1]`.
    fn squared_error(&self, prediction: &Tensor, target: &Tensor) -> Tensor;

    /// Turns the prediction into its gradient, `d` being that of the loss.
    fn squared_error_gradient(&self, prediction: &mut Tensor, target: &Tensor, d: f32);

    /// `Σ weight · distance` of optimal transport over the pairs, `[1, 1]`.
    fn transport(&self, features: &Tensor, pairs: &[Pair], method: Ipot) -> (Tensor, Alignments);

    /// The gradient of the features, `d` being that of the sum.
    fn transport_gradient(&self, saved: &Alignments, pairs: &[Pair], d: f32, d_features: &mut Tensor, beta: Beta);

    /// The transport plan `[words, patches]` between two groups of rows of `features`.
    fn transport_plan(&self, features: &Tensor, text: Range<usize>, image: Range<usize>, method: Ipot) -> Tensor;

    /// `Σ factor · value` of scalars, `[1, 1]`.
    fn weighted_sum(&self, terms: &[(&Tensor, f32)]) -> Tensor;

    /// One step of the optimiser.
    fn update(&self, rule: Rule, updates: &mut [ParameterUpdate]);
}
