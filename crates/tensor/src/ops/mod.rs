//! The operations, as methods of [`Tape`](crate::Tape); related ones share a file. Forward and backward of a differentiable operation are
//! together.
//!
//! | operation | result |
//! |---|---|
//! | [`linear`](crate::Tape::linear) | `x·wᵀ + b (+ residual)` |
//! | [`attention_sublayer`](crate::Tape::attention_sublayer) | `x + proj(attention(qkv(norm(x))))` |
//! | [`project`](crate::Tape::project), [`attend_to_projections`](crate::Tape::attend_to_projections) | the attention sublayer in two parts, for inference |
//! | [`mlp_sublayer`](crate::Tape::mlp_sublayer) | `x + fc2(gelu(fc1(norm(x))))` |
//! | [`layer_norm`](crate::Tape::layer_norm) | layer norm of each row |
//! | [`gelu`](crate::Tape::gelu), [`tanh`](crate::Tape::tanh) | the function applied to every value |
//! | [`dropout`](crate::Tape::dropout) | random values zeroed, the others scaled |
//! | [`gather`](crate::Tape::gather), [`rows`](crate::Tape::rows) | rows selected from several matrices, or from one matrix |
//! | [`lookup`](crate::Tape::lookup) | embeddings: each row is the sum of one row of each table (and of a base, if given) |
//! | [`sparse_product`](crate::Tape::sparse_product) | sums of rows with constant weights: interpolation of position tables |
//! | [`drop_path`](crate::Tape::drop_path) | sublayers left out for some rows (stochastic depth) |
//! | [`segment_mean`](crate::Tape::segment_mean) | the mean of each segment of rows |
//! | [`reshape`](crate::Tape::reshape) | the same values in another shape |
//! | [`cross_entropy`](crate::Tape::cross_entropy), [`soft_cross_entropy`](crate::Tape::soft_cross_entropy), [`binary_cross_entropy`](crate::Tape::binary_cross_entropy) | classification losses |
//! | [`patch_loss`](crate::Tape::patch_loss) | the loss of masked autoencoding |
//! | [`transport`](crate::Tape::transport) | the loss of word-patch alignment |
//! | [`transport_plan`](crate::Tape::transport_plan) | the transport plan of one pair |
//! | [`hits`](crate::Tape::hits), [`score_at_argmax`](crate::Tape::score_at_argmax) | accuracy metrics |
//! | [`weighted_sum`](crate::Tape::weighted_sum) | a weighted sum of scalars |
//!
//! An operation checks shapes, decides what is saved for the backward pass, and passes gradients on. The backend of the tape's device
//! computes the values.

mod activations;
mod binary_cross_entropy;
mod cross_entropy;
mod drop_path;
mod dropout;
mod gather;
mod hits;
mod layer_norm;
mod linear;
mod lookup;
mod patch_loss;
mod projections;
mod reshape;
mod segment_mean;
mod sparse_product;
mod sublayers;
mod transport;
mod weighted_sum;

pub use crate::backend::{Ipot, Pair, SparseMatrix};
pub use crate::varlen::Varlen;
pub use gather::Pick;
pub use lookup::Table;
pub use projections::Projections;
pub use sublayers::Affine;
pub use vlct_kernels::gather::NONE;

#[cfg(test)]
mod tests;
