//! Decoding of JPEG files, without a copy of the file. Files without an end marker are rejected, as by Pillow.

use image::{ImageFormat, RgbImage};
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

use super::{MAX_SIDE, check_size, damaged};
use crate::Result;
use crate::memory;

/// Decodes a JPEG file to RGB.
pub(super) fn decode(bytes: &[u8]) -> Result<RgbImage> {
    let damaged = |reason: &dyn std::fmt::Display| damaged(ImageFormat::Jpeg, reason);
    if !is_complete(bytes) {
        return Err(damaged(&"the file ends before the image does"));
    }
    let options = DecoderOptions::default()
        .set_strict_mode(false)
        .set_max_width(MAX_SIDE as usize)
        .set_max_height(MAX_SIDE as usize)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(|e| damaged(&e))?;
    let info = decoder.info().ok_or_else(|| damaged(&"it has no header"))?;
    let (width, height) = (u32::from(info.width), u32::from(info.height));
    check_size(width, height)?;
    let mut pixels = memory::take(3 * width as usize * height as usize);
    // The decoder may skip damaged parts. Reused memory is cleared, so that the result does not depend on the previous image.
    pixels.fill(0);
    decoder.decode_into(&mut pixels).map_err(|e| damaged(&e))?;
    RgbImage::from_raw(width, height, pixels).ok_or_else(|| damaged(&"too few pixels"))
}

/// Returns whether the file has an end marker (`FF D9`). The decoder fills missing pixels with grey; Pillow rejects such files.
///
/// Segments are skipped by their length, so the end marker of a thumbnail inside a segment does not count. Bytes after the end marker are
/// ignored.
fn is_complete(bytes: &[u8]) -> bool {
    const END: u8 = 0xd9;
    let mut rest = bytes.get(2..).unwrap_or_default();
    loop {
        // Both entropy-coded data and stray bytes between segments run up to the next FF.
        let Some(start) = memchr::memchr(0xff, rest) else {
            return false;
        };
        rest = &rest[start..];
        let Some(fill) = rest.iter().position(|&b| b != 0xff) else {
            return false;
        };
        let marker = rest[fill];
        rest = &rest[fill + 1..];
        match marker {
            END => return true,
            // A stuffed zero, a restart marker, or a marker without a length: no segment follows.
            0x00 | 0x01 | 0xd0..=0xd8 => {}
            _ => {
                let Some((length, _)) = rest.split_first_chunk::<2>() else {
                    return false;
                };
                let length = usize::from(u16::from_be_bytes(*length));
                let Some(after) = rest.get(length..) else {
                    return false;
                };
                rest = after;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn end_marker_counts_only_outside_segments() {
        let start = [0xff, 0xd8];
        let thumbnail = [0xff, 0xe1, 0x00, 0x04, 0xff, 0xd9];
        let scan = [0xff, 0xda, 0x00, 0x02, 1, 2, 0xff, 0x00, 3, 0xff, 0xd0, 4];
        let complete = [&start[..], &thumbnail, &scan, &[0xff, 0xff, 0xd9], b"trailing"].concat();
        assert!(is_complete(&complete));
        for cut in 0..complete.len() - b"trailing".len() {
            assert!(!is_complete(&complete[..cut]), "cut at {cut}");
        }
    }

    #[test]
    fn too_long_segment_is_incomplete_and_segment_of_length_zero_is_not_skipped() {
        assert!(!is_complete(&[0xff, 0xd8, 0xff, 0xe0, 0xff, 0xff, 0xff, 0xd9]));
        assert!(is_complete(&[0xff, 0xd8, 0xff, 0xe0, 0x00, 0x00, 0xff, 0xd9]));
    }
}
