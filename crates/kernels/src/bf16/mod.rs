//! bfloat16: matrix products, attention and layer norm on operands of 16 bits, with sums in f32.
//!
//! A matrix is stored in blocks of 32 × 32 ([`blocks`]). A block is, as it stands, the packed lhs of the micro kernel, and becomes any
//! other operand by rearranging its own two kilobytes. The micro kernel multiplies with an [`engine`](mod@engine): AMX, or AVX-512 with a
//! fast `vdpbf16ps`; for tests there is a portable one. Everything else is written over vector registers, of AVX-512 in production and
//! in plain Rust in tests elsewhere. [`engine()`] says what the CPU has; functions on matrices panic if that is nothing.

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
