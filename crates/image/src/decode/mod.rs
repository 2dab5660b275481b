//! Decoding of image files to RGB, like Pillow's `Image.open(…).convert("RGB")`. Lossy formats may differ from Pillow by about one level.
//!
//! The formats are JPEG (baseline and progressive; grey, colour, CMYK and YCCK), PNG, GIF (first frame), BMP, TIFF (first page),
//! WebP (first frame), PPM, PGM and PBM. JPEG with arithmetic coding and TIFF with a palette or floating-point pixels are not supported.
//! By default, transparency is dropped, not blended, and the orientation tag is not applied ([`Reading`]); colour profiles are
//! ignored.
//!
//! Input is untrusted: sizes are checked before memory is allocated, a truncated file is an error, and a panic of a decoder is
//! caught.

use image::metadata::Orientation as Turn;
use image::{DynamicImage, ImageFormat, RgbImage};
use vlct_util::panics;

use crate::limits::{MAX_PIXELS, MAX_SIDE};
use crate::{ImageError, Orientation, Reading, Result};

mod bmp;
mod convert;
mod fault;
mod foreign;
mod gif;
mod jpeg;
mod png;
mod pnm;
mod samples;
mod tiff;
mod webp;

use fault::{Fault, damaged, unsupported};
pub(crate) use jpeg::segments as jpeg_segments;

/// Maximum memory of a decoder in bytes: [`MAX_PIXELS`] pixels of four 16-bit channels.
const MAX_ALLOCATION: u64 = 8 * MAX_PIXELS;

/// A decoded image file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// The image.
    pub image: RgbImage,
    /// Whether a pixel of the file is not opaque.
    pub transparent: bool,
}

/// Decodes an image to RGB with the default [`Reading`], that of the published models.
///
/// # Errors
/// Returns [`ImageError::Decode`] if the bytes are empty, damaged, truncated or no image, [`ImageError::Unsupported`] if they are of a
/// format or layout that this crate does not read, and [`ImageError::TooLarge`] if the image has more than [`MAX_PIXELS`] pixels or a
/// side above [`MAX_SIDE`].
pub fn decode(bytes: &[u8]) -> Result<RgbImage> {
    Ok(decode_with(bytes, Reading::default())?.image)
}

/// Decodes an image to RGB.
///
/// # Errors
/// Returns the errors of [`decode`].
pub fn decode_with(bytes: &[u8], reading: Reading) -> Result<Decoded> {
    let format = format_of(bytes)?;
    // A panic in a decoder must not end a training run.
    let decoded =
        panics::catch(|| decode_as(bytes, format, reading)).unwrap_or_else(|_| Err(unsupported("the decoder failed")));
    decoded.map_err(|fault| fault.of(format))
}

/// Detects the format from the first bytes of a file; a few dozen bytes suffice.
///
/// # Errors
/// Returns [`ImageError::Decode`] if `start` is empty or no image, and [`ImageError::Unsupported`] if the format is not supported.
pub(super) fn format_of(start: &[u8]) -> Result<ImageFormat> {
    if start.is_empty() {
        return Err(ImageError::Decode("the file is empty".into()));
    }
    if tiff::is_tiff(start) {
        return Ok(ImageFormat::Tiff);
    }
    if pnm::is_pnm(start) {
        return Ok(ImageFormat::Pnm);
    }
    image::guess_format(start)
        .ok()
        .filter(|format| SUPPORTED.contains(format))
        .ok_or_else(|| foreign::error(start))
}

/// Estimates the memory that [`decode`] needs beside the file, in bytes: the samples of the decoder, and RGB.
pub(super) fn memory_for(bytes: &[u8]) -> u64 {
    const BYTES_PER_PIXEL: u64 = 8 + 3;
    let size = format_of(bytes).ok().and_then(|format| match format {
        ImageFormat::Jpeg => jpeg::dimensions(bytes),
        ImageFormat::Png => png::dimensions(bytes),
        ImageFormat::Gif => gif::dimensions(bytes),
        ImageFormat::Bmp => bmp::dimensions(bytes),
        ImageFormat::Tiff => tiff::dimensions(bytes),
        ImageFormat::Pnm => pnm::dimensions(bytes),
        _ => webp::dimensions(bytes),
    });
    // A file without a readable size is rejected before memory is allocated.
    size.map_or(0, |(width, height)| {
        BYTES_PER_PIXEL * (u64::from(width) * u64::from(height)).min(MAX_PIXELS)
    })
}

/// The usual extensions of files of the supported formats, in lower case.
pub const EXTENSIONS: [&str; 12] = [
    "jpg", "jpeg", "png", "gif", "bmp", "tif", "tiff", "webp", "ppm", "pgm", "pbm", "pnm",
];

/// Extensions of formats that are known and not read, in lower case. Lists of images include such files, so that they are left out by name.
pub const FOREIGN_EXTENSIONS: [&str; 5] = ["heic", "heif", "avif", "jxl", "jp2"];

/// Returns whether the extension of a file, in upper or lower case, is that of an image, read or not.
pub fn is_image_extension(extension: &str) -> bool {
    let mut all = EXTENSIONS.iter().chain(&FOREIGN_EXTENSIONS);
    all.any(|known| known.eq_ignore_ascii_case(extension))
}

/// The supported formats that are known by a magic number alone.
const SUPPORTED: [ImageFormat; 6] = [
    ImageFormat::Jpeg,
    ImageFormat::Png,
    ImageFormat::Gif,
    ImageFormat::Bmp,
    ImageFormat::Tiff,
    ImageFormat::WebP,
];

fn decode_as(bytes: &[u8], format: ImageFormat, reading: Reading) -> Result<Decoded, Fault> {
    let samples = match format {
        ImageFormat::Jpeg => {
            let decoded = Decoded {
                image: jpeg::decode(bytes)?,
                transparent: false,
            };
            return Ok(turn(decoded, bytes, format, reading.orientation));
        }
        ImageFormat::Png => png::decode(bytes)?,
        ImageFormat::Gif => gif::decode(bytes)?,
        ImageFormat::Bmp => bmp::decode(bytes)?,
        ImageFormat::Tiff => tiff::decode(bytes)?,
        ImageFormat::Pnm => pnm::decode(bytes)?,
        _ => webp::decode(bytes)?,
    };
    let decoded = convert::to_rgb(samples, reading.background).map_err(damaged)?;
    Ok(turn(decoded, bytes, format, reading.orientation))
}

/// Turns an image as the tag of its file says. A file without a readable tag is upright. The tag of TIFF files always counts, as for
/// Pillow.
fn turn(mut decoded: Decoded, bytes: &[u8], format: ImageFormat, orientation: Orientation) -> Decoded {
    let tag = match (format, orientation) {
        (ImageFormat::Tiff, _) => tiff::orientation(bytes),
        (_, Orientation::AsStored) => return decoded,
        (ImageFormat::Jpeg, _) => jpeg::exif(bytes).map_or(1, tiff::orientation),
        (ImageFormat::Png, _) => png::exif(bytes).map_or(1, tiff::orientation),
        (ImageFormat::WebP, _) => webp::exif(bytes).map_or(1, tiff::orientation),
        _ => return decoded,
    };
    match Turn::from_exif(tag) {
        None | Some(Turn::NoTransforms) => decoded,
        Some(turn) => {
            let mut image = DynamicImage::ImageRgb8(decoded.image);
            image.apply_orientation(turn);
            decoded.image = image.into_rgb8();
            decoded
        }
    }
}

fn check_size(width: u32, height: u32) -> Result<(), Fault> {
    if width == 0 || height == 0 {
        return Err(damaged("it has no pixels"));
    }
    if width > MAX_SIDE || height > MAX_SIDE || u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(Fault::TooLarge(width, height));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Returns the names and contents of the golden image files: one of every kind.
    fn files() -> Vec<(String, Vec<u8>)> {
        let directory = vlct_golden::directories("images").remove(0);
        let mut files: Vec<(String, Vec<u8>)> = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| (path.file_name().unwrap().to_str().unwrap().to_string(), path))
            .filter(|(name, _)| !name.ends_with(".decoded.png"))
            .map(|(name, path)| (name, std::fs::read(path).unwrap()))
            .collect();
        files.sort();
        files
    }

    fn decode_error(bytes: &[u8]) -> String {
        let message = decode(bytes).expect_err("must be rejected").to_string();
        assert!(!message.contains('\n'), "{message}");
        message
    }

    #[test]
    fn rejects_unknown_formats_and_reports_their_first_bytes() {
        assert!(decode_error(b"").contains("empty"));
        assert!(decode_error(b"<html>").contains("not a JPEG"));
        assert!(decode_error(&[0; 400]).contains("00 00 00 00 00 00 00 00"));
        // A known format that is not supported.
        assert!(decode_error(b"Pf 1 1 -1 abcd").contains("PFM"));
    }

    #[test]
    fn rejects_enormous_sizes_before_allocating() {
        let (mut count, huge) = (0, [0x7f, 0xff]);
        for (name, mut bytes) in files() {
            match name.rsplit('.').next().unwrap() {
                "gif" => {
                    bytes[6..10].copy_from_slice(&[0xff, 0x7f, 0xff, 0x7f]);
                }
                "bmp" => {
                    bytes[18..22].copy_from_slice(&32_000u32.to_le_bytes());
                    bytes[22..26].copy_from_slice(&32_000u32.to_le_bytes());
                }
                "jpg" => {
                    let frame = bytes
                        .windows(4)
                        .position(|w| w[0] == 0xff && matches!(w[1], 0xc0 | 0xc2) && w[2] == 0);
                    let size = frame.unwrap() + 5;
                    bytes[size..size + 2].copy_from_slice(&huge);
                    bytes[size + 2..size + 4].copy_from_slice(&huge);
                }
                _ => continue,
            }
            count += 1;
            let message = decode_error(&bytes);
            assert!(
                message.contains("too many") || message.contains("too large"),
                "{name}: {message}"
            );
        }
        assert!(count > 3);
        assert!(check_size(9_459, 9_459).is_ok());
        assert!(check_size(9_460, 9_460).is_err());
        assert!(check_size(65_536, 1).is_err());
        assert!(check_size(u32::MAX, u32::MAX).is_err());
        assert!(check_size(0, 5).is_err());
    }

    #[test]
    fn rejects_truncated_jpeg() {
        // A file of two images is complete after the first.
        let is_single = |name: &str| name.ends_with(".jpg") && name != "mpo.jpg";
        for (name, bytes) in files().into_iter().filter(|(name, _)| is_single(name)) {
            for cut in (2..bytes.len()).step_by(7).chain(bytes.len() - 8..bytes.len()) {
                assert!(decode(&bytes[..cut]).is_err(), "{name} cut at {cut}");
            }
            let trailing = [&bytes[..], b"trailing bytes"].concat();
            assert_eq!(decode(&trailing).unwrap(), decode(&bytes).unwrap(), "{name}");
        }
    }

    #[test]
    fn rejects_the_first_half_of_each_file() {
        for (name, bytes) in files() {
            assert!(decode(&bytes[..bytes.len() / 2]).is_err(), "{name}");
        }
    }

    #[test]
    fn the_orientation_tag_is_not_applied() {
        let (_, bytes) = files()
            .into_iter()
            .find(|(name, _)| name == "rotated_exif.jpg")
            .unwrap();
        let (_, upright) = files().into_iter().find(|(name, _)| name == "q90_420.jpg").unwrap();
        assert_eq!(decode(&bytes).unwrap(), decode(&upright).unwrap());
    }

    fn golden(name: &str) -> Vec<u8> {
        std::fs::read(vlct_golden::directories("images")[0].join(name)).unwrap()
    }

    fn decode_upright(bytes: &[u8]) -> Result<RgbImage> {
        let reading = Reading {
            orientation: Orientation::Upright,
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
            "rgb.ppm",
        ] {
            let bytes = golden(name);
            assert_eq!(decode_upright(&bytes).unwrap(), decode(&bytes).unwrap(), "{name}");
        }
        assert!(decode_upright(b"<html>").is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        /// Damaged files give an image within the size limits or an error of one line.
        #[test]
        fn damaged_files_never_panic(
            which in any::<prop::sample::Index>(),
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
            near_start in any::<bool>(),
            keep in any::<prop::sample::Index>(),
            cut in any::<bool>(),
        ) {
            let files = files();
            let (_, bytes) = which.get(&files);
            let mut bytes = bytes.clone();
            let range = if near_start { bytes.len().min(200) } else { bytes.len() };
            for (position, value) in &edits {
                let position = position.index(range);
                bytes[position] = *value;
            }
            if cut {
                bytes.truncate(keep.index(bytes.len() + 1));
            }
            match decode(&bytes) {
                Ok(image) => prop_assert!(image.width() > 0 && image.height() > 0),
                Err(error) => prop_assert!(!error.to_string().contains('\n')),
            }
        }

        #[test]
        fn noise_after_a_magic_number_never_panics(
            magic in prop::sample::select(vec![
                &b"\xff\xd8\xff"[..], b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0", b"MM\0*", b"RIFF\0\0\0\0WEBP",
            ]),
            noise in prop::collection::vec(any::<u8>(), 0..400),
        ) {
            let _ = decode(&[magic, &noise].concat());
        }
    }
}
