//! Validation and downscaling of images before they are written.

use image::RgbImage;

use crate::Result;
use vlct_image::{decode, encode_jpeg, recycle, resize};

/// Downscaling of large images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Downscale {
    /// Longest side in pixels, at least 16. Images within this limit are stored unchanged.
    pub max_side: u32,
    /// JPEG quality of downscaled images, 1 to 100.
    pub quality: u8,
}

/// The processing of every image before it is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ImageProcessing {
    /// Whether to decode images, so that damage is detected.
    pub validate: bool,
    /// The limit of the size of images; `None` for no limit. A limit requires decoding.
    pub downscale: Option<Downscale>,
}

impl ImageProcessing {
    /// Returns the bytes to store for an image file: the same bytes, or those of the downscaled image.
    ///
    /// # Errors
    /// Returns [`PrepareError::Image`](crate::PrepareError::Image) if the image must be decoded and is damaged.
    pub fn apply(&self, bytes: Vec<u8>) -> Result<Vec<u8>> {
        if !self.validate && self.downscale.is_none() {
            return Ok(bytes);
        }
        let image = decode(&bytes)?;
        let processed = match self.downscale {
            Some(downscale) if image.width().max(image.height()) > downscale.max_side => {
                downscale_to_jpeg(&image, downscale)
            }
            _ => Ok(bytes),
        };
        recycle(image);
        processed
    }
}

/// Returns a JPEG file of the image, downscaled so that its longest side has `max_side` pixels.
fn downscale_to_jpeg(image: &RgbImage, downscale: Downscale) -> Result<Vec<u8>> {
    let (width, height) = image.dimensions();
    let factor = f64::from(downscale.max_side) / f64::from(width.max(height));
    let side = |pixels: u32| ((f64::from(pixels) * factor).round() as u32).clamp(1, downscale.max_side);
    let small = resize(image, side(width), side(height))?;
    Ok(encode_jpeg(&small, downscale.quality)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PrepareError;
    use vlct_image::{ImageError, encode_png};

    #[test]
    fn downscales_large_images_only() {
        let image = RgbImage::from_fn(200, 90, |x, y| image::Rgb([x as u8, y as u8, 40]));
        let file = encode_png(&image).unwrap();
        let downscaling_to = |max_side| ImageProcessing {
            validate: false,
            downscale: Some(Downscale { max_side, quality: 90 }),
        };
        assert_eq!(downscaling_to(200).apply(file.clone()).unwrap(), file);
        let small = downscaling_to(100).apply(file).unwrap();
        assert!(small.starts_with(&[0xff, 0xd8]));
        assert_eq!(decode(&small).unwrap().dimensions(), (100, 45));
    }

    #[test]
    fn validation_detects_damage() {
        let damaged = b"not an image".to_vec();
        let processing = ImageProcessing {
            validate: true,
            downscale: None,
        };
        assert!(matches!(
            processing.apply(damaged.clone()),
            Err(PrepareError::Image(ImageError::Decode(_)))
        ));
        assert_eq!(ImageProcessing::default().apply(damaged.clone()).unwrap(), damaged);
    }
}
