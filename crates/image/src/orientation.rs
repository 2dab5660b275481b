//! The orientation of an image file: the EXIF tag by which a camera says how it was held.
//!
//! The original ignores the tag, and so does the default [`Reading`](crate::Reading).

use std::io::Cursor;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, RgbImage};
use vlct_util::panics;

/// Turns an image as the tag of its file says. A file without a readable tag is upright.
pub(super) fn turn_upright(image: RgbImage, bytes: &[u8], format: ImageFormat) -> RgbImage {
    let orientation = orientation(bytes, format);
    if orientation == Orientation::NoTransforms {
        return image;
    }
    let mut image = DynamicImage::ImageRgb8(image);
    image.apply_orientation(orientation);
    image.into_rgb8()
}

/// Returns the orientation of a file that can be decoded.
fn orientation(bytes: &[u8], format: ImageFormat) -> Orientation {
    // A panic in a decoder must not end the program. A damaged tag is ignored, as by other programs.
    let read = panics::catch(|| {
        let reader = ImageReader::with_format(Cursor::new(bytes), format);
        reader.into_decoder().ok()?.orientation().ok()
    });
    read.ok().flatten().unwrap_or(Orientation::NoTransforms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Orientation as Applied, Reading, Result, decode, decode_with};

    fn golden(name: &str) -> Vec<u8> {
        std::fs::read(vlct_golden::directories("images")[0].join(name)).unwrap()
    }

    fn decode_upright(bytes: &[u8]) -> Result<RgbImage> {
        let reading = Reading {
            orientation: Applied::Upright,
            ..Reading::default()
        };
        Ok(decode_with(bytes, reading)?.image)
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
