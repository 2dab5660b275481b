//! The transforms from an image to normalised values `[3, S, S]`: the named ones of vision-language models, and those of classifiers.
//!
//! | name | steps |
//! | --- | --- |
//! | `mae` | random crop of 80–100 % of the area, resized to S × S, mirrored with probability 1/2 |
//! | `mae_randaug` | RandAugment(2, 9) at the original size, then a random crop of 90–100 % of the area, resized to S × S |
//! | `mae_test` | resized to S × S without regard to the aspect ratio |
//!
//! | [`TransformSpec`] | steps |
//! | --- | --- |
//! | `ClassificationTrain` | random crop of 8–100 % of the area, resized, mirrored with probability 1/2; a policy or colour jitter at S × S; random erasing after normalisation |
//! | `ClassificationEval` | shorter side resized to 256/224 · S (S ≤ 224) or S, central crop |
//! | `LinearProbeTrain` | random crop of 8–100 % of the area, limited to the image, resized, mirrored with probability 1/2 |
//!
//! `mae` mirrors images although captions contain "left" and "right", because the published models were trained in this way.

use std::fmt;
use std::ops::AddAssign;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use image::RgbImage;
use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use super::augment::rand_augment;
use super::resize::{CropBox, resize_into, resize_window_into};
use super::{Reading, decode_with, normalise, recycle};
use crate::{ImageError, Result};

mod classification;
mod crops;

pub use classification::{ClassificationAugment, ColourAugment};
pub use crops::{evaluation_window, random_area_crop, random_resized_crop};

/// The steps of a [`Transform`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TransformKind {
    /// `mae`: random resized crop and random mirroring; pre-training.
    Mae,
    /// `mae_randaug`: RandAugment and random resized crop; fine-tuning.
    MaeRandaug,
    /// `mae_test`: plain resize; evaluation.
    MaeTest,
}

impl TransformKind {
    /// Every kind, for lists of valid names.
    pub const ALL: [Self; 3] = [Self::Mae, Self::MaeRandaug, Self::MaeTest];

    /// Returns the name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mae => "mae",
            Self::MaeRandaug => "mae_randaug",
            Self::MaeTest => "mae_test",
        }
    }
}

impl fmt::Display for TransformKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for TransformKind {
    type Err = ImageError;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|k| k.name() == name)
            .ok_or_else(|| ImageError::UnknownTransform {
                name: name.to_string(),
                known: Self::ALL.map(Self::name).join(", "),
            })
    }
}

/// The steps of a [`Transform`], with their settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TransformSpec {
    /// Training of classifiers, as the fine-tuning script of MAE with timm 0.3.2.
    ClassificationTrain(Box<ClassificationAugment>),
    /// Evaluation of classifiers, for fine-tuning and linear probing.
    ClassificationEval,
    /// Training of linear probes, as MAE's script.
    LinearProbeTrain,
    /// A named transform; in serialised form, its name.
    #[serde(untagged)]
    Named(TransformKind),
}

impl TransformSpec {
    /// Returns the name: that of a named transform, or that of the variant.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Named(kind) => kind.name(),
            Self::ClassificationTrain(_) => "classification_train",
            Self::ClassificationEval => "classification_eval",
            Self::LinearProbeTrain => "linear_probe_train",
        }
    }
}

impl From<TransformKind> for TransformSpec {
    fn from(kind: TransformKind) -> Self {
        Self::Named(kind)
    }
}

/// Number of operations per image of `mae_randaug`.
const RANDAUG_OPERATIONS: usize = 2;
/// Magnitude of the operations of `mae_randaug`; the maximum is [`super::augment::MAX_MAGNITUDE`].
const RANDAUG_MAGNITUDE: f64 = 9.0;
/// Maximum side of a result in pixels.
const MAX_SIZE: usize = 8192;

/// Time of each stage of [`Transform::load_into`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StageTimes {
    /// Time of decoding.
    pub decode: Duration,
    /// Time of RandAugment, policies, colour jitter and random erasing.
    pub augment: Duration,
    /// Time of crop, resize, mirroring and normalisation.
    pub resize: Duration,
}

impl AddAssign for StageTimes {
    fn add_assign(&mut self, other: Self) {
        self.decode += other.decode;
        self.augment += other.augment;
        self.resize += other.resize;
    }
}

/// A transform to images of one size.
///
/// ```
/// use rand_chacha::ChaCha8Rng;
/// use rand_chacha::rand_core::SeedableRng;
/// use vlct_image::{RgbImage, Transform, TransformKind, decode, encode_png};
///
/// let file = encode_png(&RgbImage::new(640, 480))?;
/// let image = decode(&file)?;
/// assert_eq!(image.dimensions(), (640, 480));
///
/// let transform = Transform::new(TransformKind::MaeTest, 224)?;
/// let values = transform.apply(image, &mut ChaCha8Rng::seed_from_u64(0))?;
/// assert_eq!(values.len(), 3 * 224 * 224);
/// // Black, in units of ImageNet's standard deviation.
/// assert!((values[0] + 0.485 / 0.229).abs() < 1e-6);
/// # Ok::<(), vlct_image::ImageError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Transform {
    spec: Arc<TransformSpec>,
    size: u32,
}

impl Transform {
    /// Creates the transform `kind`, whose results have `size` × `size` pixels.
    ///
    /// # Errors
    /// Returns [`ImageError::Size`] unless `size` is in 1..=8192.
    pub fn new(kind: TransformKind, size: usize) -> Result<Self> {
        Self::from_spec(&TransformSpec::Named(kind), size)
    }

    /// Creates the transform of a specification, whose results have `size` × `size` pixels.
    ///
    /// # Errors
    /// Returns [`ImageError::Size`] unless `size` is in 1..=8192.
    pub fn from_spec(spec: &TransformSpec, size: usize) -> Result<Self> {
        match u32::try_from(size) {
            Ok(side) if (1..=MAX_SIZE).contains(&size) => Ok(Self {
                spec: Arc::new(spec.clone()),
                size: side,
            }),
            _ => Err(ImageError::Size { size, max: MAX_SIZE }),
        }
    }

    /// Returns the steps of the transform.
    pub fn spec(&self) -> &TransformSpec {
        &self.spec
    }

    /// Returns the height and width of a result in pixels.
    pub fn size(&self) -> usize {
        self.size as usize
    }

    /// Returns the number of values of a result: `3 · size · size`.
    pub fn values(&self) -> usize {
        3 * self.size() * self.size()
    }

    /// Decodes the bytes of an image file as `reading` says and writes the image, transformed and normalised, into `out`
    /// `[3, size, size]`.
    ///
    /// Draws from `rng` in the order augmentation, crop, mirroring (named transforms), or crop, mirroring, policy or jitter, erasing
    /// (classification); transforms of evaluation draw nothing.
    ///
    /// # Errors
    /// Returns [`ImageError::Decode`] as [`decode()`](super::decode()) does, and [`ImageError::Length`] if `out` does not have
    /// [`Self::values`] elements.
    pub fn load_into(&self, bytes: &[u8], reading: Reading, rng: &mut impl Rng, out: &mut [f32]) -> Result<StageTimes> {
        let start = Instant::now();
        let mut image = decode_with(bytes, reading)?.image;
        let decode = start.elapsed();
        let times = self.apply_into(&mut image, rng, out);
        recycle(image);
        Ok(StageTimes { decode, ..times? })
    }

    /// Transforms a decoded image and returns normalised planes `[3, size, size]`; see [`Self::load_into`].
    ///
    /// # Errors
    /// Returns [`ImageError::NoPixels`] if the image has no pixels.
    pub fn apply(&self, mut image: RgbImage, rng: &mut impl Rng) -> Result<Vec<f32>> {
        let mut out = vec![0.0; self.values()];
        self.apply_into(&mut image, rng, &mut out)?;
        Ok(out)
    }

    /// Transforms a decoded image, which may be changed, and writes normalised planes to `out`.
    fn apply_into(&self, image: &mut RgbImage, rng: &mut impl Rng, out: &mut [f32]) -> Result<StageTimes> {
        let start = Instant::now();
        let mut augment = Duration::ZERO;
        if *self.spec == TransformSpec::Named(TransformKind::MaeRandaug) {
            rand_augment(image, RANDAUG_OPERATIONS, RANDAUG_MAGNITUDE, rng);
            augment = start.elapsed();
        }
        let (width, height) = image.dimensions();
        let whole = CropBox::whole(image);
        let mut resize =
            |crop, flip| resize_into(image, crop, (self.size, self.size), flip, normalise::level_map(), out);
        match &*self.spec {
            TransformSpec::Named(TransformKind::Mae) => {
                let crop = random_resized_crop(width, height, 0.8, rng);
                resize(crop, rng.random_bool(0.5))?;
            }
            TransformSpec::Named(TransformKind::MaeRandaug) => {
                resize(random_resized_crop(width, height, 0.9, rng), false)?;
            }
            TransformSpec::Named(TransformKind::MaeTest) => resize(whole, false)?,
            TransformSpec::LinearProbeTrain => {
                let crop = random_area_crop(width, height, rng);
                resize(crop, rng.random_bool(0.5))?;
            }
            TransformSpec::ClassificationEval => {
                let (size, window) = evaluation_window(width, height, self.size);
                resize_window_into(image, whole, size, window, false, normalise::level_map(), out)?;
            }
            TransformSpec::ClassificationTrain(settings) => {
                augment = settings.apply_into(image, self.size, rng, out)?;
            }
        }
        Ok(StageTimes {
            decode: Duration::ZERO,
            augment,
            resize: start.elapsed().saturating_sub(augment),
        })
    }
}

#[cfg(test)]
mod tests;
