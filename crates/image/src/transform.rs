//! The named transforms from an image to normalised values `[3, S, S]`.
//!
//! | name | steps |
//! | --- | --- |
//! | `mae` | random crop of 80–100 % of the area, resized to S × S, mirrored with probability 1/2 |
//! | `mae_randaug` | RandAugment(2, 9) at the original size, then a random crop of 90–100 % of the area, resized to S × S |
//! | `mae_test` | resized to S × S without regard to the aspect ratio |
//!
//! `mae` mirrors images although captions contain "left" and "right", because the published models were trained in this way.

use std::fmt;
use std::ops::AddAssign;
use std::str::FromStr;
use std::time::{Duration, Instant};

use image::RgbImage;
use rand::{Rng, RngExt};

use super::augment::rand_augment;
use super::resize::{CropBox, resize_into};
use super::{Reading, decode_with, normalise, recycle};
use crate::{ImageError, Result};

/// The steps of a [`Transform`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
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
    /// Time of RandAugment.
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transform {
    kind: TransformKind,
    size: u32,
}

impl Transform {
    /// Creates the transform `kind`, whose results have `size` × `size` pixels.
    ///
    /// # Errors
    /// Returns [`ImageError::Size`] unless `size` is in 1..=8192.
    pub fn new(kind: TransformKind, size: usize) -> Result<Self> {
        match u32::try_from(size) {
            Ok(side) if (1..=MAX_SIZE).contains(&size) => Ok(Self { kind, size: side }),
            _ => Err(ImageError::Size { size, max: MAX_SIZE }),
        }
    }

    /// Returns the kind of the transform.
    pub fn kind(&self) -> TransformKind {
        self.kind
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
    /// Draws from `rng` in the order augmentation, crop, mirroring; `mae_test` draws nothing.
    ///
    /// # Errors
    /// Returns [`ImageError::Decode`] as [`decode()`](super::decode()) does, and [`ImageError::Length`] if `out` does not have [`Self::values`] elements.
    pub fn load_into(&self, bytes: &[u8], reading: Reading, rng: &mut impl Rng, out: &mut [f32]) -> Result<StageTimes> {
        let start = Instant::now();
        let mut image = decode_with(bytes, reading)?.image;
        let decoded = Instant::now();
        self.augment(&mut image, rng);
        let augmented = Instant::now();
        let resized = self.resize_into(&image, rng, out);
        recycle(image);
        resized?;
        Ok(StageTimes {
            decode: decoded - start,
            augment: augmented - decoded,
            resize: augmented.elapsed(),
        })
    }

    fn augment(&self, image: &mut RgbImage, rng: &mut impl Rng) {
        if self.kind == TransformKind::MaeRandaug {
            rand_augment(image, RANDAUG_OPERATIONS, RANDAUG_MAGNITUDE, rng);
        }
    }

    fn resize_into(&self, image: &RgbImage, rng: &mut impl Rng, out: &mut [f32]) -> Result<()> {
        let (width, height) = image.dimensions();
        let (crop, flip) = match self.kind {
            TransformKind::Mae => {
                let crop = random_resized_crop(width, height, 0.8, rng);
                (crop, rng.random_bool(0.5))
            }
            TransformKind::MaeRandaug => (random_resized_crop(width, height, 0.9, rng), false),
            TransformKind::MaeTest => (CropBox::whole(image), false),
        };
        resize_into(image, crop, (self.size, self.size), flip, normalise::level_map(), out)
    }

    /// Transforms a decoded image and returns normalised planes `[3, size, size]`; see [`Self::load_into`].
    ///
    /// # Errors
    /// Returns [`ImageError::NoPixels`] if the image has no pixels.
    pub fn apply(&self, mut image: RgbImage, rng: &mut impl Rng) -> Result<Vec<f32>> {
        let mut out = vec![0.0; self.values()];
        self.augment(&mut image, rng);
        self.resize_into(&image, rng, &mut out)?;
        Ok(out)
    }
}

/// Narrowest aspect ratio (width / height) of a random crop.
const MIN_ASPECT: f64 = 3.0 / 4.0;
/// Widest aspect ratio of a random crop.
const MAX_ASPECT: f64 = 4.0 / 3.0;

/// Draws a crop as torchvision's `RandomResizedCrop.get_params` does: the fraction of the area is uniform in `min_area`..=1, and the
/// logarithm of the aspect ratio is uniform between 3/4 and 4/3. Returns the first of ten draws that fits into the image; if none fits,
/// the largest centred box within the limits of the aspect ratio.
pub fn random_resized_crop(width: u32, height: u32, min_area: f64, rng: &mut impl Rng) -> CropBox {
    const DRAWS: usize = 10;
    let area = f64::from(width) * f64::from(height);
    for _ in 0..DRAWS {
        let target = area * (min_area + (1.0 - min_area) * rng.random::<f64>());
        let log_aspect = MIN_ASPECT.ln() + (MAX_ASPECT.ln() - MIN_ASPECT.ln()) * rng.random::<f64>();
        let aspect = log_aspect.exp();
        // Python rounds half to even.
        let w = (target * aspect).sqrt().round_ties_even() as u32;
        let h = (target / aspect).sqrt().round_ties_even() as u32;
        if (1..=width).contains(&w) && (1..=height).contains(&h) {
            return CropBox {
                top: rng.random_range(0..=height - h),
                left: rng.random_range(0..=width - w),
                width: w,
                height: h,
            };
        }
    }
    central_crop(width, height)
}

/// Returns the largest centred box whose aspect ratio is within the limits.
fn central_crop(width: u32, height: u32) -> CropBox {
    let aspect = f64::from(width) / f64::from(height);
    let (w, h) = if aspect < MIN_ASPECT {
        (width, (f64::from(width) / MIN_ASPECT).round_ties_even() as u32)
    } else if aspect > MAX_ASPECT {
        ((f64::from(height) * MAX_ASPECT).round_ties_even() as u32, height)
    } else {
        (width, height)
    };
    CropBox {
        left: width.saturating_sub(w) / 2,
        top: height.saturating_sub(h) / 2,
        width: w.min(width),
        height: h.min(height),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    #[test]
    fn names_round_trip_and_errors_list_all_names() {
        for kind in TransformKind::ALL {
            assert_eq!(kind.name().parse::<TransformKind>().unwrap(), kind);
        }
        let message = "default_train".parse::<TransformKind>().unwrap_err().to_string();
        assert!(message.contains("mae, mae_randaug, mae_test"), "{message}");
    }

    #[test]
    fn rejects_sizes_out_of_range() {
        assert!(Transform::new(TransformKind::Mae, 0).is_err());
        assert!(Transform::new(TransformKind::Mae, usize::MAX).is_err());
        let transform = Transform::new(TransformKind::MaeTest, 4).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        assert!(transform.apply(RgbImage::new(0, 0), &mut rng).is_err());
        let file = crate::encode_png(&RgbImage::new(3, 3)).unwrap();
        assert!(
            transform
                .load_into(&file, Reading::default(), &mut rng, &mut [0.0; 47])
                .is_err()
        );
        assert!(
            transform
                .load_into(&file, Reading::default(), &mut rng, &mut [0.0; 48])
                .is_ok()
        );
    }

    #[test]
    fn mae_crops_cover_the_area_range_and_half_are_mirrored() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let (width, height) = (200, 160);
        let crops: Vec<CropBox> = (0..2000)
            .map(|_| random_resized_crop(width, height, 0.8, &mut rng))
            .collect();
        let areas: Vec<f64> = crops
            .iter()
            .map(|c| f64::from(c.width * c.height) / f64::from(width * height))
            .collect();
        let mean = areas.iter().sum::<f64>() / areas.len() as f64;
        // Large boxes with an extreme aspect ratio do not fit, so the mean area is a little below 0.9.
        assert!((0.86..0.92).contains(&mean), "{mean}");
        assert!(areas.iter().all(|a| (0.79..=1.0).contains(a)));
        assert!(
            crops.iter().any(|c| c.left > 0 && c.left + c.width == width),
            "right edge is reachable"
        );
        assert!(crops.iter().any(|c| c.top == 0) && crops.iter().any(|c| c.top + c.height == height));

        // An image that is dark on the left shows which results were mirrored.
        let half = RgbImage::from_fn(64, 64, |x, _| image::Rgb([if x < 32 { 0 } else { 255 }; 3]));
        let transform = Transform::new(TransformKind::Mae, 8).unwrap();
        let mirrored = (0..200)
            .filter(|&i| {
                let values = transform
                    .apply(half.clone(), &mut ChaCha8Rng::seed_from_u64(i))
                    .unwrap();
                values[0] > values[7]
            })
            .count();
        assert!((70..130).contains(&mirrored), "{mirrored} of 200");
    }

    #[test]
    fn extreme_aspect_ratios_fall_back_to_a_central_crop() {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let wide = random_resized_crop(1000, 30, 0.8, &mut rng);
        assert_eq!(
            wide,
            CropBox {
                left: 480,
                top: 0,
                width: 40,
                height: 30
            }
        );
        let tall = random_resized_crop(30, 1000, 0.8, &mut rng);
        assert_eq!(
            tall,
            CropBox {
                left: 0,
                top: 480,
                width: 30,
                height: 40
            }
        );
    }

    proptest! {
        #[test]
        fn crops_are_inside_the_image(width in 1u32..3000, height in 1u32..3000, seed in 0u64..1000) {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            for crop in [random_resized_crop(width, height, 0.8, &mut rng), central_crop(width, height)] {
                prop_assert!(crop.width >= 1 && crop.height >= 1);
                prop_assert!(crop.left + crop.width <= width && crop.top + crop.height <= height);
            }
        }

        #[test]
        fn every_transform_is_finite_and_deterministic(
            width in 1u32..40, height in 1u32..40, size in 1usize..20, seed in 0u64..1000
        ) {
            let image = RgbImage::from_fn(width, height, |x, y| image::Rgb([(x * 9) as u8, (y * 7) as u8, (x ^ y) as u8]));
            for kind in TransformKind::ALL {
                let transform = Transform::new(kind, size).unwrap();
                let once = transform.apply(image.clone(), &mut ChaCha8Rng::seed_from_u64(seed)).unwrap();
                let again = transform.apply(image.clone(), &mut ChaCha8Rng::seed_from_u64(seed)).unwrap();
                prop_assert_eq!(&once, &again);
                prop_assert!(once.iter().all(|v| v.abs() < 3.0));
            }
        }
    }
}
