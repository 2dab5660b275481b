//! Validation and downscaling of images before they are written.

use image::RgbImage;

use crate::Result;
use vlct_image::{Decoded, Reading, decode_with, encode_jpeg, recycle, resize};

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
    /// How images become pixels, which is recorded in the files; `None` for published datasets, whose files record nothing.
    pub reading: Option<Reading>,
}

/// An image to store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessedImage {
    /// The bytes of the file.
    pub bytes: Vec<u8>,
    /// Whether a pixel of the image is not opaque; false if the image is not decoded.
    pub is_transparent: bool,
}

impl ImageProcessing {
    /// Returns what to store for an image file: the same bytes, or those of the downscaled image.
    ///
    /// # Errors
    /// Returns [`PrepareError::Image`](crate::PrepareError::Image) if the image must be decoded and is damaged.
    pub fn apply(&self, bytes: Vec<u8>) -> Result<ProcessedImage> {
        if !self.validate && self.downscale.is_none() {
            return Ok(ProcessedImage {
                bytes,
                is_transparent: false,
            });
        }
        // A downscaled image is stored as pixels, so it is stored with its background and upright.
        let Decoded { image, transparent } = decode_with(&bytes, self.reading.unwrap_or_default())?;
        let processed = match self.downscale {
            Some(downscale) if image.width().max(image.height()) > downscale.max_side => {
                downscale_to_jpeg(&image, downscale)
            }
            _ => Ok(bytes),
        };
        recycle(image);
        Ok(ProcessedImage {
            bytes: processed?,
            is_transparent: transparent,
        })
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
    use vlct_image::{ImageError, decode, encode_png};

    fn opaque(bytes: Vec<u8>) -> ProcessedImage {
        ProcessedImage {
            bytes,
            is_transparent: false,
        }
    }

    #[test]
    fn downscales_large_images_only() {
        let image = RgbImage::from_fn(200, 90, |x, y| image::Rgb([x as u8, y as u8, 40]));
        let file = encode_png(&image).unwrap();
        let downscaling_to = |max_side| ImageProcessing {
            downscale: Some(Downscale { max_side, quality: 90 }),
            ..ImageProcessing::default()
        };
        assert_eq!(downscaling_to(200).apply(file.clone()).unwrap(), opaque(file.clone()));
        let small = downscaling_to(100).apply(file).unwrap().bytes;
        assert!(small.starts_with(&[0xff, 0xd8]));
        assert_eq!(decode(&small).unwrap().dimensions(), (100, 45));
    }

    #[test]
    fn transparent_images_are_counted_and_downscaled_on_their_background() {
        let red = image::RgbaImage::from_pixel(64, 64, image::Rgba([255, 0, 0, 0]));
        let mut file = std::io::Cursor::new(Vec::new());
        red.write_to(&mut file, image::ImageFormat::Png).unwrap();
        let file = file.into_inner();
        let processing = |reading| ImageProcessing {
            validate: true,
            downscale: Some(Downscale {
                max_side: 16,
                quality: 90,
            }),
            reading,
        };
        let of = |reading| processing(reading).apply(file.clone()).unwrap();
        let (published, custom) = (of(None), of(Some(Reading::CUSTOM)));
        assert!(published.is_transparent && custom.is_transparent);
        let colour = |processed: &ProcessedImage| decode(&processed.bytes).unwrap().get_pixel(8, 8).0;
        assert_eq!(colour(&published), [254, 0, 0]);
        assert_eq!(colour(&custom), [255; 3]);
    }

    #[test]
    fn validation_detects_damage() {
        let damaged = b"not an image".to_vec();
        let processing = ImageProcessing {
            validate: true,
            ..ImageProcessing::default()
        };
        assert!(matches!(
            processing.apply(damaged.clone()),
            Err(PrepareError::Image(ImageError::Decode(_)))
        ));
        assert_eq!(
            ImageProcessing::default().apply(damaged.clone()).unwrap(),
            opaque(damaged)
        );
    }
}
