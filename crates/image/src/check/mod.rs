//! Validity of image files, by the rules of the original's `data_preprocess/check_valid_images.py`.
//!
//! That script opens every file with Pillow, converts it to RGB, and rejects it if there is an error or a *warning*. [`check`]
//! decodes with [`mod@decode`], which has Pillow's tolerance, and then detects the conditions of Pillow's warnings.
//!
//! [`Checker`] and [`files_under`] check directories.

mod files;
mod tags;

pub use files::{Checker, Verdict, files_under};

use image::ImageFormat;

use super::decode;
use crate::ImageError;

/// Why an image file is not simply fine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// The file cannot be decoded, nor by Pillow, for this reason (one line).
    Damaged(String),
    /// The file cannot be decoded by this crate, for this reason (one line). It may be a good image, so it is never removed.
    Unsupported(String),
    /// The file can be decoded and used, but Pillow would warn for this reason (one line).
    Warning(&'static str),
    /// The image has so many pixels that Pillow would warn and this crate does not decode it, as this line says.
    TooLarge(String),
}

impl std::fmt::Display for Flaw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Damaged(reason) | Self::Unsupported(reason) | Self::TooLarge(reason) => f.write_str(reason),
            Self::Warning(reason) => write!(f, "warning: {reason}"),
        }
    }
}

impl Flaw {
    /// Returns the flaw of a file that cannot be decoded.
    fn of(error: &ImageError) -> Self {
        let pixels = match error {
            ImageError::TooLarge { width, height } => u64::from(*width) * u64::from(*height),
            _ => 0,
        };
        match error {
            ImageError::Unsupported(_) => Self::Unsupported(error.to_string()),
            // Pillow rejects more than twice the number of pixels of which it warns, and has no limit of a side.
            ImageError::TooLarge { .. } if pixels > 2 * crate::limits::MAX_PIXELS => Self::Damaged(error.to_string()),
            ImageError::TooLarge { .. } if pixels > crate::limits::MAX_PIXELS => Self::TooLarge(error.to_string()),
            ImageError::TooLarge { .. } => Self::Unsupported(error.to_string()),
            _ => Self::Damaged(error.to_string()),
        }
    }
}

/// Checks an image, given as the bytes of its file. Returns `None` if the image is valid.
pub fn check(bytes: &[u8]) -> Option<Flaw> {
    let format = match decode::decode(bytes)
        .map(super::recycle)
        .and_then(|()| decode::format_of(bytes))
    {
        Ok(format) => format,
        Err(error) => return Some(Flaw::of(&error)),
    };
    match format {
        ImageFormat::Jpeg => jpeg_flaw(bytes),
        ImageFormat::Png => png_flaw(bytes),
        ImageFormat::Tiff => tags::flaw(bytes).map(Flaw::Warning),
        _ => None,
    }
}

/// Returns the flaw that Pillow would warn about. Pillow reads the resolution from the EXIF tags unless the JFIF header has it, and
/// warns if the tags are damaged.
fn jpeg_flaw(bytes: &[u8]) -> Option<Flaw> {
    const PER_INCH: u8 = 1;
    let mut tags = None;
    for (marker, segment) in decode::jpeg_segments(bytes) {
        match marker {
            0xe0 if segment.starts_with(b"JFIF") && segment.len() >= 12 && segment[7] == PER_INCH => return None,
            0xe1 => tags = tags.or(segment.strip_prefix(b"Exif\0\0")),
            _ => {}
        }
    }
    tags::flaw(tags?).map(Flaw::Warning)
}

fn png_flaw(bytes: &[u8]) -> Option<Flaw> {
    const SIGNATURE_SIZE: usize = 8;
    const PALETTE: u8 = 3;
    let (mut colour_type, mut has_frame_count) = (None, false);
    let mut rest = bytes.get(SIGNATURE_SIZE..).unwrap_or_default();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*length) as usize;
        let (kind, after) = after.split_first_chunk::<4>()?;
        let data = after.get(..length)?;
        match kind {
            b"IHDR" => colour_type = data.get(9).copied(),
            b"tRNS" if colour_type == Some(PALETTE) && !has_one_transparent_colour(data) => {
                return Some(Flaw::Warning("palette with transparency"));
            }
            _ if data.len() < min_length(kind, colour_type) => {
                return Some(Flaw::Damaged(format!("the chunk {} is truncated", kind.escape_ascii())));
            }
            b"acTL" => {
                let frames = data.first_chunk().map_or(0, |count| u32::from_be_bytes(*count));
                if has_frame_count || frames == 0 || frames > 1 << 31 {
                    return Some(Flaw::Warning("animation with an impossible number of frames"));
                }
                has_frame_count = true;
            }
            b"IEND" => return None,
            _ => {}
        }
        // Four bytes of checksum follow the data.
        rest = after.get(length + 4..)?;
    }
    None
}

/// Returns the minimum size, in bytes, that Pillow demands of a chunk.
fn min_length(kind: &[u8; 4], colour_type: Option<u8>) -> usize {
    match (kind, colour_type) {
        (b"tRNS", Some(0)) => 2,
        (b"tRNS", Some(2)) => 6,
        (b"gAMA" | b"fdAT", _) => 4,
        (b"cHRM", _) => 32,
        (b"sRGB" | b"iCCP", _) => 1,
        (b"pHYs", _) => 9,
        (b"acTL", _) => 8,
        (b"fcTL", _) => 26,
        _ => 0,
    }
}

/// Returns whether exactly one opacity is 0 and all others are 255. Pillow then stores the index of the transparent colour and does
/// not warn. Pillow's regular expression (`_simple_palette`) also allows a line feed at the end.
fn has_one_transparent_colour(opacities: &[u8]) -> bool {
    let opacities = opacities.strip_suffix(b"\n").unwrap_or(opacities);
    opacities.iter().filter(|v| **v == 0).count() == 1 && opacities.iter().all(|v| matches!(v, 0 | 255))
}

#[cfg(test)]
mod tests;
