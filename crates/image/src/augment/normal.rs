//! Standard normal values.

use rand::{Rng, RngExt};

/// Draws two independent standard normal values by the Box-Muller transform.
pub(super) fn normal_pair(rng: &mut impl Rng) -> [f64; 2] {
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    let (sin, cos) = (std::f64::consts::TAU * rng.random::<f64>()).sin_cos();
    [radius * cos, radius * sin]
}

/// Fills `values` with independent standard normal values.
pub(super) fn fill_normal(values: &mut [f32], rng: &mut impl Rng) {
    for pair in values.chunks_mut(2) {
        for (value, normal) in pair.iter_mut().zip(normal_pair(rng)) {
            *value = normal as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    #[test]
    fn values_have_the_moments_of_a_standard_normal_distribution() {
        let mut values = [0.0f32; 40_001];
        fill_normal(&mut values, &mut ChaCha8Rng::seed_from_u64(0));
        let moment = |power: i32| values.iter().map(|v| f64::from(*v).powi(power)).sum::<f64>() / values.len() as f64;
        for (power, want, tolerance) in [(1, 0.0, 0.02), (2, 1.0, 0.03), (3, 0.0, 0.08), (4, 3.0, 0.2)] {
            let got = moment(power);
            assert!((got - want).abs() < tolerance, "moment {power}: {got}");
        }
        let neighbours = values.windows(2).map(|v| f64::from(v[0] * v[1])).sum::<f64>() / values.len() as f64;
        assert!(neighbours.abs() < 0.02, "{neighbours}");
    }
}
