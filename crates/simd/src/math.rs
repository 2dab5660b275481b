//! Elementary functions and reductions that the compiler can vectorise: they contain no calls and no branches on the data.

/// Returns `e^x` with a relative error below 3e-7; 0 below −87.3 and infinity above 88.7.
///
/// Computes `2^n · e^r` with |r| ≤ ln 2 / 2, where `e^r` is a Taylor polynomial of degree 6 (truncation error below 2e-8).
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 · 2^23: adding it rounds to the nearest integer
    const LN2_HIGH: f32 = 0.693_359_4; // ln 2 = high + low; the trailing bits of high are zero
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let clamped = x.clamp(-88.0, 88.722_83);
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (clamped - n * LN2_HIGH) - n * LN2_LOW;
    let p = 1.0 / 720.0;
    let p = p * r + 1.0 / 120.0;
    let p = p * r + 1.0 / 24.0;
    let p = p * r + 1.0 / 6.0;
    let p = p * r + 0.5;
    let p = (p * r) * r + r + 1.0;
    // 2^n as a product of two powers, since 2^128 is not a float.
    let n = n as i32;
    let half = n >> 1;
    let power = |k: i32| f32::from_bits(((k + 127) << 23) as u32);
    let y = p * power(half) * power(n - half);
    let y = if x < -87.3 { 0.0 } else { y };
    if x > 88.722_83 { f32::INFINITY } else { y }
}

/// Returns the error function of `x` with an absolute error below 5e-7.
///
/// Computes an odd rational function of degrees 13 and 8 on [−4, 4], constant outside (the minimax fit of Eigen and XLA).
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    let x = x.clamp(-4.0, 4.0);
    let s = x * x;
    let p = -2.726_142_3e-10;
    let p = p * s + 2.770_681_4e-8;
    let p = p * s - 2.101_024e-6;
    let p = p * s - 5.692_506_4e-5;
    let p = p * s - 7.349_906_3e-4;
    let p = p * s - 2.954_6e-3;
    let p = p * s - 1.609_603_3e-2;
    let q = -1.456_607_2e-5;
    let q = q * s - 2.133_740_6e-4;
    let q = q * s - 1.682_827e-3;
    let q = q * s - 7.373_329e-3;
    let q = q * s - 1.426_473_9e-2;
    x * p / q
}

/// Number of partial sums in [`sum`]: the lanes of one AVX-512 register.
const LANES: usize = 16;

/// Returns `Σ f(x_i)`, from sixteen interleaved partial sums, so that the order of additions does not depend on the CPU.
#[inline(always)]
pub fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let (blocks, rest) = x.as_chunks::<LANES>();
    for block in blocks {
        for l in 0..LANES {
            lanes[l] += f(block[l]);
        }
    }
    for (l, v) in rest.iter().enumerate() {
        lanes[l] += f(*v);
    }
    sum_lanes(lanes)
}

/// Returns `Σ f(x_i, y_i)` in the order of additions of [`sum`].
#[inline(always)]
pub fn sum2(x: &[f32], y: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let ((xs, x_rest), (ys, y_rest)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    for (a, b) in xs.iter().zip(ys) {
        for l in 0..LANES {
            lanes[l] += f(a[l], b[l]);
        }
    }
    for (l, (a, b)) in x_rest.iter().zip(y_rest).enumerate() {
        lanes[l] += f(*a, *b);
    }
    sum_lanes(lanes)
}

/// Returns `Σ f(x_i, y_i, z_i)` in the order of additions of [`sum`].
#[inline(always)]
pub fn sum3(x: &[f32], y: &[f32], z: &[f32], f: impl Fn(f32, f32, f32) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let (xs, x_rest) = x.as_chunks::<LANES>();
    let (ys, y_rest) = y.as_chunks::<LANES>();
    let (zs, z_rest) = z.as_chunks::<LANES>();
    for ((a, b), c) in xs.iter().zip(ys).zip(zs) {
        for l in 0..LANES {
            lanes[l] += f(a[l], b[l], c[l]);
        }
    }
    for (l, ((a, b), c)) in x_rest.iter().zip(y_rest).zip(z_rest).enumerate() {
        lanes[l] += f(*a, *b, *c);
    }
    sum_lanes(lanes)
}

#[inline(always)]
fn sum_lanes(lanes: [f32; LANES]) -> f32 {
    let mut eight = [0f32; 8];
    for l in 0..8 {
        eight[l] = lanes[l] + lanes[l + 8];
    }
    let mut four = [0f32; 4];
    for l in 0..4 {
        four[l] = eight[l] + eight[l + 4];
    }
    (four[0] + four[2]) + (four[1] + four[3])
}

/// Returns the largest value; −∞ for an empty slice. NaNs are ignored.
#[inline(always)]
pub fn max(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (blocks, rest) = x.as_chunks::<LANES>();
    for block in blocks {
        for l in 0..LANES {
            lanes[l] = if block[l] > lanes[l] { block[l] } else { lanes[l] };
        }
    }
    rest.iter().chain(&lanes).fold(f32::NEG_INFINITY, |m, v| m.max(*v))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_keeps_its_error_bound() {
        for i in -8730..8870 {
            let x = i as f32 / 100.0;
            let want = (x as f64).exp();
            assert!(
                (exp(x) as f64 - want).abs() <= 3e-7 * want,
                "exp({x}) = {} instead of {want}",
                exp(x)
            );
        }
        assert_eq!(exp(-100.0), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(100.0), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn erf_keeps_its_error_bound() {
        // The Maclaurin series in double precision.
        fn exact(x: f64) -> f64 {
            let (mut term, mut total) = (x, x);
            for n in 1..200 {
                term *= -x * x / n as f64;
                total += term / (2 * n + 1) as f64;
            }
            total * 2.0 / std::f64::consts::PI.sqrt()
        }
        for i in -400..=400 {
            let x = i as f32 / 100.0;
            assert!((erf(x) as f64 - exact(x as f64)).abs() < 5e-7, "erf({x})");
        }
    }

    #[test]
    fn reductions_include_every_value() {
        for n in [0, 1, 15, 16, 17, 100] {
            let x: Vec<f32> = (0..n).map(|i| i as f32).collect();
            assert_eq!(sum(&x, |v| v), (0..n).sum::<i32>() as f32);
            assert_eq!(sum2(&x, &x, |a, b| a - b), 0.0);
            assert_eq!(sum3(&x, &x, &x, |a, b, c| a + b - c), (0..n).sum::<i32>() as f32);
            assert_eq!(max(&x), if n == 0 { f32::NEG_INFINITY } else { (n - 1) as f32 });
        }
    }
}
