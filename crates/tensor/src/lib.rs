//! Tensors, a reverse-mode tape and the fused operations that VLC is made of.
//!
//! A [`Tensor`] is a matrix on a [`Device`]. Operations are methods of [`Tape`], listed in [`ops`]: they take and return [`Var`]s
//! and, where they are differentiable, leave a closure on the tape. [`Parameters`] holds the weights by name, [`Gradients`] their
//! gradients, [`optimizer::Optimizer`] the running averages.
//!
//! Values are computed behind a trait, `Backend`, whose functions name tensors; the CPU implements it in `cpu`, the only module that
//! calls `vlct_kernels`. Above this crate values are seen through [`Tensor::to_host`], which copies where they are not in host
//! memory. No operation, no backward pass and no step of the optimiser copies values to the host.
//!
//! Letters of shapes: `T` tokens (rows), `D` width (columns), `H` heads.

mod backend;
mod cpu;
mod device;
pub mod ops;
pub mod optimizer;
pub mod parameters;
#[cfg(any(test, feature = "test-backends"))]
mod perturbed;
mod precision;
pub mod profile;
#[cfg(test)]
mod remote;
mod tape;
pub mod tensor;
pub mod throughput;
mod varlen;

pub use device::{Device, OutOfMemory};
pub use parameters::{Gradients, ParameterId, Parameters};
pub use precision::{F32Products, Precision};
pub use tape::{Compute, Tape, Var};
pub use tensor::Tensor;
