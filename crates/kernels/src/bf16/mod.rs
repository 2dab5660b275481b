//! Matrix products, attention and layer norm on bfloat16 operands, with sums in f32.
//!
//! A matrix is stored in blocks of 32 × 32 ([`blocks`]). A block is already the packed lhs of the micro-kernel; its values are rearranged
//! within the block to pack it as an rhs or to transpose it. The micro-kernel multiplies with an [`engine`](mod@engine): AMX, or AVX-512
//! with a fast `vdpbf16ps`; tests also have a portable engine. All other vector code is generic over registers: AVX-512 registers in
//! programs, arrays in tests on other CPUs. [`engine()`] returns the engine of the CPU; functions on matrices panic if the CPU has none.

pub mod attention;
pub(crate) mod bf16x3;
pub mod blocks;
pub mod engine;
pub mod epilogue;
pub mod gemm;
pub mod layer_norm;
mod math;
mod micro_kernel;
mod number;
mod prefetch;
mod registers;
mod rhs;

pub use engine::{Engine, engine};
pub use number::Bf16;
pub use rhs::{PackedRhs, Rhs};
