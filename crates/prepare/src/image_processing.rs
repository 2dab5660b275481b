//! What happens to an image on its way into a file: read, looked at, made smaller if wanted.

use image::RgbImage;

use crate::Result;
use vlct_image::{ImageError, decode, encode_jpeg, recycle, resize};

/// Making large images smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Downscale {
    /// Longest side in pixels that images may keep, at least 16.
    pub max_side: u32,
    /// JPEG quality of those that are made smaller, 1 to 100.
    pub quality: u8,
}

/// What to do with every image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ImageProcessing {
    /// Whether to decode it, so that a damaged one is noticed.
    pub validate: bool,
    /// Whether to make it smaller. Implies decoding.
    pub downscale: Option<Downscale>,
}

impl ImageProcessing {
    /// The bytes to store for an image file of these bytes: the same, unless it is made smaller.
    ///
    /// # Errors
    /// [`DataError::ListedImage`] if it is looked at and cannot be decoded.
    pub fn apply(&self, bytes: Vec<u8>) -> Result<Vec<u8>> {
        if !self.validate && self.downscale.is_none() {
            return Ok(bytes);
        }
        let image = decode(&bytes)?;
        let treated = match self.downscale {
            Some(downscale) if image.width().max(image.height()) > downscale.max_side => downscaled(&image, downscale),
            _ => Ok(bytes),
        };
        recycle(image);
        treated
    }
}

/// The image with its longest side at the limit, as a JPEG file.
fn downscaled(image: &RgbImage, downscale: Downscale) -> Result<Vec<u8>> {
    let (width, height) = image.dimensions();
    let factor = f64::from(downscale.max_side) / f64::from(width.max(height));
    let side = |pixels: u32| ((f64::from(pixels) * factor).round() as u32).clamp(1, downscale.max_side);
    let small = resize(image, side(width), side(height))?;
    encode_jpeg(&small, downscale.quality).map_err(|e| ImageError::Decode(e.to_string()).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DataError;
    use vlct_image::encode_png;

    #[test]
    fn large_pictures_become_jpegs_with_the_longest_side_at_the_limit_and_small_ones_stay() {
        let image = RgbImage::from_fn(200, 90, |x, y| image::Rgb([x as u8, y as u8, 40]));
        let file = encode_png(&image).unwrap();
        let downscale = |max_side| ImageProcessing {
            validate: false,
            downscale: Some(Downscale { max_side, quality: 90 }),
        };
        assert_eq!(downscale(200).apply(file.clone()).unwrap(), file);
        let small = downscale(100).apply(file).unwrap();
        assert!(small.starts_with(&[0xff, 0xd8]));
        assert_eq!(decode(&small).unwrap().dimensions(), (100, 45));
    }

    #[test]
    fn damage_is_noticed_if_it_is_looked_for() {
        let damaged = b"not an image".to_vec();
        let look = ImageProcessing {
            validate: true,
            downscale: None,
        };
        assert!(matches!(
            look.apply(damaged.clone()),
            Err(DataError::Image(ImageError::Decode(_)))
        ));
        assert_eq!(ImageProcessing::default().apply(damaged.clone()).unwrap(), damaged);
    }
}
