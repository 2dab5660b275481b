//! GELU, exact form: `x · Φ(x)` with the normal distribution function Φ (Hendrycks & Gimpel 2016; PyTorch's default).

use crate::parallel::over_rows;
use vlct_simd::math::{erf, exp};
use vlct_simd::multiversion;

/// `out = gelu(x)`.
pub fn forward(x: &[f32], out: &mut [f32]) {
    assert_eq!(x.len(), out.len());
    over_rows(out, 1, |first, out| forward_block(&x[first..first + out.len()], out));
}

/// `dx = dy · gelu'(x)`, with `gelu'(x) = Φ(x) + x·φ(x)`. `dx` may hold `dy` on entry and is overwritten.
pub fn backward_in_place(x: &[f32], dy: &mut [f32]) {
    assert_eq!(x.len(), dy.len());
    over_rows(dy, 1, |first, dy| backward_block(&x[first..first + dy.len()], dy));
}

multiversion! {
fn forward_block(x: &[f32], out: &mut [f32]) {
    for (o, v) in out.iter_mut().zip(x) {
        *o = 0.5 * v * (1.0 + erf(v * std::f32::consts::FRAC_1_SQRT_2));
    }
}
}

multiversion! {
fn backward_block(x: &[f32], dy: &mut [f32]) {
    const FRAC_1_SQRT_2PI: f32 = 0.398_942_3;
    for (d, v) in dy.iter_mut().zip(x) {
        let distribution = 0.5 * (1.0 + erf(v * std::f32::consts::FRAC_1_SQRT_2));
        let density = FRAC_1_SQRT_2PI * exp(-0.5 * v * v);
        *d *= distribution + v * density;
    }
}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        let x = [-10.0, -1.0, 0.0, 0.5, 1.0, 10.0];
        let mut y = [0f32; 6];
        forward(&x, &mut y);
        for (got, want) in y.iter().zip([0.0, -0.158_655_26, 0.0, 0.345_731_23, 0.841_344_7, 10.0]) {
            assert!((got - want).abs() < 1e-6, "{got} {want}");
        }
    }

    #[test]
    fn derivative_equals_finite_differences() {
        for i in -50..=50 {
            let x = i as f32 / 10.0;
            let mut ends = [0f32; 2];
            forward(&[x + 1e-2, x - 1e-2], &mut ends);
            let mut d = [1f32];
            backward_in_place(&[x], &mut d);
            assert!((d[0] - (ends[0] - ends[1]) / 2e-2).abs() < 1e-4, "at {x}");
        }
    }

    #[test]
    fn long_inputs_are_handled_in_blocks() {
        let x: Vec<f32> = (0..3 * 16384 + 5).map(|i| (i % 100) as f32 / 25.0 - 2.0).collect();
        let mut y = vec![0f32; x.len()];
        forward(&x, &mut y);
        let mut one = [0f32];
        for i in [0, 16384 - 1, 16384, 3 * 16384 + 4] {
            forward(&x[i..i + 1], &mut one);
            assert_eq!(y[i], one[0]);
        }
    }
}
