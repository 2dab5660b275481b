//! Encoding of images, for reports and for synthetic data.

use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder, RgbImage, RgbaImage};

use crate::{ImageError, Result};

/// Encodes an image as PNG.
///
/// # Errors
/// Returns [`ImageError::Encode`] for an image without pixels.
pub fn encode_png(image: &RgbImage) -> Result<Vec<u8>> {
    let mut file = Vec::new();
    PngEncoder::new(&mut file)
        .write_image(image.as_raw(), image.width(), image.height(), ExtendedColorType::Rgb8)
        .map_err(|e| encode_error(image.dimensions(), "PNG", &e))?;
    Ok(file)
}

/// Encodes an image with transparency as PNG.
///
/// # Errors
/// Returns [`ImageError::Encode`] for an image without pixels.
pub fn encode_png_with_alpha(image: &RgbaImage) -> Result<Vec<u8>> {
    let mut file = Vec::new();
    PngEncoder::new(&mut file)
        .write_image(image.as_raw(), image.width(), image.height(), ExtendedColorType::Rgba8)
        .map_err(|e| encode_error(image.dimensions(), "PNG", &e))?;
    Ok(file)
}

/// Encodes an image as baseline JPEG; `quality` is 1 (smallest) to 100 (best).
///
/// # Errors
/// Returns [`ImageError::Quality`] if `quality` is not in 1..=100, and [`ImageError::Encode`] for an image without pixels or with a
/// side above 65,535.
pub fn encode_jpeg(image: &RgbImage, quality: u8) -> Result<Vec<u8>> {
    if !(1..=100).contains(&quality) {
        return Err(ImageError::Quality(quality));
    }
    if image.width() == 0 || image.height() == 0 {
        return Err(encode_error(image.dimensions(), "JPEG", &"it has no pixels"));
    }
    let mut file = Vec::new();
    JpegEncoder::new_with_quality(&mut file, quality)
        .write_image(image.as_raw(), image.width(), image.height(), ExtendedColorType::Rgb8)
        .map_err(|e| encode_error(image.dimensions(), "JPEG", &e))?;
    Ok(file)
}

fn encode_error((width, height): (u32, u32), format: &'static str, reason: &dyn std::fmt::Display) -> ImageError {
    ImageError::Encode {
        width,
        height,
        format,
        reason: reason.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode;

    fn image() -> RgbImage {
        RgbImage::from_fn(37, 21, |x, y| {
            image::Rgb([(x * 6) as u8, (y * 11) as u8, ((x + y) * 3) as u8])
        })
    }

    #[test]
    fn png_is_lossless() {
        assert_eq!(decode(&encode_png(&image()).unwrap()).unwrap(), image());
    }

    #[test]
    fn png_keeps_transparency() {
        let image = RgbaImage::from_fn(5, 3, |x, y| image::Rgba([x as u8, y as u8, 7, (x * y) as u8]));
        let file = encode_png_with_alpha(&image).unwrap();
        let read = image::load_from_memory(&file).unwrap();
        assert_eq!(read.to_rgba8(), image);
        assert!(encode_png_with_alpha(&RgbaImage::new(0, 3)).is_err());
    }

    #[test]
    fn jpeg_error_decreases_with_quality() {
        let error = |quality| {
            let back = decode(&encode_jpeg(&image(), quality).unwrap()).unwrap();
            assert_eq!(back.dimensions(), image().dimensions());
            let sum: u64 = back
                .iter()
                .zip(image().iter())
                .map(|(a, b)| u64::from(a.abs_diff(*b)))
                .sum();
            sum as f64 / back.len() as f64
        };
        assert!(error(95) < 3.0, "{}", error(95));
        assert!(error(95) < error(10));
    }

    #[test]
    fn rejects_invalid_sizes_and_qualities() {
        assert!(encode_jpeg(&image(), 0).is_err());
        assert!(encode_jpeg(&image(), 101).is_err());
        assert!(encode_jpeg(&RgbImage::new(0, 0), 90).is_err());
        assert!(encode_jpeg(&RgbImage::new(70_000, 1), 90).is_err());
        assert!(encode_png(&RgbImage::new(0, 3)).is_err());
    }
}
