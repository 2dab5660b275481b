//! Decoding of WebP files (the first frame), as in libwebp.
//!
//! The chunks of the first frame are copied to a file with nothing else, because the decoder rejects files whose flags and other chunks
//! do not agree, which libwebp does not read.

use std::io::Cursor;

use image::ColorType;
use image_webp::WebPDecoder;

use super::fault::{Fault, damaged, unsupported};
use super::samples::Samples;
use super::{MAX_ALLOCATION, check_size};
use crate::memory;

const HEADER_SIZE: usize = 12;
const HAS_ALPHA: u8 = 0x10;
const HAS_EXIF: u8 = 0x08;
const IS_ANIMATED: u8 = 0x02;
const FRAGMENTS: u8 = 0x01;

/// The first frame of a file.
struct Frame<'a> {
    /// The chunk of the opacities, if it is apart.
    alpha: Option<&'a [u8]>,
    /// Name and data of the chunk with the image.
    image: (&'a [u8; 4], &'a [u8]),
    /// Left and top edge.
    position: (u32, u32),
    size: (u32, u32),
}

/// A file without its metadata.
struct File<'a> {
    canvas: (u32, u32),
    has_alpha: bool,
    frame: Frame<'a>,
}

/// Returns the size of the canvas.
pub(super) fn dimensions(bytes: &[u8]) -> Option<(u32, u32)> {
    Some(read_file(bytes).ok()?.canvas)
}

/// Returns the EXIF tags, if the flags name them.
pub(super) fn exif(bytes: &[u8]) -> Option<&[u8]> {
    let mut chunks = Chunks(bytes.get(HEADER_SIZE..)?);
    let (b"VP8X", header) = chunks.next()? else {
        return None;
    };
    if header.first()? & HAS_EXIF == 0 {
        return None;
    }
    let (_, data) = chunks.find(|(name, _)| *name == b"EXIF")?;
    Some(data.strip_prefix(b"Exif\0\0").unwrap_or(data))
}

/// Decodes a WebP file.
pub(super) fn decode(bytes: &[u8]) -> Result<Samples, Fault> {
    // Pillow rejects a file that is shorter than its header states.
    let stated = bytes.get(4..).and_then(|rest| rest.first_chunk()).copied();
    if stated.is_none_or(|size| (bytes.len() as u64) < 8 + u64::from(u32::from_le_bytes(size))) {
        return Err(damaged("the file ends before the image does"));
    }
    let file = read_file(bytes)?;
    let (width, height) = file.canvas;
    check_size(width, height)?;
    let frame = &file.frame;
    let single = file_of(frame);
    let mut decoder = WebPDecoder::new(Cursor::new(&single[..])).map_err(unsupported)?;
    decoder.set_memory_limit(usize::try_from(MAX_ALLOCATION).unwrap_or(usize::MAX));
    if decoder.dimensions() != frame.size {
        return Err(damaged("an image of another size than its frame"));
    }
    let channels = if decoder.has_alpha() { 4 } else { 3 };
    let mut values = memory::take(frame.size.0 as usize * frame.size.1 as usize * channels);
    // The decoder may skip damaged parts. Reused memory is cleared, so that the result does not depend on the previous image.
    values.fill(0);
    decoder.read_image(&mut values).map_err(unsupported)?;
    let mut samples = Samples {
        values,
        layout: if channels == 4 {
            ColorType::Rgba8
        } else {
            ColorType::Rgb8
        },
        width: frame.size.0,
        height: frame.size.1,
    };
    if !file.has_alpha {
        samples.drop_alpha();
    }
    if frame.size != file.canvas {
        samples = samples.on_canvas(frame.position, file.canvas, file.has_alpha);
    }
    Ok(samples)
}

/// An iterator over the names and data of chunks. Ends at a chunk that is not complete.
struct Chunks<'a>(&'a [u8]);

impl<'a> Iterator for Chunks<'a> {
    type Item = (&'a [u8; 4], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (name, rest) = self.0.split_first_chunk::<4>()?;
        let (size, rest) = rest.split_first_chunk::<4>()?;
        let (data, rest) = rest.split_at_checked(u32::from_le_bytes(*size) as usize)?;
        // Chunks of odd size are padded.
        self.0 = rest.get(data.len() % 2..).unwrap_or_default();
        Some((name, data))
    }
}

fn u24(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], 0])
}

fn read_file(bytes: &[u8]) -> Result<File<'_>, Fault> {
    let stated = bytes
        .get(4..)
        .and_then(|rest| rest.first_chunk())
        .copied()
        .unwrap_or_default();
    let end = (u32::from_le_bytes(stated) as usize).saturating_add(8).min(bytes.len());
    let mut chunks = Chunks(bytes.get(HEADER_SIZE..end).unwrap_or_default());
    let no_image = || damaged("no image");
    let (name, data) = chunks.next().ok_or_else(no_image)?;
    if name != b"VP8X" {
        let frame = read_frame(std::iter::once((name, data)), (0, 0)).ok_or_else(no_image)?;
        return Ok(File {
            canvas: frame.size,
            has_alpha: frame.image.0 == b"VP8L",
            frame,
        });
    }
    let &[flags, _, _, _, ref sizes @ ..] = data else {
        return Err(damaged("a header that ends early"));
    };
    if sizes.len() < 6 || flags & FRAGMENTS != 0 {
        return Err(damaged("a header that ends early, or fragments"));
    }
    let canvas = (u24(sizes) + 1, u24(&sizes[3..]) + 1);
    let is_animated = flags & IS_ANIMATED != 0;
    let frame = if !is_animated {
        let images = Chunks(chunks.0).filter(|(name, _)| matches!(*name, b"VP8 " | b"VP8L"));
        if images.count() > 1 {
            return Err(damaged("several images"));
        }
        let frame = read_frame(chunks, (0, 0)).ok_or_else(no_image)?;
        if frame.size != canvas {
            return Err(damaged("an image of another size than the canvas"));
        }
        frame
    } else {
        if !Chunks(chunks.0).any(|(name, _)| name == b"ANIM") {
            return Err(damaged("an animation without parameters"));
        }
        let (_, data) = chunks.find(|(name, _)| *name == b"ANMF").ok_or_else(no_image)?;
        let head = data.get(..16).ok_or_else(no_image)?;
        let position = (2 * u24(head), 2 * u24(&head[3..]));
        let size = (u24(&head[6..]) + 1, u24(&head[9..]) + 1);
        let frame = read_frame(Chunks(&data[16..]), position).ok_or_else(no_image)?;
        if frame.size != size || position.0 + size.0 > canvas.0 || position.1 + size.1 > canvas.1 {
            return Err(unsupported("a frame of another size, or outside the canvas"));
        }
        frame
    };
    Ok(File {
        canvas,
        // Without an animation, the flag counts for separate opacities only.
        has_alpha: flags & HAS_ALPHA != 0 || (!is_animated && frame.image.0 == b"VP8L"),
        frame,
    })
}

/// Finds the chunks of a frame.
fn read_frame<'a>(chunks: impl Iterator<Item = (&'a [u8; 4], &'a [u8])>, position: (u32, u32)) -> Option<Frame<'a>> {
    let mut alpha = None;
    for (name, data) in chunks {
        let size = match name {
            b"ALPH" => {
                alpha = alpha.or(Some(data));
                continue;
            }
            b"VP8 " => {
                let side = |i: usize| Some(u32::from(u16::from_le_bytes(*data.get(i..)?.first_chunk()?) & 0x3fff));
                (side(6)?, side(8)?)
            }
            b"VP8L" => {
                let bits = u32::from_le_bytes(*data.get(1..)?.first_chunk()?);
                ((bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1)
            }
            _ => continue,
        };
        return Some(Frame {
            alpha: alpha.filter(|_| name == b"VP8 "),
            image: (name, data),
            position,
            size,
        });
    }
    None
}

/// Returns a file with nothing but a frame.
fn file_of(frame: &Frame<'_>) -> Vec<u8> {
    let mut chunks: Vec<(&[u8; 4], &[u8])> = Vec::new();
    let mut header = [HAS_ALPHA, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    if let Some(alpha) = frame.alpha {
        header[4..7].copy_from_slice(&(frame.size.0.wrapping_sub(1)).to_le_bytes()[..3]);
        header[7..10].copy_from_slice(&(frame.size.1.wrapping_sub(1)).to_le_bytes()[..3]);
        chunks.push((b"VP8X", &header));
        chunks.push((b"ALPH", alpha));
    }
    chunks.push(frame.image);
    let mut body = b"WEBP".to_vec();
    for (name, data) in chunks {
        body.extend_from_slice(name);
        body.extend_from_slice(&(data.len() as u32).to_le_bytes());
        body.extend_from_slice(data);
        body.extend(std::iter::repeat_n(0, data.len() % 2));
    }
    [b"RIFF".as_slice(), &(body.len() as u32).to_le_bytes(), &body].concat()
}
