//! Elementary functions of AVX-512 registers, as exact as results of 8 bits need.

use super::avx512::round2;
use std::arch::x86_64::*;

/// `2^x`, relative error below 8e-5: `2^⌊x⌋` times a polynomial of degree 3 (minimax on [0, 1]).
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
pub(super) fn exp2(x: __m512) -> __m512 {
    const ROUND_DOWN: i32 = 0b1001; // no fraction bits, toward −∞, no exceptions
    let f = _mm512_reduce_ps::<ROUND_DOWN>(x);
    let c = |v: f32| _mm512_set1_ps(v);
    let p = _mm512_fmadd_ps(c(0.078_024_51), f, c(0.226_067_2));
    let p = _mm512_fmadd_ps(p, f, c(0.695_833_5));
    let p = _mm512_fmadd_ps(p, f, c(0.999_925_2));
    _mm512_scalef_ps(p, x)
}

/// Coefficients of odd polynomials on [−4, 4] (minimax, scaled to be exactly ±½ at the ends, where they
/// stay).
const DISTRIBUTION: [f32; 8] = [
    0.398_799_66,
    -0.066_010_13,
    0.009_560_341,
    -0.001_019_022,
    7.643_356e-5,
    -3.768_532_7e-6,
    1.083_234_3e-7,
    -1.363_803_3e-9,
];
const SLOPE: [f32; 9] = [
    0.796_722_4,
    -0.264_530_9,
    0.058_390_856,
    -0.008_706_597,
    9.063_153e-4,
    -6.488_525e-5,
    3.024_979_8e-6,
    -8.209_672_6e-8,
    9.785_185e-10,
];

/// `½ + x·p(x²)`.
#[inline]
#[target_feature(enable = "avx512f")]
fn half_plus_odd(x: __m512, square: __m512, coefficients: &[f32]) -> __m512 {
    let mut p = _mm512_setzero_ps();
    for c in coefficients.iter().rev() {
        p = _mm512_fmadd_ps(p, square, _mm512_set1_ps(*c));
    }
    _mm512_fmadd_ps(p, x, _mm512_set1_ps(0.5))
}

/// The normal distribution function Φ(x), so that `x·Φ(x)` is the GELU, absolute error of that below 2.2e-4.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn distribution(x: __m512) -> __m512 {
    let x = clamp(x);
    half_plus_odd(x, _mm512_mul_ps(x, x), &DISTRIBUTION)
}

/// The GELU's slope `Φ(x) + x·φ(x)`, absolute error below 8e-4.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn slope(x: __m512) -> __m512 {
    let x = clamp(x);
    half_plus_odd(x, _mm512_mul_ps(x, x), &SLOPE)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn clamp(x: __m512) -> __m512 {
    _mm512_min_ps(_mm512_max_ps(x, _mm512_set1_ps(-4.0)), _mm512_set1_ps(4.0))
}

/// The GELU of 32 numbers, rounded.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) fn gelu([low, high]: [__m512; 2]) -> __m512i {
    round2(
        _mm512_mul_ps(low, distribution(low)),
        _mm512_mul_ps(high, distribution(high)),
    )
}

#[cfg(test)]
mod tests {
    use super::super::support::{Support, support};
    use super::*;

    #[target_feature(enable = "avx512f,avx512dq")]
    unsafe fn at(x: f32) -> [f32; 3] {
        let v = _mm512_set1_ps(x);
        [exp2(v), distribution(v), slope(v)].map(|v| _mm512_cvtss_f32(v))
    }

    #[test]
    fn functions_are_as_exact_as_they_say() {
        if support() == Support::None {
            return;
        }
        for i in -10_000..10_000 {
            let x = i as f32 / 100.0;
            // SAFETY: the machine has the instructions.
            let [power, distribution, slope] = unsafe { at(x) };
            let bound = if x < -126.0 { 1e-30 } else { 8e-5 * x.exp2() };
            assert!((power - x.exp2()).abs() < bound, "2^{x}");
            let mut gelu = [0f32];
            crate::gelu::forward(&[x], &mut gelu);
            assert!(
                (x * distribution - gelu[0]).abs() < 2.2e-4,
                "gelu({x}) = {}",
                x * distribution
            );
            let mut want = [1f32];
            crate::gelu::backward_in_place(&[x], &mut want);
            assert!(
                (slope - want[0]).abs() < 8e-4,
                "gelu'({x}) = {slope} instead of {}",
                want[0]
            );
        }
        // SAFETY: as above.
        assert!(unsafe { at(-1e30) }.iter().all(|v| *v == 0.0));
    }
}
