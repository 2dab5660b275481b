//! Random erasing (arXiv 1708.04896) as in timm 0.3.2: boxes of a normalised image are overwritten with noise or zeros.

use std::fmt;
use std::str::FromStr;

use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use super::normal::fill_normal;
use crate::resize::CropBox;
use crate::{ImageError, Result};

/// What erased pixels become.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErasingMode {
    /// `pixel`: standard normal noise, independent for each value.
    #[default]
    Pixel,
    /// `rand`: one standard normal value per channel.
    Rand,
    /// `const`: 0, the mean colour.
    Const,
}

impl fmt::Display for ErasingMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pixel => "pixel",
            Self::Rand => "rand",
            Self::Const => "const",
        })
    }
}

impl FromStr for ErasingMode {
    type Err = ImageError;

    /// # Errors
    /// Returns [`ImageError::Erasing`] if `text` is no mode.
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "pixel" => Ok(Self::Pixel),
            "rand" => Ok(Self::Rand),
            "const" => Ok(Self::Const),
            _ => Err(ImageError::Erasing(format!(
                "unknown mode {text:?}: use pixel, rand or const"
            ))),
        }
    }
}

/// Smallest area of the boxes of an image together, as a fraction of its area.
const MIN_AREA: f64 = 0.02;
/// Largest area of the boxes of an image together, as a fraction of its area.
const MAX_AREA: f64 = 1.0 / 3.0;
/// Smallest aspect ratio (height / width) of a box; the largest is its inverse.
const MIN_ASPECT: f64 = 0.3;
/// Draws of a box, the first of which that fits is erased.
const DRAWS: usize = 10;
/// Maximum number of boxes.
const MAX_COUNT: u32 = 100;

/// Random erasing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Fields", into = "Fields")]
pub struct Erasing {
    probability: f64,
    mode: ErasingMode,
    count: u32,
}

/// The serialised form of [`Erasing`].
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    probability: f64,
    mode: ErasingMode,
    count: u32,
}

impl From<Erasing> for Fields {
    fn from(
        Erasing {
            probability,
            mode,
            count,
        }: Erasing,
    ) -> Self {
        Self {
            probability,
            mode,
            count,
        }
    }
}

impl TryFrom<Fields> for Erasing {
    type Error = ImageError;

    fn try_from(
        Fields {
            probability,
            mode,
            count,
        }: Fields,
    ) -> Result<Self> {
        Self::new(probability, mode, count)
    }
}

impl Erasing {
    /// Creates random erasing of an image with `probability` (0..=1). The number of boxes is uniform in 1..=`count`.
    ///
    /// # Errors
    /// Returns [`ImageError::Erasing`] if `probability` is not in 0..=1 or `count` not in 1..=100.
    pub fn new(probability: f64, mode: ErasingMode, count: u32) -> Result<Self> {
        if !(0.0..=1.0).contains(&probability) {
            return Err(ImageError::Erasing(format!(
                "probability {probability} is not in 0..=1"
            )));
        }
        if !(1..=MAX_COUNT).contains(&count) {
            return Err(ImageError::Erasing(format!("{count} boxes are not in 1..={MAX_COUNT}")));
        }
        Ok(Self {
            probability,
            mode,
            count,
        })
    }

    /// Draws the boxes to be erased in an image of `width` × `height` pixels; a box of which no draw is smaller than the image is left
    /// out.
    pub fn draw(&self, width: u32, height: u32, rng: &mut impl Rng) -> Vec<CropBox> {
        if !rng.random_bool(self.probability) {
            return Vec::new();
        }
        let count = match self.count {
            1 => 1,
            most => rng.random_range(1..=most),
        };
        (0..count).filter_map(|_| draw_box(width, height, count, rng)).collect()
    }

    /// Erases random boxes of normalised planes `[3, size, size]`; values beyond the last complete row of a plane stay unchanged.
    pub fn erase(&self, values: &mut [f32], size: u32, rng: &mut impl Rng) {
        let side = size as usize;
        for area in self.draw(size, size, rng) {
            let columns = area.left as usize..(area.left + area.width) as usize;
            for plane in values.chunks_exact_mut(side * side) {
                let colour = match self.mode {
                    ErasingMode::Rand => super::normal::normal_pair(rng)[0] as f32,
                    ErasingMode::Pixel | ErasingMode::Const => 0.0,
                };
                let rows = plane.chunks_exact_mut(side).skip(area.top as usize);
                for row in rows.take(area.height as usize) {
                    match self.mode {
                        ErasingMode::Pixel => fill_normal(&mut row[columns.clone()], rng),
                        ErasingMode::Rand | ErasingMode::Const => row[columns.clone()].fill(colour),
                    }
                }
            }
        }
    }
}

/// Draws one of `count` boxes.
fn draw_box(width: u32, height: u32, count: u32, rng: &mut impl Rng) -> Option<CropBox> {
    let area = f64::from(width) * f64::from(height);
    for _ in 0..DRAWS {
        let target = (MIN_AREA + (MAX_AREA - MIN_AREA) * rng.random::<f64>()) * area / f64::from(count);
        let aspect = (MIN_ASPECT.ln() * (1.0 - 2.0 * rng.random::<f64>())).exp();
        let h = (target * aspect).sqrt().round_ties_even() as u32;
        let w = (target / aspect).sqrt().round_ties_even() as u32;
        if w < width && h < height {
            return Some(CropBox {
                top: rng.random_range(0..=height - h),
                left: rng.random_range(0..=width - w),
                width: w,
                height: h,
            });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    fn rng(seed: u64) -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(seed)
    }

    #[test]
    fn boxes_have_the_published_probability_areas_and_aspect_ratios() {
        let erasing = Erasing::new(0.25, ErasingMode::Pixel, 1).unwrap();
        let mut rng = rng(1);
        let boxes: Vec<CropBox> = (0..8000).flat_map(|_| erasing.draw(224, 224, &mut rng)).collect();
        assert!((1850..2150).contains(&boxes.len()), "{} of 8000", boxes.len());
        let areas: Vec<f64> = boxes
            .iter()
            .map(|b| f64::from(b.width * b.height) / (224.0 * 224.0))
            .collect();
        assert!(areas.iter().all(|area| (0.019..0.34).contains(area)));
        let mean = areas.iter().sum::<f64>() / areas.len() as f64;
        // (0.02 + 1/3) / 2
        assert!((mean - 0.1767).abs() < 0.008, "{mean}");
        let aspects = boxes.iter().map(|b| (f64::from(b.height) / f64::from(b.width)).ln());
        let (low, high) = aspects
            .clone()
            .fold((0f64, 0f64), |(low, high), a| (low.min(a), high.max(a)));
        assert!(low < -1.15 && high > 1.15 && low > -1.25 && high < 1.25, "{low} {high}");
        let mean = aspects.sum::<f64>() / boxes.len() as f64;
        assert!(mean.abs() < 0.06, "{mean}");
        assert!(boxes.iter().any(|b| b.left == 0) && boxes.iter().any(|b| b.left + b.width == 224));
        assert!(boxes.iter().any(|b| b.top == 0) && boxes.iter().any(|b| b.top + b.height == 224));
    }

    #[test]
    fn the_number_of_boxes_is_uniform_and_divides_the_area() {
        let erasing = Erasing::new(1.0, ErasingMode::Const, 3).unwrap();
        let (mut rng, mut counts) = (rng(2), [0; 4]);
        for _ in 0..3000 {
            let boxes = erasing.draw(100, 100, &mut rng);
            counts[boxes.len()] += 1;
            let most = 10_000 / 3 / boxes.len() as u32 + 100;
            assert!(boxes.iter().all(|b| b.width * b.height <= most));
        }
        assert_eq!(counts[0], 0);
        assert!(
            counts[1..].iter().all(|count| (900..1100).contains(count)),
            "{counts:?}"
        );
    }

    #[test]
    fn each_mode_fills_its_box() {
        let size = 32usize;
        for mode in [ErasingMode::Pixel, ErasingMode::Rand, ErasingMode::Const] {
            assert_eq!(mode.to_string().parse::<ErasingMode>().unwrap(), mode);
            let erasing = Erasing::new(1.0, mode, 1).unwrap();
            let mut values = vec![9.0; 3 * size * size];
            erasing.erase(&mut values, size as u32, &mut rng(3));
            let area = erasing.draw(size as u32, size as u32, &mut rng(3))[0];
            let is_inside = |x: usize, y: usize| {
                (area.left..area.left + area.width).contains(&(x as u32))
                    && (area.top..area.top + area.height).contains(&(y as u32))
            };
            for plane in values.chunks(size * size) {
                let (inside, outside): (Vec<_>, Vec<_>) = plane
                    .iter()
                    .enumerate()
                    .partition(|(i, _)| is_inside(i % size, i / size));
                assert!(outside.iter().all(|(_, value)| **value == 9.0));
                let mut erased: Vec<f32> = inside.iter().map(|(_, value)| **value).collect();
                assert_eq!(erased.len() as u32, area.width * area.height);
                erased.sort_by(f32::total_cmp);
                erased.dedup();
                match mode {
                    ErasingMode::Pixel => assert!(erased.len() + 2 > inside.len()),
                    ErasingMode::Rand => assert!(erased.len() == 1 && erased[0] != 0.0),
                    ErasingMode::Const => assert_eq!(erased, [0.0]),
                }
            }
        }
    }

    #[test]
    fn wrong_settings_are_errors_of_one_line() {
        for (probability, count) in [(-0.1, 1), (1.1, 1), (f64::NAN, 1), (0.5, 0), (0.5, 101)] {
            let message = Erasing::new(probability, ErasingMode::Pixel, count)
                .unwrap_err()
                .to_string();
            assert!(
                message.starts_with("random erasing: ") && !message.contains('\n'),
                "{message}"
            );
        }
        assert!("noise".parse::<ErasingMode>().is_err());
        let text = r#"{"probability":0.25,"mode":"rand","count":2}"#;
        let erasing: Erasing = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&erasing).unwrap(), text);
        assert!(serde_json::from_str::<Erasing>(&text.replace("0.25", "2")).is_err());
    }

    proptest! {
        #[test]
        fn boxes_are_smaller_than_the_image(width in 1u32..60, height in 1u32..60, count in 1u32..5, seed: u64) {
            let erasing = Erasing::new(1.0, ErasingMode::Pixel, count).unwrap();
            for area in erasing.draw(width, height, &mut rng(seed)) {
                prop_assert!(area.width < width && area.height < height);
                prop_assert!(area.left + area.width <= width && area.top + area.height <= height);
            }
            let mut values = vec![0.0; 3 * (width * width) as usize];
            erasing.erase(&mut values, width, &mut rng(seed));
        }
    }
}
