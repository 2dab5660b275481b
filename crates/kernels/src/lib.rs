//! CPU kernels on slices: matrix products, attention, norms, losses, optimisers. This crate knows no tensors and does no I/O.
//!
//! Most files have the forward and backward pass of an operation, with tests that compare both with the plain loops of [`mod@reference`].
//! Matrices are row-major, except for bfloat16 operands ([`bf16::blocks`]). Loops that the compiler vectorises are compiled for each
//! [`vlct_simd::Level`]. Results do not depend on the number of threads, because the order of every sum does not.
//!
//! Glossary:
//!
//! - `T`: tokens (rows of a packed batch), `D`: width, `H`: heads, `dh = D/H`: head width, `P`: patches, `C`: classes.
//! - `m`, `n`, `k`: the sizes of a product `dst [m, n] = β·dst + α·lhs [m, k]·rhs [k, n]` ([`mat::Beta`], BLAS).
//! - `MR`×`NR`: rows and columns of a micro-kernel: 32 × 32 in bfloat16; in f32 attention, `NR` is two registers.
//! - *panel*: the packed rows of lhs or columns of rhs that a micro-kernel multiplies.
//! - *k-block*: 32 inner elements of packed operands, one step of a bfloat16 micro-kernel.
//! - `mc`, `nc`, `kc`: rows, columns and inner elements that a task processes at a time (BLIS).
//! - L1 budget: 16 KiB of lhs in bfloat16 (`kc` = 256); 12 KiB of each operand in bf16x3 (`kc` = 64).
//! - L2 budget: 1.25 MiB of packed rhs, or 672 KiB of sums (960 KiB in bf16x3), beside the streamed operands.
//! - *weight-stationary*: the packed weight stays in L2, and the other matrices are streamed.
//! - *output-stationary*: the sums stay in L2, and both operands are streamed.
//! - `cu_seqlens_k`, `cu_seqlens_q`: cumulative lengths of packed sequences ([`attention::Varlen`], FlashAttention).
//! - *bf16x3*: f32 operands as sums of three bfloat16 parts, multiplied on AMX (oneMKL, XLA).

#![allow(
    clippy::needless_range_loop,
    reason = "indices are clearer in numeric loops, which vectorise as well"
)]

pub mod aligned;
pub mod argmax;
pub mod attention;
pub mod bf16;
pub mod binary_cross_entropy;
pub mod cross_entropy;
pub mod dropout;
pub mod elementwise;
pub mod gather;
pub mod gelu;
pub mod gemm;
pub mod layer_norm;
pub mod mat;
pub mod memory;
pub mod optimizer;
pub mod parallel;
pub mod patch_loss;
pub mod patches;
pub mod reference;
pub mod segments;
pub mod sparse;
pub mod transport;

#[cfg(test)]
mod tests {
    #[test]
    fn tests_pass_at_lower_levels() {
        vlct_simd::testing::assert_tests_pass_at_lower_levels("tests_pass_at_lower_levels");
    }
}
