//! Elementary functions of AVX-512 registers, as exact as results of 8 bits need (relative errors below 2e-4).
#![cfg(target_arch = "x86_64")]

use std::arch::x86_64::*;

/// `2^x`, relative error below 3e-6: `2^⌊x⌋` times a polynomial of degree 4 (minimax on [0, 1]). Below −126 it stays at the
/// smallest normal number, since smaller ones are slow.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
pub(super) fn exp2(x: __m512) -> __m512 {
    const ROUND_DOWN: i32 = 0b1001; // no fraction bits, toward −∞, no exceptions
    let x = _mm512_max_ps(x, _mm512_set1_ps(-126.0));
    let f = _mm512_reduce_ps::<ROUND_DOWN>(x);
    let c = |v: f32| _mm512_set1_ps(v);
    let p = _mm512_fmadd_ps(c(0.013_534_167), f, c(0.052_011_468));
    let p = _mm512_fmadd_ps(p, f, c(0.241_442_75));
    let p = _mm512_fmadd_ps(p, f, c(0.693_003_83));
    let p = _mm512_fmadd_ps(p, f, c(1.000_002_6));
    _mm512_scalef_ps(p, x)
}

/// The normal distribution function Φ(x) and the density φ(x) (Abramowitz & Stegun 26.2.17, with an approximate
/// reciprocal).
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
pub(super) fn normal(x: __m512) -> (__m512, __m512) {
    const HALF_LOG2_E: f32 = -0.5 * std::f32::consts::LOG2_E;
    const FRAC_1_SQRT_2PI: f32 = 0.398_942_3;
    let c = |v: f32| _mm512_set1_ps(v);
    let density = _mm512_mul_ps(
        exp2(_mm512_mul_ps(_mm512_mul_ps(x, x), c(HALF_LOG2_E))),
        c(FRAC_1_SQRT_2PI),
    );
    let t = _mm512_rcp14_ps(_mm512_fmadd_ps(_mm512_abs_ps(x), c(0.231_641_9), c(1.0)));
    let p = _mm512_fmadd_ps(c(1.330_274_4), t, c(-1.821_256));
    let p = _mm512_fmadd_ps(p, t, c(1.781_477_9));
    let p = _mm512_fmadd_ps(p, t, c(-0.356_563_78));
    let p = _mm512_fmadd_ps(p, t, c(0.319_381_53));
    let tail = _mm512_mul_ps(_mm512_mul_ps(p, t), density);
    let positive = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(x, _mm512_setzero_ps());
    (_mm512_mask_sub_ps(tail, positive, c(1.0), tail), density)
}

#[cfg(test)]
mod tests {
    use super::super::{Support, support};
    use super::*;

    #[target_feature(enable = "avx512f,avx512dq")]
    unsafe fn at(x: f32) -> [f32; 3] {
        let (cumulated, density) = normal(_mm512_set1_ps(x));
        [exp2(_mm512_set1_ps(x)), cumulated, density].map(|v| _mm512_cvtss_f32(v))
    }

    #[test]
    fn functions_are_as_exact_as_they_say() {
        if support() == Support::None {
            return;
        }
        for i in -2000..2000 {
            let x = i as f32 / 100.0;
            // SAFETY: the machine has the instructions.
            let [power, cumulated, density] = unsafe { at(x) };
            assert!((power / x.exp2() - 1.0).abs() < 4e-6, "2^{x}");
            let want = 0.5 * (1.0 + crate::math::erf(x * std::f32::consts::FRAC_1_SQRT_2));
            assert!(
                (cumulated - want).abs() < 1e-4,
                "Φ({x}) = {cumulated} instead of {want}"
            );
            assert!((density - 0.398_942_3 * (-0.5 * x * x).exp()).abs() < 4e-6, "φ({x})");
        }
        // SAFETY: as above.
        assert!(unsafe { at(-1e30) }.iter().all(|v| (0.0..2e-38).contains(v)));
    }
}
