//! Normalisation of pixels, `(pixel / 255 - mean) / std` per channel, and its inverse.

use image::RgbImage;
use serde::{Deserialize, Serialize};
use vlct_simd::multiversion;

use super::resize::LevelMap;
use crate::{ImageError, Result, memory};

/// Mean and standard deviation of red, green and blue, where 1 is full brightness.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Normalisation {
    /// The mean, which is subtracted.
    pub mean: [f32; 3],
    /// The standard deviation, by which the difference is divided.
    pub deviation: [f32; 3],
}

impl Normalisation {
    /// The statistics of ImageNet, which MAE and VLC use.
    pub const IMAGENET: Self = Self {
        mean: [0.485, 0.456, 0.406],
        deviation: [0.229, 0.224, 0.225],
    };
    /// From −1 to 1, which ViLT uses.
    pub const SYMMETRIC: Self = Self {
        mean: [0.5; 3],
        deviation: [0.5; 3],
    };

    /// Returns the [`LevelMap`] with which a resize normalises its result.
    pub(super) fn level_map(&self) -> LevelMap {
        let Self { mean, deviation } = self;
        LevelMap {
            scale: deviation.map(|deviation| (1.0 / (255.0 * f64::from(deviation))) as f32),
            offset: std::array::from_fn(|c| (-f64::from(mean[c]) / f64::from(deviation[c])) as f32),
        }
    }

    /// Normalises an image and writes its values to `out` `[3, height, width]`, with the bits of a resize that normalises its result.
    pub(super) fn normalise_into(&self, image: &RgbImage, out: &mut [f32]) {
        let pixels = image.as_chunks::<3>().0;
        let LevelMap { scale, offset } = self.level_map();
        for (c, plane) in out.chunks_exact_mut(pixels.len().max(1)).take(3).enumerate() {
            map_channel(pixels, c, scale[c], offset[c], plane);
        }
    }

    /// Converts normalised planes `[3, height, width]` to an image. Values are rounded and clipped to 0..=255, because reconstructions
    /// exceed the range of images; NaN becomes 0.
    ///
    /// # Errors
    /// Returns [`ImageError::Length`] if `values` does not have `3 · height · width` elements, and [`ImageError::Size`] if a side is above
    /// [`MAX_SIDE`](crate::MAX_SIDE).
    pub fn denormalise(&self, values: &[f32], [height, width]: [usize; 2]) -> Result<RgbImage> {
        let too_large = || ImageError::Size {
            size: height.max(width),
            max: crate::limits::MAX_SIDE as usize,
        };
        let side = |size: usize| {
            let side = u32::try_from(size).ok().filter(|side| *side <= crate::limits::MAX_SIDE);
            side.ok_or_else(too_large)
        };
        let (rows, columns) = (side(height)?, side(width)?);
        let expected = 3 * u64::from(rows) * u64::from(columns);
        if values.len() as u64 != expected {
            return Err(ImageError::Length {
                width,
                height,
                expected,
                found: values.len(),
            });
        }
        let mut pixels = vec![0u8; values.len()];
        for (channel, plane) in values.chunks_exact((height * width).max(1)).enumerate() {
            let (mean, deviation) = (self.mean[channel], self.deviation[channel]);
            for (pixel, value) in pixels[channel..].iter_mut().step_by(3).zip(plane) {
                // `as` clips to the range of u8 and sends NaN to 0.
                *pixel = ((value * deviation + mean) * 255.0).round() as u8;
            }
        }
        RgbImage::from_raw(columns, rows, pixels).ok_or_else(too_large)
    }
}

multiversion! {
    fn map_channel(pixels: &[[u8; 3]], channel: usize, scale: f32, offset: f32, out: &mut [f32]) {
        for (value, pixel) in out.iter_mut().zip(pixels) {
            *value = f32::from(pixel[channel]) * scale + offset;
        }
    }
}

/// Converts planes `[3, size, size]` of levels, which are whole numbers in 0..=255, to an image in recycled memory.
pub(super) fn from_levels(planes: &[f32], size: u32) -> RgbImage {
    let mut pixels = memory::take(planes.len());
    let (red, rest) = planes.split_at(planes.len() / 3);
    let (green, blue) = rest.split_at(red.len());
    interleave(red, green, blue, pixels.as_chunks_mut::<3>().0);
    RgbImage::from_raw(size, size, pixels).unwrap_or_default()
}

multiversion! {
    fn interleave(red: &[f32], green: &[f32], blue: &[f32], out: &mut [[u8; 3]]) {
        // Adding 2^23 moves the integer into the low byte of the mantissa. A saturating conversion (`as u8`) does not vectorise.
        const TWO_TO_23: f32 = (1 << 23) as f32;
        let level = |value: &f32| (value + TWO_TO_23).to_bits() as u8;
        for (((pixel, red), green), blue) in out.iter_mut().zip(red).zip(green).zip(blue) {
            *pixel = [level(red), level(green), level(blue)];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns three normalised planes, each with all 256 levels.
    fn all_levels() -> Vec<f32> {
        let LevelMap { scale, offset } = Normalisation::IMAGENET.level_map();
        let plane = |c: usize| (0..256).map(move |level| level as f32 * scale[c] + offset[c]);
        (0..3).flat_map(plane).collect()
    }

    #[test]
    fn denormalise_inverts_normalise() {
        let image = Normalisation::IMAGENET.denormalise(&all_levels(), [16, 16]).unwrap();
        for (level, pixel) in image.pixels().enumerate() {
            assert_eq!(pixel.0, [level as u8; 3]);
        }
    }

    #[test]
    fn levels_normalise_by_imagenet_statistics() {
        let Normalisation { mean, deviation } = Normalisation::IMAGENET;
        let want: Vec<f32> = (0..768)
            .map(|i| ((i % 256) as f32 / 255.0 - mean[i / 256]) / deviation[i / 256])
            .collect();
        vlct_golden::assert_within("levels", &all_levels(), &want, 1e-6);
    }

    #[test]
    fn images_become_planes_of_the_bits_of_a_resize_and_back() {
        let levels: Vec<f32> = (0..768).map(|i| (i % 256) as f32).collect();
        let image = from_levels(&levels, 16);
        assert!(
            image
                .pixels()
                .enumerate()
                .all(|(level, pixel)| pixel.0 == [level as u8; 3])
        );
        let mut planes = vec![0.0; 768];
        Normalisation::IMAGENET.normalise_into(&image, &mut planes);
        assert_eq!(planes, all_levels());
    }

    #[test]
    fn clips_values_out_of_range_and_rejects_wrong_lengths() {
        let denormalise = |values: &[f32], size| Normalisation::SYMMETRIC.denormalise(values, size);
        let image = denormalise(&[f32::NAN, 1e9, -1e9], [1, 1]).unwrap();
        assert_eq!(image.as_raw(), &[0, 255, 0]);
        let image = denormalise(&[-1.0, 1.0, 0.0, 0.5, -2.0, 1.0], [1, 2]).unwrap();
        assert_eq!(
            (image.dimensions(), image.as_raw().as_slice()),
            ((2, 1), &[0, 128, 0, 255, 191, 255][..])
        );
        assert!(denormalise(&[0.0; 5], [1, 1]).is_err());
        assert!(denormalise(&[], [usize::MAX, 1]).is_err());
    }
}
