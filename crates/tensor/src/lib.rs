//! Tensors, a reverse-mode tape and the fused operations that VLC is made of.
//!
//! A [`Tensor`] is a matrix on a [`Device`]. Operations are methods of [`Tape`], listed in [`ops`]. They take and return [`Var`]s.
//! Differentiable operations push a backward closure onto the tape. [`Parameters`] holds the weights by name, [`Gradients`] their
//! gradients, [`optimizer::Optimizer`] the moments, [`Averages`] moving averages of the weights.
//!
//! The trait `Backend` computes values; its functions take tensors. The module `cpu` implements the trait for the CPU, and is the only
//! one that calls `vlct_kernels`. Other crates read values through [`Tensor::to_host`], which copies values that are not in host
//! memory. Operations, backward passes and optimiser steps copy no values to the host.
//!
//! [`Collectives`] is the communication between the ranks of a run, each of which has a device and a copy of the weights.
//!
//! In shapes, `T` is the number of tokens (rows), `D` the width (columns), `H` the number of heads.

mod averages;
mod backend;
pub mod collectives;
mod cpu;
mod cuda;
mod device;
mod device_name;
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

pub use averages::Averages;
pub use collectives::{CollectiveError, Collectives};
pub use device::{
    Device, DeviceError, DeviceName, DeviceUnavailable, MemoryShortage, OutOfMemory, OwnMemory, UnknownDeviceName,
    UploadedImages,
};
pub use parameters::{Gradients, ParameterId, Parameters};
pub use precision::{F32Products, Precision};
pub use tape::{Compute, Tape, Var};
pub use tensor::{Planes, Tensor};
