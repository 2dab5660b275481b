//! The GELU `x · Φ(x)` with the normal distribution function Φ, as in PyTorch's default (Hendrycks & Gimpel 2016).

use crate::parallel::over_rows;
use vlct_simd::math::{erf, exp};
use vlct_simd::multiversion;

/// Computes `out = gelu(x)`. The plain version is [`reference::gelu_forward`](crate::reference::gelu_forward).
pub fn forward(x: &[f32], out: &mut [f32]) {
    assert_eq!(x.len(), out.len());
    over_rows(out, 1, |first, out| forward_block(&x[first..first + out.len()], out));
}

/// Replaces `dy` by `dx = dy·gelu'(x)`, where `gelu'(x) = Φ(x) + x·φ(x)`. The plain version is
/// [`reference::gelu_backward`](crate::reference::gelu_backward).
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
        let cdf = 0.5 * (1.0 + erf(v * std::f32::consts::FRAC_1_SQRT_2));
        let density = FRAC_1_SQRT_2PI * exp(-0.5 * v * v);
        *d *= cdf + v * density;
    }
}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference;

    #[test]
    fn forward_and_backward_equal_the_reference() {
        // More than one task, and arguments of large magnitude.
        let x: Vec<f32> = (0..3 * 16384 + 5).map(|i| (i % 2001) as f32 / 100.0 - 10.0).collect();
        let [mut y, mut want] = [(); 2].map(|_| vec![0f32; x.len()]);
        forward(&x, &mut y);
        reference::gelu_forward(&mut want, &x);
        for (got, want) in y.iter().zip(&want) {
            assert!((got - want).abs() < 2e-6, "{got} instead of {want}");
        }
        let mut d: Vec<f32> = x.iter().map(|v| v * 0.5).collect();
        reference::gelu_backward(&mut want, &x, &d.clone());
        backward_in_place(&x, &mut d);
        for (got, want) in d.iter().zip(&want) {
            assert!((got - want).abs() < 5e-6, "{got} instead of {want}");
        }
    }
}
