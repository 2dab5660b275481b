//! Decoding of PNG files with Pillow's tolerance. Pillow verifies the checksums of the chunks that precede the pixel chunks,
//! and the checksum at the end of the pixel stream. It accepts wrong checksums of pixel chunks, a missing end chunk, and a
//! complete pixel stream of too few rows (the missing rows are black). It rejects a pixel stream that is truncated or has a wrong checksum.
//!
//! Transparency by a palette or a colour key becomes alpha, except the key of 16-bit grey images, which Pillow ignores.

use std::borrow::Cow;
use std::io::Cursor;

use image::ColorType;
use png::{BitDepth, Transformations};

use super::fault::{Fault, damaged};
use super::samples::Samples;
use super::{MAX_ALLOCATION, check_size};

/// Size, in bytes, of the signature at the start of a file.
const SIGNATURE_SIZE: usize = 8;
/// Size, in bytes, of the length and type before a chunk's data.
const CHUNK_HEAD_SIZE: usize = 8;
/// Size, in bytes, of the checksum after a chunk's data.
const CHUNK_TAIL_SIZE: usize = 4;
/// Position in the header of the compression method, of which there is one. Pillow ignores it.
const COMPRESSION: usize = 10;
const END_CHUNK: &[u8] = b"\0\0\0\0IEND\xae\x42\x60\x82";

/// Returns the size of the image, if the header has one.
pub(super) fn dimensions(bytes: &[u8]) -> Option<(u32, u32)> {
    let sides = bytes.get(SIGNATURE_SIZE + CHUNK_HEAD_SIZE..)?.first_chunk::<8>()?;
    let [w3, w2, w1, w0, h3, h2, h1, h0] = *sides;
    Some((
        u32::from_be_bytes([w3, w2, w1, w0]),
        u32::from_be_bytes([h3, h2, h1, h0]),
    ))
}

/// Returns the EXIF tags.
pub(super) fn exif(bytes: &[u8]) -> Option<&[u8]> {
    let mut offset = SIGNATURE_SIZE;
    loop {
        let (length, kind) = chunk_head(bytes, offset)?;
        let start = offset + CHUNK_HEAD_SIZE;
        let end = start.checked_add(length)?;
        match kind {
            b"eXIf" => {
                let tags = bytes.get(start..end)?;
                return Some(tags.strip_prefix(b"Exif\0\0").unwrap_or(tags));
            }
            b"IEND" => return None,
            _ => offset = end.checked_add(CHUNK_TAIL_SIZE)?,
        }
    }
}

/// Decodes a PNG file (its first image, if animated).
pub(super) fn decode(bytes: &[u8]) -> Result<Samples, Fault> {
    let bytes = verify_chunks(bytes)?;
    let limits = png::Limits {
        bytes: usize::try_from(MAX_ALLOCATION).unwrap_or(usize::MAX),
    };
    let mut options = png::DecodeOptions::default();
    options.set_ignore_crc(true);
    options.set_ignore_adler32(false);
    let mut decoder = png::Decoder::new_with_options(Cursor::new(&bytes[..]), options);
    decoder.set_limits(limits);
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    let header = decoder.read_header_info().map_err(damaged)?;
    let (width, height) = header.size();
    check_size(width, height)?;
    if (header.color_type, header.bit_depth) != (png::ColorType::Grayscale, BitDepth::Sixteen) {
        decoder.set_transformations(Transformations::EXPAND);
    }

    let mut reader = decoder.read_info().map_err(damaged)?;
    let layout = match reader.output_color_type() {
        (png::ColorType::Grayscale, BitDepth::Eight) => ColorType::L8,
        (png::ColorType::GrayscaleAlpha, BitDepth::Eight) => ColorType::La8,
        (png::ColorType::Rgb, BitDepth::Eight) => ColorType::Rgb8,
        (png::ColorType::Rgba, BitDepth::Eight) => ColorType::Rgba8,
        (png::ColorType::Grayscale, BitDepth::Sixteen) => ColorType::L16,
        (png::ColorType::GrayscaleAlpha, BitDepth::Sixteen) => ColorType::La16,
        (png::ColorType::Rgb, BitDepth::Sixteen) => ColorType::Rgb16,
        (png::ColorType::Rgba, BitDepth::Sixteen) => ColorType::Rgba16,
        (kind, depth) => return Err(damaged(format_args!("pixels of type {kind:?} {depth:?}"))),
    };
    let mut samples = read_rows(&mut reader, layout, width, height)?;
    if layout.bytes_per_pixel() > layout.channel_count() {
        // PNG is big-endian; the conversion expects native order.
        for sample in samples.as_chunks_mut::<2>().0 {
            *sample = u16::from_be_bytes(*sample).to_ne_bytes();
        }
    }
    Ok(Samples {
        values: samples,
        layout,
        width,
        height,
    })
}

/// Reads the interleaved samples of the first image. Rows that are missing from a complete stream are black.
fn read_rows(
    reader: &mut png::Reader<Cursor<&[u8]>>,
    layout: ColorType,
    width: u32,
    height: u32,
) -> Result<Vec<u8>, Fault> {
    let pixel_size = layout.bytes_per_pixel();
    let stride = width as usize * usize::from(pixel_size);
    let mut samples = vec![0u8; stride * height as usize];
    let rows = if reader.info().interlaced {
        read_interlaced(reader, &mut samples, stride, 8 * pixel_size)
    } else {
        samples
            .chunks_exact_mut(stride)
            .try_for_each(|row| reader.read_row(row).map(|_| ()))
    };
    match rows {
        Err(error) if !has_too_few_rows(&error) => return Err(damaged(error)),
        _ => {}
    }
    // The checksum of the stream follows the last row. Other damage after the last row is accepted.
    match reader.finish() {
        Err(error) if is_wrong_checksum(&error) => Err(damaged(error)),
        _ => Ok(samples),
    }
}

fn read_interlaced(
    reader: &mut png::Reader<Cursor<&[u8]>>,
    samples: &mut [u8],
    stride: usize,
    bits_per_pixel: u8,
) -> Result<(), png::DecodingError> {
    while let Some(row) = reader.next_interlaced_row()? {
        if let png::InterlaceInfo::Adam7(pass) = row.interlace() {
            png::expand_interlaced_row(samples, stride, row.data(), pass, bits_per_pixel);
        }
    }
    Ok(())
}

/// Returns whether a complete stream has too few rows. Only the text of the error distinguishes this from a truncated stream.
fn has_too_few_rows(error: &png::DecodingError) -> bool {
    matches!(error, png::DecodingError::Format(_)) && error.to_string().contains("does not have enough data")
}

/// Returns whether the checksum of the pixel stream is wrong. Only the text of the error distinguishes this from other damage.
fn is_wrong_checksum(error: &png::DecodingError) -> bool {
    matches!(error, png::DecodingError::Format(_)) && error.to_string().contains("WrongChecksum")
}

/// Verifies the chunks that precede the pixel chunks. If the file ends within the pixel chunks, or if it has chunks that the decoder
/// rejects and Pillow reads, returns a copy: without these chunks, with the last chunk completed, and with an end chunk, so that the
/// decoder reads all pixel data.
fn verify_chunks(bytes: &[u8]) -> Result<Cow<'_, [u8]>, Fault> {
    let ends_early = || damaged("the file ends before the image begins");
    let mut before = Before::default();
    let mut offset = SIGNATURE_SIZE;
    let mut pixels_start = None;
    loop {
        let Some((length, kind)) = chunk_head(bytes, offset) else {
            // The file ends between chunks or within the head of a chunk.
            let start = pixels_start.ok_or_else(ends_early)?;
            return Ok(Cow::Owned(
                before.with_pixels(&[&bytes[start..offset.min(bytes.len())], END_CHUNK]),
            ));
        };
        let is_pixels = kind == b"IDAT";
        if let Some(start) = pixels_start
            && !is_pixels
        {
            return Ok(match before.is_odd() {
                false => Cow::Borrowed(bytes),
                true => Cow::Owned(before.with_pixels(&[&bytes[start..offset], END_CHUNK])),
            });
        }
        // `chunk_head` has read these bytes, so they exist; lengths are below 2^32.
        let data = offset + CHUNK_HEAD_SIZE;
        let next = data.saturating_add(length).saturating_add(CHUNK_TAIL_SIZE);
        if is_pixels {
            let start = *pixels_start.get_or_insert(offset);
            if next > bytes.len() {
                let rest = &bytes[data..bytes.len().min(data.saturating_add(length))];
                let head = (rest.len() as u32).to_be_bytes();
                let last: [&[u8]; 6] = [
                    &bytes[start..offset],
                    &head,
                    b"IDAT",
                    rest,
                    &[0; CHUNK_TAIL_SIZE],
                    END_CHUNK,
                ];
                return Ok(Cow::Owned(before.with_pixels(&last)));
            }
        } else {
            if next > bytes.len() {
                return Err(ends_early());
            }
            let checksum = crc32fast::hash(&bytes[offset + 4..next - CHUNK_TAIL_SIZE]);
            if bytes[next - CHUNK_TAIL_SIZE..next] != checksum.to_be_bytes() {
                return Err(damaged(format!("wrong checksum of chunk {}", kind.escape_ascii())));
            }
            before.add(kind, &bytes[data..next - CHUNK_TAIL_SIZE]);
        }
        offset = next;
    }
}

/// The chunks before the pixels.
#[derive(Default)]
struct Before<'a> {
    count: usize,
    header: Option<&'a [u8]>,
    palette: Option<&'a [u8]>,
    transparency: Option<&'a [u8]>,
    has_odd_chunks: bool,
}

impl<'a> Before<'a> {
    fn add(&mut self, kind: &[u8; 4], data: &'a [u8]) {
        self.count += 1;
        match kind {
            b"IHDR" => {
                // The decoder demands that the header is the first chunk, and the only one.
                self.has_odd_chunks |= self.count > 1 || data.len() != 13 || data[COMPRESSION] != 0;
                self.header = data.get(..13);
            }
            b"PLTE" => {
                self.has_odd_chunks |=
                    !data.len().is_multiple_of(3) || !(3..=768).contains(&data.len()) || self.palette.is_some();
                self.palette = Some(data);
            }
            b"tRNS" => {
                self.has_odd_chunks |= self.transparency.is_some() || (self.is_indexed() && self.palette.is_none());
                self.transparency = Some(data);
            }
            // A chunk that a decoder must know.
            [first, ..] => self.has_odd_chunks |= first.is_ascii_uppercase(),
        }
    }

    fn is_indexed(&self) -> bool {
        self.header.is_some_and(|header| header[9] == 3)
    }

    fn is_odd(&self) -> bool {
        self.has_odd_chunks || (self.is_indexed() && self.palette.is_none())
    }

    /// Returns a file with the chunks that matter and these parts of pixel chunks.
    fn with_pixels(&self, pixels: &[&[u8]]) -> Vec<u8> {
        let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
        let mut add = |kind: &[u8; 4], data: &[u8]| {
            file.extend_from_slice(&(data.len() as u32).to_be_bytes());
            file.extend_from_slice(kind);
            file.extend_from_slice(data);
            // The decoder ignores checksums.
            file.extend_from_slice(&[0; CHUNK_TAIL_SIZE]);
        };
        let mut header = self.header.unwrap_or_default().to_vec();
        if let Some(compression) = header.get_mut(COMPRESSION) {
            *compression = 0;
        }
        add(b"IHDR", &header);
        if self.is_indexed() {
            // Without a palette, all pixels are black, as for Pillow.
            let palette = self.palette.filter(|palette| palette.len() >= 3).unwrap_or(&[0; 3]);
            add(b"PLTE", &palette[..palette.len().min(768) / 3 * 3]);
        }
        if let Some(transparency) = self.transparency {
            add(b"tRNS", transparency);
        }
        file.extend(pixels.concat());
        file
    }
}

/// Returns the length and type of the chunk at byte `offset`.
fn chunk_head(bytes: &[u8], offset: usize) -> Option<(usize, &[u8; 4])> {
    let (length, rest) = bytes.get(offset..)?.split_first_chunk::<4>()?;
    let kind = rest.first_chunk::<4>()?;
    Some((u32::from_be_bytes(*length) as usize, kind))
}

#[cfg(test)]
mod tests {
    use image::RgbImage;

    use super::*;

    fn decode(bytes: &[u8]) -> crate::Result<RgbImage> {
        crate::decode(bytes)
    }

    fn image() -> RgbImage {
        RgbImage::from_fn(40, 30, |x, y| image::Rgb([(x * 6) as u8, (y * 8) as u8, (x * y) as u8]))
    }

    fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
        let body = [kind, data].concat();
        let checksum = crc32fast::hash(&body).to_be_bytes();
        [&(data.len() as u32).to_be_bytes()[..], &body, &checksum].concat()
    }

    /// Splits an encoded file into the bytes before its pixel chunk, the data of the pixel chunk, and its end chunk.
    fn parts() -> (Vec<u8>, Vec<u8>, Vec<u8>) {
        let file = crate::encode_png(&image()).unwrap();
        let start = file.windows(4).position(|w| w == b"IDAT").unwrap() - 4;
        let (length, _) = chunk_head(&file, start).unwrap();
        let data = file[start + 8..start + 8 + length].to_vec();
        assert_eq!(
            &file[start + 12 + length..],
            END_CHUNK,
            "the encoder writes one pixel chunk"
        );
        (file[..start].to_vec(), data, END_CHUNK.to_vec())
    }

    #[test]
    fn accepts_damage_after_the_pixels() {
        let (front, data, end) = parts();
        let mut pixels = chunk(b"IDAT", &data);
        let last = pixels.len() - 1;
        pixels[last] ^= 1;
        let two = [chunk(b"IDAT", &data[..50]), chunk(b"IDAT", &data[50..])].concat();
        for file in [
            [&front[..], &pixels, &end].concat(),
            [&front[..], &pixels].concat(),
            [&front[..], &pixels[..last - 2]].concat(),
            // Truncated within the checksum of the compressed stream.
            [&front[..], &pixels[..last - 6]].concat(),
            [&front[..], &pixels, &end[..5]].concat(),
            [&front[..], &two, &end].concat(),
            [&front[..], &two].concat(),
            [&front[..], &chunk(b"tEXt", b"Comment\0hello"), &pixels, &end].concat(),
        ] {
            assert_eq!(decode(&file).unwrap(), image());
        }
    }

    #[test]
    fn rejects_damage_before_the_pixels_and_truncated_pixels() {
        let (front, data, end) = parts();
        let pixels = chunk(b"IDAT", &data);
        let mut header = front.clone();
        header[20] ^= 1;
        assert!(decode(&[&header[..], &pixels, &end].concat()).is_err());
        let mut text = chunk(b"tEXt", b"Comment\0hello");
        text[10] ^= 1;
        let error = decode(&[&front[..], &text, &pixels, &end].concat())
            .unwrap_err()
            .to_string();
        assert!(error.contains("tEXt"), "{error}");
        for cut in [0, 5, 8, data.len() / 2, data.len() - 20] {
            assert!(
                decode(&[&front[..], &pixels[..cut]].concat()).is_err(),
                "file cut at {cut}"
            );
            let short = chunk(b"IDAT", &data[..cut]);
            assert!(
                decode(&[&front[..], &short, &end].concat()).is_err(),
                "stream cut at {cut}"
            );
        }
        assert!(decode(&[&front[..], &end].concat()).is_err());
    }

    /// Returns an uncompressed pixel stream: the headers of one stored block, `rows`, and the checksum.
    fn stored_stream(rows: &[u8]) -> Vec<u8> {
        let length = rows.len() as u16;
        let (a, b) = rows.iter().fold((1u32, 0u32), |(a, b), byte| {
            let a = (a + u32::from(*byte)) % 65_521;
            (a, (b + a) % 65_521)
        });
        [
            &[0x78, 0x01, 0x01][..],
            &length.to_le_bytes(),
            &(!length).to_le_bytes(),
            rows,
            &(b << 16 | a).to_be_bytes(),
        ]
        .concat()
    }

    #[test]
    fn rows_missing_from_a_complete_stream_are_black() {
        // 10 rows for an image of 30.
        let (front, _, end) = parts();
        let row: Vec<u8> = std::iter::once(0).chain((0..120).map(|v| v + 1)).collect();
        let stream = stored_stream(&row.repeat(10));
        let decoded = decode(&[&front[..], &chunk(b"IDAT", &stream), &end].concat()).unwrap();
        assert_eq!(decoded.get_pixel(39, 9).0, [118, 119, 120]);
        assert_eq!(decoded.get_pixel(0, 10).0, [0; 3]);
    }

    #[test]
    fn rejects_streams_with_wrong_checksums() {
        let (front, data, end) = parts();
        let row: Vec<u8> = std::iter::once(0).chain((0..120).map(|v| v + 1)).collect();
        for stream in [data, stored_stream(&row.repeat(30)), stored_stream(&row.repeat(10))] {
            let file = |stream: &[u8]| [&front[..], &chunk(b"IDAT", stream), &end].concat();
            assert!(decode(&file(&stream)).is_ok());
            for from_end in [1, 4] {
                let mut wrong = stream.clone();
                let position = wrong.len() - from_end;
                wrong[position] ^= 1;
                assert!(decode(&file(&wrong)).is_err(), "byte {position} of {}", stream.len());
            }
        }
        // A changed pixel does not match the checksum.
        let mut stream = stored_stream(&row.repeat(30));
        stream[1000] ^= 1;
        assert!(decode(&[&front[..], &chunk(b"IDAT", &stream), &end].concat()).is_err());
    }
}
