//! The operations, one file each: forward and backward together, as methods of [`Tape`](crate::Tape).
//!
//! | operation | result |
//! |---|---|
//! | [`linear`](crate::Tape::linear) | `x·wᵀ + b (+ residual)` |
//! | [`attention_sublayer`](crate::Tape::attention_sublayer) | `x + proj(attention(qkv(norm(x))))` |
//! | [`mlp_sublayer`](crate::Tape::mlp_sublayer) | `x + fc2(gelu(fc1(norm(x))))` |
//! | [`layer_norm`](crate::Tape::layer_norm) | each row normalised, with scale and shift |
//! | [`gelu`](crate::Tape::gelu), [`tanh`](crate::Tape::tanh) | of every value |
//! | [`dropout`](crate::Tape::dropout) | some values zero, the others scaled |
//! | [`gather`](crate::Tape::gather), [`rows`](crate::Tape::rows) | rows of several matrices, or of one |
//! | [`lookup`](crate::Tape::lookup) | sums of rows of tables |
//! | [`reshape`](crate::Tape::reshape) | the same values in another shape |
//! | [`cross_entropy`](crate::Tape::cross_entropy), [`binary_cross_entropy`](crate::Tape::binary_cross_entropy) | losses of classifiers |
//! | [`patch_loss`](crate::Tape::patch_loss) | the loss of masked autoencoding |
//! | [`transport`](crate::Tape::transport) | the loss of word-patch alignment; its plan: [`transport_plan`](crate::Tape::transport_plan) |
//! | [`weighted_sum`](crate::Tape::weighted_sum) | the sum of losses |
//!
//! An operation checks shapes, decides what is saved for the backward pass and where gradients go; values are computed by the
//! backend of the tape's device.

mod activations;
mod binary_cross_entropy;
mod cross_entropy;
mod dropout;
mod gather;
mod hits;
mod layer_norm;
mod linear;
mod lookup;
mod patch_loss;
mod reshape;
mod sublayers;
mod transport;
mod weighted_sum;

pub use crate::backend::{Ipot, Pair};
pub use crate::varlen::Varlen;
pub use gather::Pick;
pub use lookup::Table;
pub use sublayers::Affine;
pub use vlct_kernels::gather::NONE;

#[cfg(test)]
mod tests;
