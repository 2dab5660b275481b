//! Numeric kernels on plain slices: matrix products, attention, layer norm, losses, the optimiser.
//!
//! Every kernel is one file: forward, then backward, then its tests against a plain statement of the same thing.
//! Matrices are row-major. Loops that the compiler vectorises are compiled several times, for the instruction sets
//! of [`vlct_simd::Level`], and the best one is picked at run time. Work is cut into chunks whose size does not depend on
//! the number of threads, so that neither do the results.

#![allow(
    clippy::needless_range_loop,
    reason = "indices say what a numeric loop does, and vectorise as well"
)]

pub mod aligned;
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
