//! Random changes of images: RandAugment of vision-language models, and for classifiers policies ([`Policy`]), colour jitter
//! ([`Jitter`]) and random erasing ([`Erasing`]).
//!
//! [`rand_augment`] applies a few operations drawn at random, all at one magnitude. It is after Cubuk et al., *RandAugment* (arXiv
//! 1909.13719), with the fourteen operations and ranges that VLC inherited from ViLT. Each operation applies Pillow's arithmetic to 8-bit
//! pixels, in place, with an explicit value; the table [`OPERATIONS`] has the ranges. Three unusual properties are kept, because the
//! published models were trained with them: at magnitude 9, posterize keeps one bit; solarize-add adds to every value, not only to values
//! below the threshold; and the enhancers always weaken (factor 0.64). Policies use the same operations with other ranges; their geometric
//! operations are bicubic.

use image::RgbImage;
use rand::{Rng, RngExt};

mod bicubic;
mod enhance;
mod erase;
mod geometry;
mod jitter;
mod lookup;
mod normal;
mod policy;

pub use enhance::{brightness, color, contrast, sharpness};
pub use erase::{Erasing, ErasingMode};
pub use geometry::{rotate, shear_x, shear_y, translate_x, translate_y};
pub use jitter::Jitter;
pub use lookup::{add_to_dark, auto_contrast, equalize, invert, posterize, solarize, solarize_add};
pub use policy::{Drawn, Policy, PolicyOperation, Step};

/// An operation of RandAugment.
pub struct Operation {
    /// The name in configurations and reference data.
    pub name: &'static str,
    /// The value at magnitude 0.
    pub low: f64,
    /// The value at magnitude [`MAX_MAGNITUDE`].
    pub high: f64,
    /// Whether the sign of the value is drawn at random.
    pub signed: bool,
    /// Applies the operation with a value, in place.
    pub apply: fn(&mut RgbImage, f64),
}

/// The magnitude at which the value of an operation is [`Operation::high`].
pub const MAX_MAGNITUDE: f64 = 30.0;

impl Operation {
    /// Returns the value at a magnitude of 0..=[`MAX_MAGNITUDE`], before the random sign.
    pub fn value(&self, magnitude: f64) -> f64 {
        magnitude / MAX_MAGNITUDE * (self.high - self.low) + self.low
    }
}

const fn operation(name: &'static str, low: f64, high: f64, signed: bool, apply: fn(&mut RgbImage, f64)) -> Operation {
    Operation {
        name,
        low,
        high,
        signed,
        apply,
    }
}

/// The operations that [`rand_augment`] draws from, uniformly.
pub static OPERATIONS: [Operation; 14] = [
    operation("AutoContrast", 0.0, 1.0, false, |image, _| auto_contrast(image)),
    operation("Equalize", 0.0, 1.0, false, |image, _| equalize(image)),
    operation("Rotate", 0.0, 30.0, true, rotate),
    // The value is truncated to an integer; at least one bit is kept.
    operation("Posterize", 0.0, 4.0, false, |image, value| {
        posterize(image, (value as u32).max(1))
    }),
    operation("Solarize", 0.0, 256.0, false, solarize),
    operation("SolarizeAdd", 0.0, 110.0, false, solarize_add),
    operation("Color", 0.1, 1.9, false, color),
    operation("Contrast", 0.1, 1.9, false, contrast),
    operation("Brightness", 0.1, 1.9, false, brightness),
    operation("Sharpness", 0.1, 1.9, false, sharpness),
    operation("ShearX", 0.0, 0.3, true, shear_x),
    operation("ShearY", 0.0, 0.3, true, shear_y),
    operation("TranslateXabs", 0.0, 100.0, true, translate_x),
    operation("TranslateYabs", 0.0, 100.0, true, translate_y),
];

/// Applies `count` operations, drawn independently with replacement, at `magnitude`
/// (0..=[`MAX_MAGNITUDE`]).
pub fn rand_augment(image: &mut RgbImage, count: usize, magnitude: f64, rng: &mut impl Rng) {
    for _ in 0..count {
        let operation = &OPERATIONS[rng.random_range(0..OPERATIONS.len())];
        let value = operation.value(magnitude);
        let negative = operation.signed && rng.random_bool(0.5);
        (operation.apply)(image, if negative { -value } else { value });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    #[test]
    fn values_at_magnitude_9_are_the_published_ones() {
        let value = |name| {
            let operation = OPERATIONS.iter().find(|o| o.name == name).unwrap();
            operation.value(9.0)
        };
        for (name, want) in [
            ("Rotate", 9.0),
            ("Posterize", 1.2),
            ("Solarize", 76.8),
            ("SolarizeAdd", 33.0),
            ("Color", 0.64),
            ("ShearX", 0.09),
            ("TranslateYabs", 30.0),
        ] {
            assert!((value(name) - want).abs() < 1e-12, "{name}: {}", value(name));
        }
    }

    #[test]
    fn augmentation_varies_with_the_seed_and_is_deterministic() {
        let image = RgbImage::from_fn(50, 40, |x, y| image::Rgb([(x * 5) as u8, (y * 6) as u8, (x * y) as u8]));
        let run = |seed| {
            let mut augmented = image.clone();
            rand_augment(&mut augmented, 2, 9.0, &mut ChaCha8Rng::seed_from_u64(seed));
            augmented
        };
        assert_eq!(run(5), run(5));
        let different = (0..40).map(run).collect::<std::collections::HashSet<_>>().len();
        assert!(different > 25, "{different} of 40");
    }

    proptest! {
        #[test]
        fn every_operation_keeps_the_size(
            width in 0u32..12, height in 0u32..12, pixels in proptest::collection::vec(any::<u8>(), 3 * 11 * 11),
            magnitude in -40.0f64..80.0,
        ) {
            let length = (3 * width * height) as usize;
            let image = RgbImage::from_raw(width, height, pixels[..length].to_vec()).unwrap();
            for operation in &OPERATIONS {
                let mut changed = image.clone();
                (operation.apply)(&mut changed, operation.value(magnitude));
                prop_assert_eq!(changed.dimensions(), (width, height));
                prop_assert_eq!(changed.as_raw().len(), length);
            }
        }
    }
}
