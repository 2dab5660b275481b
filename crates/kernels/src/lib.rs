//! CPU kernels on slices: matrix products, attention, norms, losses, optimisers. This crate knows no tensors and does no input or
//! output.
//!
//! One file holds an operation's forward and backward pass and the test that compares both with [`mod@reference`], which states every
//! kernel as plain loops. Matrices are row-major, except for bfloat16 operands ([`bf16::blocks`]). Loops that the compiler vectorises are
//! compiled for each [`vlct_simd::Level`]. Work is divided into tasks whose size does not depend on the number of threads, so that
//! neither do the results.
//!
//! Glossary:
//!
//! - `T` tokens (rows of a packed batch), `D` width, `H` heads, `dh = D/H` head width, `P` patches, `C` classes.
//! - `m`, `n`, `k`: a product `dst [m, n] = β·dst + α·lhs [m, k]·rhs [k, n]` ([`mat::Beta`], BLAS).
//! - `MR`×`NR`: rows and columns of a micro kernel, 32 × 32 in bfloat16; in f32 attention `MR` rows × two registers.
//! - *k-block*: 32 inner elements of packed operands, one step of a bfloat16 micro kernel.
//! - `mc`, `nc`, `kc`: rows, columns and inner elements that a task processes at a time (BLIS).
//! - L1 budget: `kc` = 256 in bfloat16, 16 KiB of lhs; `kc` = 64 in bf16x3, 12 KiB of each operand.
//! - L2 budget: 1.25 MiB of packed rhs, or 672 KiB of sums (bf16x3: 960 KiB), beside the operands that stream past.
//! - *weight-stationary*, *output-stationary*: packed weights, or sums, stay in L2 while everything else streams past.
//! - `cu_seqlens_k`, `cu_seqlens_q`: cumulative lengths of packed sequences ([`attention::Varlen`], FlashAttention).
//! - *bf16x3*: f32 operands as sums of three bfloat16 parts, multiplied on AMX (oneMKL, XLA).

#![allow(
    clippy::needless_range_loop,
    reason = "indices say what a numeric loop does, and vectorise as well"
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
pub mod transport;

#[cfg(test)]
mod tests {
    #[test]
    fn tests_pass_at_lower_levels() {
        let program = std::env::current_exe().expect("path of the test binary");
        for level in ["portable", "v3"] {
            let output = std::process::Command::new(&program)
                .env("VLCT_TEST_LEVEL", level)
                .args(["--skip", "tests_pass_at_lower_levels"])
                .output()
                .expect("start the test binary");
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "at level {level}:\n{text}");
        }
    }
}
