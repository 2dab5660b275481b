//! What happens to a picture on its way into a file: read, looked at, made smaller if wanted.

use image::RgbImage;

use crate::Result;
use vlct_image::{ImageError, decode, encode_jpeg, recycle, resize};

/// Making large pictures smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shrink {
    /// Longest side in pixels that pictures may keep, at least 16.
    pub max_side: u32,
    /// JPEG quality of those that are made smaller, 1 to 100.
    pub quality: u8,
}

/// What to do with every picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Treatment {
    /// Whether to decode it, so that a damaged one is noticed.
    pub validate: bool,
    /// Whether to make it smaller. Implies decoding.
    pub shrink: Option<Shrink>,
}

impl Treatment {
    /// The bytes to store for a picture file of these bytes: the same, unless it is made smaller.
    ///
    /// # Errors
    /// [`DataError::Picture`] if it is looked at and cannot be decoded.
    pub fn apply(&self, bytes: Vec<u8>) -> Result<Vec<u8>> {
        if !self.validate && self.shrink.is_none() {
            return Ok(bytes);
        }
        let image = decode(&bytes)?;
        let treated = match self.shrink {
            Some(shrink) if image.width().max(image.height()) > shrink.max_side => shrunk(&image, shrink),
            _ => Ok(bytes),
        };
        recycle(image);
        treated
    }
}

/// The picture with its longest side at the limit, as a JPEG file.
fn shrunk(image: &RgbImage, shrink: Shrink) -> Result<Vec<u8>> {
    let (width, height) = image.dimensions();
    let factor = f64::from(shrink.max_side) / f64::from(width.max(height));
    let side = |pixels: u32| ((f64::from(pixels) * factor).round() as u32).clamp(1, shrink.max_side);
    let small = resize(image, side(width), side(height))?;
    encode_jpeg(&small, shrink.quality).map_err(|e| ImageError::Decode(e.to_string()).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DataError;
    use vlct_image::encode_png;

    #[test]
    fn large_pictures_become_jpegs_with_the_longest_side_at_the_limit_and_small_ones_stay() {
        let picture = RgbImage::from_fn(200, 90, |x, y| image::Rgb([x as u8, y as u8, 40]));
        let file = encode_png(&picture).unwrap();
        let shrink = |max_side| Treatment {
            validate: false,
            shrink: Some(Shrink { max_side, quality: 90 }),
        };
        assert_eq!(shrink(200).apply(file.clone()).unwrap(), file);
        let small = shrink(100).apply(file).unwrap();
        assert!(small.starts_with(&[0xff, 0xd8]));
        assert_eq!(decode(&small).unwrap().dimensions(), (100, 45));
    }

    #[test]
    fn damage_is_noticed_if_it_is_looked_for() {
        let damaged = b"not a picture".to_vec();
        let look = Treatment {
            validate: true,
            shrink: None,
        };
        assert!(matches!(
            look.apply(damaged.clone()),
            Err(DataError::Image(ImageError::Decode(_)))
        ));
        assert_eq!(Treatment::default().apply(damaged.clone()).unwrap(), damaged);
    }
}
