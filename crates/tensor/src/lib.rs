//! Tensors, a reverse-mode tape and the fused operations that VLC is made of.
//!
//! A [`Tensor`] is a matrix whose memory comes from a pool ([`buffer`]): of f32, or of bfloat16 where it is an operand of
//! products (`matmul`) in that precision. Operations live in [`ops`], one file each, forward and backward together, as methods of
//! [`Tape`]: they take and return [`Var`]s and, if they are differentiable, push a closure onto the tape. [`Parameters`] holds the weights by name in one flat memory, [`Gradients`]
//! the same for their gradients. Nothing above this crate sees where values lie, so that a second device can be added here.

pub mod buffer;
mod matmul;
pub mod ops;
pub mod optimizer;
pub mod parameters;
pub mod precision;
pub mod profile;
pub mod tape;
pub mod tensor;
pub mod throughput;

pub use parameters::{Gradients, ParameterId, Parameters};
pub use precision::{F32Products, Precision};
pub use tape::{Compute, Tape, Var};
pub use tensor::Tensor;
