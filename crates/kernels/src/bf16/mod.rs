//! bfloat16: matrix products, attention and layer norm on operands of 16 bits, with sums in f32.
//!
//! A matrix is stored in blocks of 32 × 32 ([`blocks`]). A block is, as it stands, the packed lhs of a micro kernel, and
//! becomes any other operand by rearranging its own two kilobytes. The products ([`gemm`]) need AVX-512 and either AMX or a
//! fast `vdpbf16ps`; [`support()`] says what the CPU has. Functions other than those of [`Bf16`] panic where it finds nothing.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
pub mod attention;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
pub(crate) mod bf16x3;
#[cfg(target_arch = "x86_64")]
pub mod blocks;
#[cfg(not(target_arch = "x86_64"))]
mod elsewhere;
#[cfg(target_arch = "x86_64")]
pub mod epilogue;
#[cfg(target_arch = "x86_64")]
pub mod gemm;
#[cfg(target_arch = "x86_64")]
pub mod layer_norm;
#[cfg(target_arch = "x86_64")]
mod math;
#[cfg(target_arch = "x86_64")]
mod micro_kernel;
mod number;
#[cfg(target_arch = "x86_64")]
mod prefetch;
#[cfg(target_arch = "x86_64")]
mod rhs;
mod support;

#[cfg(not(target_arch = "x86_64"))]
pub(crate) use elsewhere::bf16x3;
#[cfg(not(target_arch = "x86_64"))]
pub use elsewhere::{Rhs, attention, blocks, epilogue, gemm, layer_norm};
pub use number::Bf16;
#[cfg(target_arch = "x86_64")]
pub use rhs::{PackedRhs, Rhs};
pub use support::{Support, support};
