//! Elementary functions on registers, accurate enough for results with 8 bits of precision.

use super::registers::Registers;

/// Returns `2^x` with a relative error below 8e-5, as `2^⌊x⌋` times a minimax polynomial of degree 3 on [0, 1].
///
/// # Safety
/// The CPU has the instruction set of `R`.
#[inline(always)]
pub(super) unsafe fn exp2<R: Registers>(x: R::F32) -> R::F32 {
    // SAFETY: the CPU has the instruction set of `R` (caller).
    unsafe {
        let f = R::fraction(x);
        let p = R::mul_add(R::splat(0.078_024_51), f, R::splat(0.226_067_2));
        let p = R::mul_add(p, f, R::splat(0.695_833_5));
        let p = R::mul_add(p, f, R::splat(0.999_925_2));
        R::scale_by_pow2(p, x)
    }
}

/// Coefficients of an odd minimax polynomial for Φ(x) − ½ on [−4, 4], scaled so that its values at ±4 are exactly ±½.
const CDF: [f32; 8] = [
    0.398_799_66,
    -0.066_010_13,
    0.009_560_341,
    -0.001_019_022,
    7.643_356e-5,
    -3.768_532_7e-6,
    1.083_234_3e-7,
    -1.363_803_3e-9,
];

/// Coefficients of an odd minimax polynomial for gelu'(x) − ½ on [−4, 4], scaled so that its values at ±4 are exactly ±½.
const GELU_DERIVATIVE: [f32; 9] = [
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

/// Returns `½ + x·p(x²)`, where `x` is clamped to [−4, 4] and the polynomial `p` has these coefficients, lowest degree first.
///
/// # Safety
/// The CPU has the instruction set of `R`.
#[inline(always)]
unsafe fn half_plus_odd<R: Registers>(x: R::F32, coefficients: &[f32]) -> R::F32 {
    // SAFETY: the CPU has the instruction set of `R` (caller).
    unsafe {
        let x = R::min(R::max(x, R::splat(-4.0)), R::splat(4.0));
        let square = R::mul(x, x);
        let mut p = R::splat(0.0);
        for c in coefficients.iter().rev() {
            p = R::mul_add(p, square, R::splat(*c));
        }
        R::mul_add(p, x, R::splat(0.5))
    }
}

/// Returns the normal distribution function Φ(x). The absolute error of the GELU `x·Φ(x)` is below 2.2e-4.
///
/// # Safety
/// The CPU has the instruction set of `R`.
#[inline(always)]
pub(super) unsafe fn normal_cdf<R: Registers>(x: R::F32) -> R::F32 {
    // SAFETY: the CPU has the instruction set of `R` (caller).
    unsafe { half_plus_odd::<R>(x, &CDF) }
}

/// Returns the derivative of the GELU, `Φ(x) + x·φ(x)`, with an absolute error below 8e-4.
///
/// # Safety
/// The CPU has the instruction set of `R`.
#[inline(always)]
pub(super) unsafe fn gelu_derivative<R: Registers>(x: R::F32) -> R::F32 {
    // SAFETY: the CPU has the instruction set of `R` (caller).
    unsafe { half_plus_odd::<R>(x, &GELU_DERIVATIVE) }
}

/// Returns the GELU of 32 values, rounded to bfloat16.
///
/// # Safety
/// The CPU has the instruction set of `R`.
#[inline(always)]
pub(super) unsafe fn gelu<R: Registers>([low, high]: [R::F32; 2]) -> R::Bf16 {
    // SAFETY: the CPU has the instruction set of `R` (caller).
    unsafe { R::round(R::mul(low, normal_cdf::<R>(low)), R::mul(high, normal_cdf::<R>(high))) }
}

#[cfg(test)]
mod tests {
    use super::super::registers::for_registers;
    use super::*;
    use crate::reference;

    for_registers! {
        /// Returns `[exp2(x), normal_cdf(x), gelu_derivative(x)]`.
        unsafe fn evaluate<R>(x: f32) -> [f32; 3] {
            let mut out = [0f32; 48];
            // SAFETY: `for_registers!` has chosen registers that the CPU has; `out` holds three registers.
            unsafe {
                let x = R::splat(x);
                let out = out.as_mut_ptr();
                R::store(out, exp2::<R>(x));
                R::store(out.add(16), normal_cdf::<R>(x));
                R::store(out.add(32), gelu_derivative::<R>(x));
            }
            [out[0], out[16], out[32]]
        }
    }

    #[test]
    fn functions_keep_their_error_bounds() {
        for i in -10_000..10_000 {
            let x = i as f32 / 100.0;
            // SAFETY: `evaluate` takes no pointers, and tests have an engine.
            let [power, cdf, derivative] = unsafe { evaluate(x) };
            let bound = if x < -126.0 { 1e-30 } else { 8e-5 * x.exp2() };
            assert!((power - x.exp2()).abs() < bound, "2^{x}");
            let (mut gelu, mut want_derivative) = ([0f32], [0f32]);
            reference::gelu_forward(&mut gelu, &[x]);
            reference::gelu_backward(&mut want_derivative, &[x], &[1.0]);
            assert!((x * cdf - gelu[0]).abs() < 2.2e-4, "gelu({x}) = {}", x * cdf);
            assert!(
                (derivative - want_derivative[0]).abs() < 8e-4,
                "gelu'({x}) = {derivative} instead of {}",
                want_derivative[0]
            );
        }
        // SAFETY: `evaluate` takes no pointers, and tests have an engine.
        let powers = unsafe { [evaluate(-1e30)[0], evaluate(f32::NEG_INFINITY)[0]] };
        assert_eq!(powers, [0.0; 2]);
    }
}
