//! Colour jitter: brightness, contrast and saturation by random factors in random order, as torchvision's `ColorJitter` with one number
//! for the three.

use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use super::{Drawn, PolicyOperation};
use crate::{ImageError, Result};

/// Colour jitter. In serialised form: its strength.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Jitter {
    strength: f64,
}

impl Jitter {
    /// Creates jitter whose factors are uniform in `max(0, 1 − strength)..=1 + strength`.
    ///
    /// # Errors
    /// Returns [`ImageError::Jitter`] unless `strength` is at least 0 and finite.
    pub fn new(strength: f64) -> Result<Self> {
        if strength >= 0.0 && strength.is_finite() {
            Ok(Self { strength })
        } else {
            Err(ImageError::Jitter(strength))
        }
    }

    /// Draws the changes of an image, in this order; none if the strength is 0. Draws from `rng` the order, then the factors.
    pub fn draw(&self, rng: &mut impl Rng) -> Vec<Drawn> {
        if self.strength == 0.0 {
            return Vec::new();
        }
        let mut operations = [
            PolicyOperation::Brightness,
            PolicyOperation::Contrast,
            PolicyOperation::Color,
        ];
        for i in (1..operations.len()).rev() {
            operations.swap(i, rng.random_range(0..=i));
        }
        let (low, high) = ((1.0 - self.strength).max(0.0), 1.0 + self.strength);
        let drawn = operations.map(|operation| Drawn {
            operation,
            value: low + (high - low) * rng.random::<f64>(),
        });
        drawn.to_vec()
    }
}

impl From<Jitter> for f64 {
    fn from(jitter: Jitter) -> Self {
        jitter.strength
    }
}

impl TryFrom<f64> for Jitter {
    type Error = ImageError;

    fn try_from(strength: f64) -> Result<Self> {
        Self::new(strength)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    #[test]
    fn orders_and_factors_are_uniform() {
        let jitter = Jitter::new(0.4).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let mut orders = HashMap::<_, u32>::new();
        let mut tenths = [0; 8];
        for _ in 0..3000 {
            let drawn = jitter.draw(&mut rng);
            *orders.entry([0, 1, 2].map(|i| drawn[i].operation)).or_default() += 1;
            for Drawn { value, .. } in drawn {
                assert!((0.6..=1.4).contains(&value));
                tenths[((value - 0.6) * 10.0) as usize] += 1;
            }
        }
        assert_eq!(orders.len(), 6);
        assert!(orders.values().all(|count| (420..580).contains(count)), "{orders:?}");
        assert!(tenths.iter().all(|count| (1000..1250).contains(count)), "{tenths:?}");
        // Factors are not negative.
        let strong = Jitter::new(3.0).unwrap();
        assert!(
            (0..500)
                .flat_map(|_| strong.draw(&mut rng))
                .all(|drawn| (0.0..=4.0).contains(&drawn.value))
        );
    }

    #[test]
    fn a_strength_is_a_number_of_at_least_zero() {
        assert!(
            Jitter::new(0.0)
                .unwrap()
                .draw(&mut ChaCha8Rng::seed_from_u64(0))
                .is_empty()
        );
        for strength in [-0.1, f64::NAN, f64::INFINITY] {
            let message = Jitter::new(strength).unwrap_err().to_string();
            assert!(message.contains("colour jitter"), "{message}");
        }
        assert!(serde_json::from_str::<Jitter>("-1.0").is_err());
        assert_eq!(serde_json::to_string(&Jitter::new(0.4).unwrap()).unwrap(), "0.4");
    }
}
