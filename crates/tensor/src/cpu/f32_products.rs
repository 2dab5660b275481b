//! The methods for f32 matrix products on the CPU: FMA and bf16x3.

use crate::precision::F32Products;
use std::time::{Duration, Instant};
use vlct_kernels::gemm::{gemm as gemm_bf16x3, gemm_fma, has_bf16x3};
use vlct_kernels::mat::{Beta, MatRef};
use vlct_kernels::parallel::Parallelism;

/// Whether this CPU supports the method for large products.
pub(super) fn is_available(method: F32Products) -> bool {
    method == F32Products::Fma || has_bf16x3()
}

/// Times a product by both methods, on the threads of the current pool. Returns bf16x3 if it takes at least 10 % less time, else FMA.
pub(super) fn fastest() -> F32Products {
    if !is_available(F32Products::Bf16x3) {
        return F32Products::Fma;
    }
    let [fma, bf16x3] = F32Products::ALL.map(time_of_product);
    choose(fma, bf16x3)
}

/// Returns the method to use, given the time of a product by each method.
fn choose(fma: Duration, bf16x3: Duration) -> F32Products {
    if bf16x3 < fma.mul_f64(0.9) {
        F32Products::Bf16x3
    } else {
        F32Products::Fma
    }
}

/// Computes `dst = β·dst + lhs·rhs` on all threads; `dst` and `rhs` have `columns` columns.
pub(super) fn gemm(method: F32Products, dst: &mut [f32], columns: usize, beta: Beta, lhs: MatRef, rhs: MatRef) {
    let product = match method {
        F32Products::Fma => gemm_fma,
        F32Products::Bf16x3 => gemm_bf16x3,
    };
    product(dst, columns, beta, 1.0, lhs, rhs, Parallelism::Pool);
}

/// Times `x·wᵀ` five times after one call that is not timed, and returns the shortest time. The sizes are those of the base model's MLP
/// for 512 tokens.
fn time_of_product(method: F32Products) -> Duration {
    const TOKENS: usize = 512;
    const WIDTH: usize = 768;
    const HIDDEN: usize = 3072;
    let ramp = |len: usize| -> Vec<f32> { (0u32..).take(len).map(|i| (i % 253) as f32 / 126.0 - 1.0).collect() };
    let (x, w) = (ramp(TOKENS * WIDTH), ramp(HIDDEN * WIDTH));
    let mut y = vec![0.0; TOKENS * HIDDEN];
    let mut time_once = || {
        let start = Instant::now();
        let (x, w) = (
            MatRef::new(&x, TOKENS, WIDTH, WIDTH),
            MatRef::new(&w, HIDDEN, WIDTH, WIDTH),
        );
        gemm(method, &mut y, HIDDEN, Beta::Zero, x, w.transposed());
        start.elapsed()
    };
    // The first call causes page faults.
    time_once();
    (0..5).map(|_| time_once()).min().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16x3_is_chosen_if_it_takes_ten_percent_less_time() {
        let ms = Duration::from_millis;
        assert_eq!(choose(ms(100), ms(95)), F32Products::Fma);
        assert_eq!(choose(ms(100), ms(91)), F32Products::Fma);
        assert_eq!(choose(ms(100), ms(89)), F32Products::Bf16x3);
        assert!(is_available(fastest()));
    }

    #[test]
    fn methods_agree_within_rounding() {
        let values = |n: usize, seed: usize| -> Vec<f32> {
            (0..n)
                .map(|i| ((i * 7919 + seed) % 1013) as f32 / 506.5 - 1.0)
                .collect()
        };
        let (a, b) = (values(40 * 64, 1), values(64 * 48, 2));
        let [fma, bf16x3] = F32Products::ALL.map(|method| {
            let mut out = vec![0.0; 40 * 48];
            gemm(
                method,
                &mut out,
                48,
                Beta::Zero,
                MatRef::new(&a, 40, 64, 64),
                MatRef::new(&b, 64, 48, 48),
            );
            out
        });
        let worst = fma.iter().zip(&bf16x3).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-5, "{worst}");
    }
}
