//! Decoding of JPEG files, without a copy of the file. Files without an end marker are rejected, as by Pillow.
//!
//! `zune-jpeg` decodes files of the usual layouts. [`general`] decodes the others, and files in which `zune-jpeg` finds an error.

use image::RgbImage;
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

use super::check_size;
use super::fault::Fault;
use crate::limits::MAX_SIDE;
use crate::memory;

mod general;
mod survey;

pub(crate) use survey::segments;

pub(super) use general::decode_part;

/// Returns the size of the image, if the file has a frame.
pub(super) fn dimensions(bytes: &[u8]) -> Option<(u32, u32)> {
    let is_frame = |marker| matches!(marker, 0xc0..=0xcf) && !matches!(marker, 0xc4 | 0xc8 | 0xcc);
    let (_, frame) = segments(bytes).find(|(marker, _)| is_frame(*marker))?;
    let &[h1, h0, w1, w0] = frame.get(1..)?.first_chunk()?;
    Some((u16::from_be_bytes([w1, w0]).into(), u16::from_be_bytes([h1, h0]).into()))
}

/// Returns the EXIF tags.
pub(super) fn exif(bytes: &[u8]) -> Option<&[u8]> {
    segments(bytes).find_map(|(marker, content)| content.strip_prefix(b"Exif\0\0").filter(|_| marker == 0xe1))
}

/// Decodes a JPEG file to RGB.
pub(super) fn decode(bytes: &[u8]) -> Result<RgbImage, Fault> {
    if survey::is_common(bytes)
        && let Some(image) = decode_common(bytes)?
    {
        return Ok(image);
    }
    general::decode(bytes)
}

/// Decodes a file of a usual layout. Returns `None` if the decoder finds an error.
///
/// # Errors
/// Returns an error if the image has too many pixels.
fn decode_common(bytes: &[u8]) -> Result<Option<RgbImage>, Fault> {
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(MAX_SIDE as usize)
        .set_max_height(MAX_SIDE as usize)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    if decoder.decode_headers().is_err() {
        return Ok(None);
    }
    let Some(info) = decoder.info() else {
        return Ok(None);
    };
    let (width, height) = (u32::from(info.width), u32::from(info.height));
    check_size(width, height)?;
    let mut pixels = memory::take(3 * width as usize * height as usize);
    // The decoder may skip damaged parts. Reused memory is cleared, so that the result does not depend on the previous image.
    pixels.fill(0);
    if decoder.decode_into(&mut pixels).is_err() {
        memory::give_back(pixels);
        return Ok(None);
    }
    Ok(RgbImage::from_raw(width, height, pixels))
}
