//! Augmentation of the training images of classifiers.

use std::time::{Duration, Instant};

use image::RgbImage;
use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use super::crops::{MIN_AREA, random_resized_crop};
use crate::augment::{Drawn, Erasing, Jitter, Policy};
use crate::resize::{LevelMap, resize_into};
use crate::{Normalisation, Result, normalise, recycle};

/// The augmentation of [`TransformSpec::ClassificationTrain`](super::TransformSpec::ClassificationTrain). The default is that of the
/// published fine-tuning without a policy and without erasing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClassificationAugment {
    /// The change of colours and shapes.
    pub colour: ColourAugment,
    /// Random erasing.
    pub erasing: Option<Erasing>,
    /// Smallest area of a random crop, as a fraction of the image, from 0 to 1.
    pub min_area: f64,
    /// Probability that an image is mirrored.
    pub mirroring: f64,
}

impl Default for ClassificationAugment {
    fn default() -> Self {
        Self {
            colour: ColourAugment::None,
            erasing: None,
            min_area: MIN_AREA,
            mirroring: 0.5,
        }
    }
}

/// The change of colours and shapes of an image of the final size. A policy excludes colour jitter, as for timm.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColourAugment {
    /// No change.
    #[default]
    None,
    /// An augmentation policy.
    Policy(Policy),
    /// Colour jitter.
    Jitter(Jitter),
}

impl ColourAugment {
    fn draw(&self, rng: &mut impl Rng) -> Vec<Drawn> {
        match self {
            Self::None => Vec::new(),
            Self::Policy(policy) => policy.draw(rng),
            Self::Jitter(jitter) => jitter.draw(rng),
        }
    }
}

impl ClassificationAugment {
    /// Crops, resizes, mirrors, changes, normalises and erases, in this order. Writes to `out` `[3, size, size]`, and returns the time
    /// of changes and erasing.
    pub(super) fn apply_into(
        &self,
        image: &RgbImage,
        size: u32,
        normalisation: &Normalisation,
        rng: &mut impl Rng,
        out: &mut [f32],
    ) -> Result<Duration> {
        let (width, height) = image.dimensions();
        let crop = random_resized_crop(width, height, self.min_area.clamp(0.0, 1.0), rng);
        let flip = rng.random_bool(self.mirroring.clamp(0.0, 1.0));
        let changes = self.colour.draw(rng);
        // Without changes, which a policy often draws, the resize normalises.
        let level_map = if changes.is_empty() {
            normalisation.level_map()
        } else {
            LevelMap::IDENTITY
        };
        resize_into(image, crop, (size, size), flip, level_map, out)?;
        let resized = Instant::now();
        if !changes.is_empty() {
            let mut changed = normalise::from_levels(out, size);
            for Drawn { operation, value } in changes {
                operation.apply(&mut changed, value);
            }
            normalisation.normalise_into(&changed, out);
            recycle(changed);
        }
        if let Some(erasing) = &self.erasing {
            erasing.erase(out, size, rng);
        }
        Ok(resized.elapsed())
    }
}
