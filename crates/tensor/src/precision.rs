//! The number format of a computation, and how f32 products are computed.

use std::fmt;
use std::time::{Duration, Instant};

use vlct_kernels::gemm::{gemm, gemm_fma, has_bf16x3};
use vlct_kernels::mat::{Beta, MatRef};
use vlct_kernels::parallel::Parallelism;

use vlct_kernels::bf16::engine;

/// Number format of products and of what is kept for the backward pass. Weights, sums, losses and the residual stream are
/// f32 in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Precision {
    /// 32 bits.
    #[default]
    F32,
    /// bfloat16.
    Bf16,
}

impl Precision {
    /// Whether this CPU multiplies bfloat16 faster than f32.
    pub fn bf16_is_fast() -> bool {
        engine().is_some()
    }
}

/// How f32 matrix products are computed. Results differ within the rounding errors of f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum F32Products {
    /// By fused multiply-add of f32.
    #[default]
    Fma,
    /// As six products of bfloat16 parts on AMX; products that are too small for that, and all products on other CPUs, by FMA.
    Bf16x3,
}

impl F32Products {
    /// All methods.
    pub const ALL: [Self; 2] = [Self::Fma, Self::Bf16x3];

    /// The name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fma => "fma",
            Self::Bf16x3 => "bf16x3",
        }
    }

    /// Whether this CPU computes large products by that method.
    pub fn is_available(self) -> bool {
        self == Self::Fma || has_bf16x3()
    }

    /// Times a product by both methods and returns the faster one; FMA unless bf16x3 needs at least 10 % less time. Uses the
    /// threads of the current pool.
    pub fn measure() -> Self {
        if !Self::Bf16x3.is_available() {
            return Self::Fma;
        }
        let [fma, bf16x3] = Self::ALL.map(time_of_product);
        Self::faster(fma, bf16x3)
    }

    fn faster(fma: Duration, bf16x3: Duration) -> Self {
        if bf16x3 < fma.mul_f64(0.9) {
            Self::Bf16x3
        } else {
            Self::Fma
        }
    }

    /// `dst = β·dst + lhs·rhs` on all threads, with `columns` columns of `dst` and `rhs`.
    pub(crate) fn gemm(self, dst: &mut [f32], columns: usize, beta: Beta, lhs: MatRef, rhs: MatRef) {
        let gemm = match self {
            Self::Fma => gemm_fma,
            Self::Bf16x3 => gemm,
        };
        gemm(dst, columns, beta, 1.0, lhs, rhs, Parallelism::Pool);
    }
}

impl fmt::Display for F32Products {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fma => "FMA",
            Self::Bf16x3 => "bf16x3",
        })
    }
}

/// Least time of a product `x·wᵀ` of the size of an MLP of the base model with 512 tokens.
fn time_of_product(products: F32Products) -> Duration {
    const TOKENS: usize = 512;
    const WIDTH: usize = 768;
    const HIDDEN: usize = 3072;
    let ramp = |len: usize| -> Vec<f32> { (0u32..).take(len).map(|i| (i % 253) as f32 / 126.0 - 1.0).collect() };
    let (x, w) = (ramp(TOKENS * WIDTH), ramp(HIDDEN * WIDTH));
    let mut y = vec![0.0; TOKENS * HIDDEN];
    let mut once = || {
        let start = Instant::now();
        let (x, w) = (
            MatRef::new(&x, TOKENS, WIDTH, WIDTH),
            MatRef::new(&w, HIDDEN, WIDTH, WIDTH),
        );
        products.gemm(&mut y, HIDDEN, Beta::Zero, x, w.transposed());
        start.elapsed()
    };
    // The first call faults in memory and code.
    once();
    (0..5).map(|_| once()).min().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fma_wins_within_ten_percent() {
        let ms = Duration::from_millis;
        assert_eq!(F32Products::faster(ms(100), ms(95)), F32Products::Fma);
        assert_eq!(F32Products::faster(ms(100), ms(91)), F32Products::Fma);
        assert_eq!(F32Products::faster(ms(100), ms(89)), F32Products::Bf16x3);
        assert!(F32Products::measure().is_available());
    }

    #[test]
    fn methods_agree_within_rounding() {
        let values = |n: usize, seed: usize| -> Vec<f32> {
            (0..n)
                .map(|i| ((i * 7919 + seed) % 1013) as f32 / 506.5 - 1.0)
                .collect()
        };
        let (a, b) = (values(40 * 64, 1), values(64 * 48, 2));
        let [fma, bf16x3] = F32Products::ALL.map(|products| {
            let mut out = vec![0.0; 40 * 48];
            products.gemm(
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
