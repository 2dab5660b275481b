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
use std::ops::{AddAssign, DerefMut};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use image::RgbImage;
use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use super::augment::rand_augment;
use super::resize::{CropBox, resize_into, resize_window_into};
use super::{Normalisation, Reading, decode_with, recycle};
use crate::{ImageError, Result};

mod classification;
mod crops;
mod proportional;

pub use classification::{ClassificationAugment, ColourAugment};
pub use crops::{evaluation_window, random_area_crop, random_resized_crop};
pub use proportional::proportional_size;

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
    /// `pixelbert`: resize that keeps the proportions (ViLT).
    Pixelbert,
    /// `pixelbert_randaug`: RandAugment, then the resize of `pixelbert`; training of ViLT.
    PixelbertRandaug,
}

impl TransformKind {
    /// Every kind, for lists of valid names.
    pub const ALL: [Self; 5] = [
        Self::Mae,
        Self::MaeRandaug,
        Self::MaeTest,
        Self::Pixelbert,
        Self::PixelbertRandaug,
    ];

    /// Returns the name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mae => "mae",
            Self::MaeRandaug => "mae_randaug",
            Self::MaeTest => "mae_test",
            Self::Pixelbert => "pixelbert",
            Self::PixelbertRandaug => "pixelbert_randaug",
        }
    }

    /// Whether results have the proportions of their images. Other results are squares.
    pub fn keeps_proportions(self) -> bool {
        matches!(self, Self::Pixelbert | Self::PixelbertRandaug)
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

impl TransformSpec {
    /// Whether results have the proportions of their images. Other results are squares.
    pub fn keeps_proportions(&self) -> bool {
        matches!(self, Self::Named(kind) if kind.keeps_proportions())
    }

    /// Returns the format of the published models that were trained with this transform.
    pub fn published_format(&self, size: usize) -> ImageFormat {
        ImageFormat {
            size,
            multiple: ImageFormat::VILT_MULTIPLE,
            normalisation: match self.keeps_proportions() {
                true => Normalisation::SYMMETRIC,
                false => Normalisation::IMAGENET,
            },
        }
    }
}

/// Sizes and values of the results of a [`Transform`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ImageFormat {
    /// Side of square results in pixels, or shorter side of results that keep the proportions, before rounding.
    pub size: usize,
    /// The sides of results that keep the proportions are multiples of this number of pixels.
    pub multiple: usize,
    /// How levels become values.
    pub normalisation: Normalisation,
}

impl ImageFormat {
    /// The value of `multiple` of ViLT.
    pub const VILT_MULTIPLE: usize = 32;
}

impl From<TransformKind> for TransformSpec {
    fn from(kind: TransformKind) -> Self {
        Self::Named(kind)
    }
}

/// Number of operations per image of `mae_randaug` and `pixelbert_randaug`.
const RANDAUG_OPERATIONS: usize = 2;
/// Magnitude of the operations of `mae_randaug` and `pixelbert_randaug`; the maximum is [`super::augment::MAX_MAGNITUDE`].
const RANDAUG_MAGNITUDE: f64 = 9.0;
/// Maximum side of a result in pixels.
const MAX_SIZE: usize = 8192;

/// Time of each stage of [`Transform::load`].
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

/// A transform to images of one size, or of sizes that follow from those of the files.
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
    multiple: u32,
    normalisation: Normalisation,
}

impl Transform {
    /// Creates the transform `kind` in the format of the published models.
    ///
    /// # Errors
    /// Returns [`ImageError::Size`] unless `size` is in 1..=8192.
    pub fn new(kind: TransformKind, size: usize) -> Result<Self> {
        Self::from_spec(&TransformSpec::Named(kind), size)
    }

    /// Creates the transform of a specification in the format of the published models.
    ///
    /// # Errors
    /// Returns [`ImageError::Size`] unless `size` is in 1..=8192.
    pub fn from_spec(spec: &TransformSpec, size: usize) -> Result<Self> {
        Self::with_format(spec, &spec.published_format(size))
    }

    /// Creates the transform of a specification in a format.
    ///
    /// # Errors
    /// Returns [`ImageError::Size`] unless size and multiple are in 1..=8192, [`ImageError::Multiple`] if results that keep the proportions
    /// would have no pixels, and [`ImageError::Normalisation`] if a deviation is not
    /// positive or a number is not finite.
    pub fn with_format(spec: &TransformSpec, format: &ImageFormat) -> Result<Self> {
        let side = |size: usize| match u32::try_from(size) {
            Ok(side) if (1..=MAX_SIZE).contains(&size) => Ok(side),
            _ => Err(ImageError::Size { size, max: MAX_SIZE }),
        };
        let Normalisation { mean, deviation } = format.normalisation;
        let are_valid = |mean: f32, deviation: f32| mean.is_finite() && deviation.is_finite() && deviation > 0.0;
        if !mean
            .into_iter()
            .zip(deviation)
            .all(|(mean, deviation)| are_valid(mean, deviation))
        {
            return Err(ImageError::Normalisation { mean, deviation });
        }
        if spec.keeps_proportions() && format.size < format.multiple {
            return Err(ImageError::Multiple {
                size: format.size,
                multiple: format.multiple,
            });
        }
        Ok(Self {
            spec: Arc::new(spec.clone()),
            size: side(format.size)?,
            multiple: side(format.multiple)?,
            normalisation: format.normalisation,
        })
    }

    /// Returns the steps of the transform.
    pub fn spec(&self) -> &TransformSpec {
        &self.spec
    }

    /// Returns the side of square results in pixels, or the shorter side of results that keep the proportions, before rounding.
    pub fn size(&self) -> usize {
        self.size as usize
    }

    /// Returns sizes and values of results.
    pub fn format(&self) -> ImageFormat {
        ImageFormat {
            size: self.size(),
            multiple: self.multiple as usize,
            normalisation: self.normalisation,
        }
    }

    /// Returns the largest number of values of a result: `3 · height · width`.
    pub fn max_values(&self) -> usize {
        match self.spec.keeps_proportions() {
            true => 3 * self.size() * proportional::longest(self.size) as usize,
            false => 3 * self.size() * self.size(),
        }
    }

    /// Returns height and width of the result for an image of `width` × `height` pixels.
    ///
    /// # Errors
    /// Returns [`ImageError::TooLong`] if the proportions are so unequal that a side of the result would have no pixels.
    pub fn output_size(&self, width: u32, height: u32) -> Result<[usize; 2]> {
        if !self.spec.keeps_proportions() {
            return Ok([self.size(); 2]);
        }
        let size = proportional_size(width, height, self.size, self.multiple);
        let (width, height) = size.ok_or_else(|| ImageError::TooLong {
            width,
            height,
            limit: proportional::largest_ratio(self.size, self.multiple),
        })?;
        Ok([height as usize, width as usize])
    }

    /// Decodes the bytes of an image file as `reading` says, and writes the image, transformed and normalised, to the buffer
    /// `[3, height, width]` that `allocate` returns for height and width.
    ///
    /// Draws from `rng` in the order augmentation, crop, mirroring (named transforms), or crop, mirroring, policy or jitter, erasing
    /// (classification); transforms of evaluation draw nothing.
    ///
    /// # Errors
    /// Returns [`ImageError::Decode`] as [`decode()`](super::decode()) does, the errors of [`Self::output_size`], and
    /// [`ImageError::Length`] if the buffer does not have `3 · height · width` elements.
    pub fn load<B: DerefMut<Target = [f32]>>(
        &self,
        bytes: &[u8],
        reading: Reading,
        rng: &mut impl Rng,
        allocate: impl FnOnce([usize; 2]) -> B,
    ) -> Result<(B, StageTimes)> {
        let start = Instant::now();
        let mut image = decode_with(bytes, reading)?.image;
        let decode = start.elapsed();
        let loaded = self.apply_to(&mut image, rng, allocate);
        recycle(image);
        let (values, times) = loaded?;
        Ok((values, StageTimes { decode, ..times }))
    }

    /// Transforms a decoded image and returns normalised planes `[3, height, width]`; see [`Self::load`].
    ///
    /// # Errors
    /// Returns [`ImageError::NoPixels`] if the image has no pixels, and the errors of [`Self::output_size`].
    pub fn apply(&self, mut image: RgbImage, rng: &mut impl Rng) -> Result<Vec<f32>> {
        let (values, _) = self.apply_to(&mut image, rng, |[height, width]| vec![0.0; 3 * height * width])?;
        Ok(values)
    }

    /// Transforms a decoded image, which may be changed; see [`Self::load`].
    ///
    /// # Errors
    /// Returns the errors of [`Self::apply`], and [`ImageError::Length`] if the buffer does not have `3 · height · width` elements.
    pub fn apply_to<B: DerefMut<Target = [f32]>>(
        &self,
        image: &mut RgbImage,
        rng: &mut impl Rng,
        allocate: impl FnOnce([usize; 2]) -> B,
    ) -> Result<(B, StageTimes)> {
        let size = self.output_size(image.width(), image.height())?;
        let mut out = allocate(size);
        let times = self.apply_into(image, size, rng, &mut out)?;
        Ok((out, times))
    }

    /// Transforms a decoded image, which may be changed, and writes normalised planes of a height and width to `out`.
    fn apply_into(
        &self,
        image: &mut RgbImage,
        [rows, columns]: [usize; 2],
        rng: &mut impl Rng,
        out: &mut [f32],
    ) -> Result<StageTimes> {
        use TransformKind::{MaeRandaug, PixelbertRandaug};
        let start = Instant::now();
        let mut augment = Duration::ZERO;
        if matches!(*self.spec, TransformSpec::Named(MaeRandaug | PixelbertRandaug)) {
            rand_augment(image, RANDAUG_OPERATIONS, RANDAUG_MAGNITUDE, rng);
            augment = start.elapsed();
        }
        let (width, height) = image.dimensions();
        let whole = CropBox::whole(image);
        let (size, level_map) = ((columns as u32, rows as u32), self.normalisation.level_map());
        let mut resize = |crop, flip| resize_into(image, crop, size, flip, level_map, out);
        match &*self.spec {
            TransformSpec::Named(TransformKind::Mae) => {
                let crop = random_resized_crop(width, height, 0.8, rng);
                resize(crop, rng.random_bool(0.5))?;
            }
            TransformSpec::Named(MaeRandaug) => {
                resize(random_resized_crop(width, height, 0.9, rng), false)?;
            }
            TransformSpec::Named(TransformKind::MaeTest | TransformKind::Pixelbert | PixelbertRandaug) => {
                resize(whole, false)?;
            }
            TransformSpec::LinearProbeTrain => {
                let crop = random_area_crop(width, height, rng);
                resize(crop, rng.random_bool(0.5))?;
            }
            TransformSpec::ClassificationEval => {
                let (size, window) = evaluation_window(width, height, self.size);
                resize_window_into(image, whole, size, window, false, level_map, out)?;
            }
            TransformSpec::ClassificationTrain(settings) => {
                augment = settings.apply_into(image, self.size, &self.normalisation, rng, out)?;
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
