//! Decoding of BMP files, as in Pillow (`BmpImagePlugin.py`): headers of Windows and OS/2, palettes, bit fields and run lengths.

use image::ColorType;

use super::check_size;
use super::fault::{Fault, damaged};
use super::samples::{Palette, Samples};

/// Size in bytes of the header before the information header.
const FILE_HEADER_SIZE: usize = 14;

const RAW: u32 = 0;
const RLE8: u32 = 1;
const RLE4: u32 = 2;
const BIT_FIELDS: u32 = 3;

/// The information header.
struct Header {
    size: usize,
    width: u32,
    height: u32,
    bits: u16,
    compression: u32,
    colours: usize,
    top_down: bool,
    /// Position of the pixels, or 0 if they follow the palette.
    offset: usize,
}

/// How the bytes of a pixel become red, green, blue and alpha.
#[derive(Clone, Copy, PartialEq)]
enum Format {
    /// An index of 1, 4 or 8 bits.
    Index(u16),
    /// Sixteen bits, of which green has five or six.
    Packed { green_bits: u32 },
    /// Positions of red, green and blue in a pixel of so many bytes.
    Rgb { size: usize, positions: [usize; 3] },
    /// Positions of red, green, blue and alpha in four bytes.
    Rgba([usize; 4]),
}

/// Returns the size of the image, if the header has one.
pub(super) fn dimensions(bytes: &[u8]) -> Option<(u32, u32)> {
    let header = read_header(bytes).ok()?;
    Some((header.width, header.height))
}

/// Decodes a BMP file.
pub(super) fn decode(bytes: &[u8]) -> Result<Samples, Fault> {
    let header = read_header(bytes)?;
    check_size(header.width, header.height)?;
    let mut position = FILE_HEADER_SIZE + header.size;
    let format = match header.compression {
        BIT_FIELDS => bit_fields(bytes, &header, &mut position)?,
        RAW | RLE8 | RLE4 => match header.bits {
            bits @ (1 | 4 | 8) => Format::Index(bits),
            16 => Format::Packed { green_bits: 5 },
            24 | 32 => Format::Rgb {
                size: usize::from(header.bits) / 8,
                positions: [2, 1, 0],
            },
            bits => return Err(damaged(format!("{bits} bits per pixel"))),
        },
        compression => return Err(damaged(format!("the compression {compression}"))),
    };
    let palette = match format {
        Format::Index(_) => Some(read_palette(bytes, &header, &mut position)?),
        _ => None,
    };
    let start = match header.offset {
        0 => position,
        // Pixels do not begin at the palette.
        offset if offset == FILE_HEADER_SIZE + header.size && palette.is_some() => position.max(offset),
        offset => offset,
    };
    let data = bytes.get(start..).unwrap_or_default();
    let indices_or_pixels = match (header.compression, format) {
        (RLE8 | RLE4, Format::Index(_)) => run_lengths(data, start, &header)?,
        (RLE8 | RLE4, _) => return Err(damaged("run lengths of colours")),
        _ => rows(data, &header, format)?,
    };
    let (width, height) = (header.width, header.height);
    Ok(match palette {
        Some(palette) => palette.expand(&indices_or_pixels, None, width, height),
        None => Samples {
            layout: match format {
                Format::Rgba(_) => ColorType::Rgba8,
                _ => ColorType::Rgb8,
            },
            values: indices_or_pixels,
            width,
            height,
        },
    })
}

fn u16_at(bytes: &[u8], position: usize) -> Result<u16, Fault> {
    let value = bytes.get(position..).and_then(|rest| rest.first_chunk());
    value.map(|v| u16::from_le_bytes(*v)).ok_or_else(truncated)
}

fn u32_at(bytes: &[u8], position: usize) -> Result<u32, Fault> {
    let value = bytes.get(position..).and_then(|rest| rest.first_chunk());
    value.map(|v| u32::from_le_bytes(*v)).ok_or_else(truncated)
}

fn truncated() -> Fault {
    damaged("the file ends before the image does")
}

fn read_header(bytes: &[u8]) -> Result<Header, Fault> {
    const OS2: usize = 12;
    let size = u32_at(bytes, FILE_HEADER_SIZE)? as usize;
    if !matches!(size, OS2 | 40 | 52 | 56 | 64 | 108 | 124) {
        return Err(damaged(format!("a header of {size} bytes")));
    }
    if bytes.len() < FILE_HEADER_SIZE + size {
        return Err(truncated());
    }
    let offset = u32_at(bytes, 10)? as usize;
    if size == OS2 {
        let bits = u16_at(bytes, 24)?;
        return Ok(Header {
            size,
            width: u16_at(bytes, 18)?.into(),
            height: u16_at(bytes, 20)?.into(),
            bits,
            compression: RAW,
            colours: 1 << bits.min(16),
            top_down: false,
            offset,
        });
    }
    let bits = u16_at(bytes, 28)?;
    let height = u32_at(bytes, 22)?;
    let top_down = height >> 24 == 0xff;
    Ok(Header {
        size,
        width: u32_at(bytes, 18)?,
        height: if top_down { height.wrapping_neg() } else { height },
        bits,
        compression: u32_at(bytes, 30)?,
        colours: match u32_at(bytes, 46)? {
            0 => 1 << bits.min(16),
            colours => colours as usize,
        },
        top_down,
        offset,
    })
}

/// Reads the masks of a file with bit fields, in the header or behind one of 40 bytes. Pillow knows the usual masks only.
fn bit_fields(bytes: &[u8], header: &Header, position: &mut usize) -> Result<Format, Fault> {
    const MASKS: usize = FILE_HEADER_SIZE + 40;
    // Headers of 52 bytes have no mask of alpha.
    let has_alpha = header.size > 52;
    if header.size == 40 {
        *position += 12;
    }
    let alpha = if has_alpha { u32_at(bytes, MASKS + 12)? } else { 0 };
    let masks = [
        u32_at(bytes, MASKS)?,
        u32_at(bytes, MASKS + 4)?,
        u32_at(bytes, MASKS + 8)?,
        alpha,
    ];
    let rgb = |size, positions| Ok(Format::Rgb { size, positions });
    match (header.bits, masks) {
        (32, [0xff_0000, 0xff00, 0xff, 0]) => rgb(4, [2, 1, 0]),
        (32, [0xff00_0000, 0xff_0000, 0xff00, 0]) => rgb(4, [3, 2, 1]),
        (32, [0xff00_0000, 0xff00, 0xff, 0]) => rgb(4, [3, 1, 0]),
        (32, [0xff00_0000, 0xff_0000, 0xff00, 0xff]) => Ok(Format::Rgba([3, 2, 1, 0])),
        (32, [0xff, 0xff00, 0xff_0000, 0xff00_0000]) => Ok(Format::Rgba([0, 1, 2, 3])),
        (32, [0xff_0000, 0xff00, 0xff, 0xff00_0000] | [0, 0, 0, 0]) => Ok(Format::Rgba([2, 1, 0, 3])),
        (32, [0xff00_0000, 0xff00, 0xff, 0xff_0000]) => Ok(Format::Rgba([3, 1, 0, 2])),
        (24, [0xff_0000, 0xff00, 0xff, _]) => rgb(3, [2, 1, 0]),
        (16, [0xf800, 0x7e0, 0x1f, _]) => Ok(Format::Packed { green_bits: 6 }),
        (16, [0x7c00, 0x3e0, 0x1f, _]) => Ok(Format::Packed { green_bits: 5 }),
        (bits, [red, green, blue, alpha]) => Err(damaged(format!(
            "the masks {red:x}, {green:x}, {blue:x}, {alpha:x} of {bits} bits"
        ))),
    }
}

/// Reads the palette at `position`, and moves `position` behind it.
fn read_palette(bytes: &[u8], header: &Header, position: &mut usize) -> Result<Palette, Fault> {
    let entry_size = if header.size == 12 { 3 } else { 4 };
    if !(1..=65_536).contains(&header.colours) {
        return Err(damaged(format!("a palette of {} colours", header.colours)));
    }
    let end = *position + entry_size * header.colours;
    let entries = bytes.get(*position..end.min(bytes.len())).unwrap_or_default();
    *position = end;
    let colours = entries
        .chunks_exact(entry_size)
        .map(|entry| [entry[2], entry[1], entry[0]]);
    let is_black = header.colours == 1 && colours.clone().eq([[0; 3]]);
    if is_black && header.bits == 1 {
        return Ok(Palette::of([[0; 3], [255; 3]].into_iter()));
    }
    Ok(Palette::of(colours))
}

/// Reads uncompressed rows: one index per byte, or RGB, or RGBA. The first row of the result is the top one.
fn rows(data: &[u8], header: &Header, format: Format) -> Result<Vec<u8>, Fault> {
    let (width, height) = (header.width as usize, header.height as usize);
    let row_size = (width * usize::from(header.bits)).div_ceil(8);
    let stride = row_size.next_multiple_of(4);
    // The last row need not be padded.
    if data.len() < stride * (height - 1) + row_size {
        return Err(truncated());
    }
    let mut out = Vec::with_capacity(width * height * 3);
    for y in 0..height {
        let y = if header.top_down { y } else { height - 1 - y };
        let row = &data[y * stride..][..row_size];
        match format {
            Format::Index(8) => out.extend_from_slice(row),
            Format::Index(bits) => {
                let per_byte = 8 / usize::from(bits);
                let mask = (1u8 << bits) - 1;
                out.extend((0..width).map(|x| {
                    let shift = 8 - usize::from(bits) * (x % per_byte + 1);
                    row[x / per_byte] >> shift & mask
                }));
            }
            Format::Packed { green_bits } => {
                for pixel in row.as_chunks::<2>().0 {
                    let pixel = u32::from(u16::from_le_bytes(*pixel));
                    let green_max = (1 << green_bits) - 1;
                    let red = (pixel >> (5 + green_bits) & 31) * 255 / 31;
                    let green = (pixel >> 5 & green_max) * 255 / green_max;
                    out.extend([red as u8, green as u8, ((pixel & 31) * 255 / 31) as u8]);
                }
            }
            Format::Rgb { size, positions } => {
                for pixel in row.chunks_exact(size) {
                    out.extend(positions.map(|i| pixel[i]));
                }
            }
            Format::Rgba(positions) => {
                for pixel in row.as_chunks::<4>().0 {
                    out.extend(positions.map(|i| pixel[i]));
                }
            }
        }
    }
    Ok(out)
}

/// Decodes run lengths to one index per byte. `start` is the position of `data` in the file. Pixels that the data skips have index 0.
fn run_lengths(data: &[u8], start: usize, header: &Header) -> Result<Vec<u8>, Fault> {
    let (width, height) = (header.width as usize, header.height as usize);
    let is_rle4 = header.compression == RLE4;
    let total = width * height;
    let mut out: Vec<u8> = Vec::with_capacity(total);
    let mut rest = data;
    let mut x = 0;
    while out.len() < total {
        let Some((&[count, value], after)) = rest.split_first_chunk::<2>() else {
            break;
        };
        rest = after;
        match (count, value) {
            // The end of a row.
            (0, 0) => {
                out.resize(out.len().next_multiple_of(width), 0);
                x = 0;
            }
            (0, 1) => break,
            // A step to the right and up.
            (0, 2) => {
                let Some((&[right, up], after)) = rest.split_first_chunk::<2>() else {
                    break;
                };
                rest = after;
                let step = usize::from(right) + usize::from(up) * width;
                out.resize(out.len() + step.min(total - out.len()), 0);
                x = out.len() % width;
            }
            // Single pixels.
            (0, count) => {
                let pixels = usize::from(count).min(total - out.len());
                let size = if is_rle4 { pixels.div_ceil(2) } else { pixels };
                let values = &rest[..size.min(rest.len())];
                if is_rle4 {
                    let halves = values.iter().flat_map(|&v| [v >> 4, v & 15]);
                    out.extend(halves.take(pixels));
                } else {
                    out.extend_from_slice(values);
                }
                if values.len() < size || out.len() == total {
                    break;
                }
                rest = &rest[size..];
                x += usize::from(count);
                // Data continues at an even position in the file.
                if !(start + data.len() - rest.len()).is_multiple_of(2) {
                    rest = rest.get(1..).unwrap_or_default();
                }
            }
            // A run. What exceeds the row is left out.
            (count, value) => {
                let count = usize::from(count).min(width.saturating_sub(x));
                let pair = if is_rle4 { [value >> 4, value & 15] } else { [value; 2] };
                out.extend(pair.into_iter().cycle().take(count));
                x += count;
            }
        }
    }
    // Pillow demands all pixels, but the rest of the rows after the end of the data are missing only if they were never begun.
    if out.len() < total {
        return Err(truncated());
    }
    out.truncate(total);
    if !header.top_down {
        let mut turned = Vec::with_capacity(total);
        for row in out.chunks_exact(width).rev() {
            turned.extend_from_slice(row);
        }
        out = turned;
    }
    Ok(out)
}
