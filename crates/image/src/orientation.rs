//! The orientation of an image file: the EXIF tag by which a camera says how it was held.
//!
//! The original ignores the tag, and so do [`decode()`] and the transforms of training.

use std::io::Cursor;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageReader, RgbImage};
use vlct_util::panics;

use crate::decode::format_of;
use crate::{Result, decode};

/// Decodes an image to RGB as [`decode()`] does, and turns it upright as its orientation tag says. A file without a readable tag is
/// upright.
///
/// # Errors
/// Returns the errors of [`decode()`].
pub fn decode_upright(bytes: &[u8]) -> Result<RgbImage> {
    let image = decode(bytes)?;
    let orientation = orientation(bytes);
    if orientation == Orientation::NoTransforms {
        return Ok(image);
    }
    let mut image = DynamicImage::ImageRgb8(image);
    image.apply_orientation(orientation);
    Ok(image.into_rgb8())
}

/// Returns the orientation of a file, which [`decode()`] accepts.
fn orientation(bytes: &[u8]) -> Orientation {
    // A panic in a decoder must not end the program. A damaged tag is ignored, as by other programs.
    let read = panics::catch(|| {
        let reader = ImageReader::with_format(Cursor::new(bytes), format_of(bytes).ok()?);
        reader.into_decoder().ok()?.orientation().ok()
    });
    read.ok().flatten().unwrap_or(Orientation::NoTransforms)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golden(name: &str) -> Vec<u8> {
        std::fs::read(vlct_golden::directories("images")[0].join(name)).unwrap()
    }

    #[test]
    fn turns_an_image_by_its_tag() {
        let stored = decode(&golden("rotated_exif.jpg")).unwrap();
        let upright = decode_upright(&golden("rotated_exif.jpg")).unwrap();
        assert_eq!(upright.dimensions(), (stored.height(), stored.width()));
        // The tag of this file says: rotate by 90 degrees clockwise.
        for (x, y, pixel) in upright.enumerate_pixels() {
            assert_eq!(stored.get_pixel(y, stored.height() - 1 - x), pixel);
        }
    }

    #[test]
    fn every_orientation_is_read_and_other_values_are_ignored() {
        let bytes = golden("rotated_exif.jpg");
        let tag = bytes.windows(4).position(|w| w == [0x01, 0x12, 0x00, 0x03]).unwrap() + 9;
        assert_eq!(bytes[tag], 6);
        let stored = decode(&bytes).unwrap();
        let mut images = Vec::new();
        for value in 0..=9 {
            let mut changed = bytes.clone();
            changed[tag] = value;
            let upright = decode_upright(&changed).unwrap();
            if (1..=8).contains(&value) {
                assert!(!images.contains(&upright), "orientation {value}");
                images.push(upright);
            } else {
                assert_eq!(upright, stored, "orientation {value}");
            }
        }
        assert_eq!(images[0], stored);
    }

    #[test]
    fn images_without_a_tag_are_unchanged() {
        for name in [
            "q90_420.jpg",
            "rgba.png",
            "palette.gif",
            "rgb.bmp",
            "rgb.tif",
            "lossy.webp",
        ] {
            let bytes = golden(name);
            assert_eq!(decode_upright(&bytes).unwrap(), decode(&bytes).unwrap(), "{name}");
        }
        assert!(decode_upright(b"<html>").is_err());
    }
}
