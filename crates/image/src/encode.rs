//! Pictures to files, for reports and for the generated world.

use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder, RgbImage};

use crate::{ImageError, Result};

/// A picture as a PNG file.
///
/// # Errors
/// Returns [`ImageError::Encode`] for an image without pixels.
pub fn encode_png(image: &RgbImage) -> Result<Vec<u8>> {
    let mut file = Vec::new();
    PngEncoder::new(&mut file)
        .write_image(image.as_raw(), image.width(), image.height(), ExtendedColorType::Rgb8)
        .map_err(|e| refused(image, "PNG", &e))?;
    Ok(file)
}

/// A picture as a baseline JPEG file; `quality` 1 (smallest) to 100 (best).
///
/// # Errors
/// Returns [`ImageError::Quality`] for another quality, [`ImageError::Encode`] for an image without pixels or with a side above 65,535.
pub fn encode_jpeg(image: &RgbImage, quality: u8) -> Result<Vec<u8>> {
    if !(1..=100).contains(&quality) {
        return Err(ImageError::Quality(quality));
    }
    if image.width() == 0 || image.height() == 0 {
        return Err(refused(image, "JPEG", &"it has no pixels"));
    }
    let mut file = Vec::new();
    JpegEncoder::new_with_quality(&mut file, quality)
        .write_image(image.as_raw(), image.width(), image.height(), ExtendedColorType::Rgb8)
        .map_err(|e| refused(image, "JPEG", &e))?;
    Ok(file)
}

fn refused(image: &RgbImage, format: &'static str, reason: &dyn std::fmt::Display) -> ImageError {
    ImageError::Encode {
        width: image.width(),
        height: image.height(),
        format,
        reason: reason.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode;

    fn picture() -> RgbImage {
        RgbImage::from_fn(37, 21, |x, y| {
            image::Rgb([(x * 6) as u8, (y * 11) as u8, ((x + y) * 3) as u8])
        })
    }

    #[test]
    fn png_is_lossless() {
        assert_eq!(decode(&encode_png(&picture()).unwrap()).unwrap(), picture());
    }

    #[test]
    fn jpeg_is_close_and_better_with_quality() {
        let error = |quality| {
            let back = decode(&encode_jpeg(&picture(), quality).unwrap()).unwrap();
            assert_eq!(back.dimensions(), picture().dimensions());
            let sum: u64 = back
                .iter()
                .zip(picture().iter())
                .map(|(a, b)| u64::from(a.abs_diff(*b)))
                .sum();
            sum as f64 / back.len() as f64
        };
        assert!(error(95) < 3.0, "{}", error(95));
        assert!(error(95) < error(10));
    }

    #[test]
    fn impossible_requests_are_refused() {
        assert!(encode_jpeg(&picture(), 0).is_err());
        assert!(encode_jpeg(&picture(), 101).is_err());
        assert!(encode_jpeg(&RgbImage::new(0, 0), 90).is_err());
        assert!(encode_jpeg(&RgbImage::new(70_000, 1), 90).is_err());
        assert!(encode_png(&RgbImage::new(0, 3)).is_err());
    }
}
