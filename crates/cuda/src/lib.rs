//! CUDA kernels with their launchers: what `vlct-kernels` is for the CPU, on matrices in the memory of a device.
//!
//! - [`driver`]: the interface to a device, for NVIDIA's devices and for an emulator, which runs kernels on the CPU, for tests.
//! - [`context`]: a device with a stream and an arena; [`Buffer`](context::Buffer) owns memory.
//! - [`matrix`]: views of matrices in buffers.
//! - One module for each `.cu` file: functions that check shapes and launch kernels.
//!
//! A launcher submits work and returns. Matrices are row-major. `T` is the number of tokens (rows), `D` the width. Sums have a fixed order,
//! so equal inputs give equal bits. `README.md` beside `Cargo.toml` describes how a kernel is added.

pub mod attention;
pub mod binary_cross_entropy;
pub mod column_sums;
pub mod context;
pub mod cross_entropy;
pub mod driver;
pub mod dropout;
pub mod elementwise;
pub mod intrinsics;
mod launch;
pub mod layer_norm;
pub mod lists;
pub mod matrix;
pub mod optimizer;
mod packed;
pub mod patch_loss;
pub mod patches;
mod row_blocks;
pub mod rows;
pub mod scalars;
pub mod segments;
pub mod sparse;
pub mod transport;
