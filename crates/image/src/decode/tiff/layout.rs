//! How samples of a TIFF file become pixels: the layouts that Pillow knows (`OPEN_INFO` in `TiffImagePlugin.py`).

use image::ColorType;

use super::super::fault::{Fault, damaged, unsupported};
use super::super::samples::Palette;
use super::directory::Directory;
use super::{lab, tag};

/// The meaning of the samples of a pixel.
pub(super) struct Layout {
    kind: Kind,
    /// Bits of a sample.
    pub(super) bits: usize,
    /// Number of samples of a pixel.
    pub(super) samples: usize,
    /// What the sample with the opacity is, if there is one.
    alpha: Alpha,
    big_endian: bool,
    palette: Palette,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// Grey, inverted or not.
    Grey {
        inverted: bool,
    },
    /// Grey of numbers that are clipped to 0..=255.
    Signed,
    Float,
    Rgb,
    Palette,
    Cmyk,
    YCbCr,
    Lab,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Alpha {
    None,
    /// Colours are multiplied with the opacity.
    Associated,
    Unassociated,
}

impl Layout {
    /// Returns the layout that the tags describe.
    pub(super) fn of(directory: &Directory, is_planar: bool, is_raw: bool) -> Result<Self, Fault> {
        const UNSIGNED: u64 = 1;
        const SIGNED: u64 = 2;
        const FLOAT: u64 = 3;
        let photometric = directory.small(tag::PHOTOMETRIC, 0);
        let formats = directory.list(tag::SAMPLE_FORMAT);
        let format = formats.first().copied().unwrap_or(UNSIGNED);
        let mut samples = usize::from(directory.small(tag::SAMPLES_PER_PIXEL, 1));
        let mut bits = match directory.list(tag::BITS_PER_SAMPLE) {
            [] => vec![1],
            bits => bits.to_vec(),
        };
        let mut extra = directory.list(tag::EXTRA_SAMPLES).to_vec();
        if is_planar && !extra.is_empty() && extra.iter().all(|&kind| kind == 0) {
            // Components without a meaning are stored apart, after the others.
            bits.truncate(bits.len().saturating_sub(extra.len()));
            samples = samples.saturating_sub(extra.len());
            extra.clear();
        }
        if samples > 6 {
            return Err(damaged(format!("{samples} samples per pixel")));
        }
        bits.truncate(samples);
        if let [one] = bits[..] {
            bits = vec![one; samples];
        }
        let depth = bits.first().copied().unwrap_or(0) as usize;
        if bits.len() != samples || samples == 0 || bits.iter().any(|&b| b as usize != depth) {
            return Err(damaged("samples of different sizes"));
        }
        if formats.iter().any(|&other| other != format) {
            return Err(damaged("samples of different formats"));
        }
        let unknown = || {
            damaged(format!(
                "photometric interpretation {photometric} with {samples} samples of {depth} bits (format {format}, extra samples {extra:?})"
            ))
        };
        let alpha = match extra[..] {
            [2 | 999, ..] => Alpha::Unassociated,
            [1, ..] => Alpha::Associated,
            _ => Alpha::None,
        };
        let has_only_zeros_after = |n: usize| extra.iter().skip(n).all(|&kind| kind == 0);
        let big_endian = directory.big_endian;
        let colours = samples.checked_sub(extra.len()).ok_or_else(unknown)?;
        let kind = match (photometric, format, depth, colours, extra.len()) {
            (0 | 1, UNSIGNED, 1 | 2 | 4 | 8, 1, 0) => Kind::Grey {
                inverted: photometric == 0,
            },
            (1, SIGNED, 8, 1, 0) | (1, UNSIGNED, 8, 1, 1) => Kind::Grey { inverted: false },
            (1, UNSIGNED, 12, 1, 0) if !big_endian => Kind::Grey { inverted: false },
            // Pillow does not invert these.
            (0, UNSIGNED, 16, 1, 0) if !big_endian => Kind::Grey { inverted: false },
            (1, UNSIGNED, 16, 1, 0) => Kind::Grey { inverted: false },
            (1, SIGNED, 16 | 32, 1, 0) => Kind::Signed,
            (1, UNSIGNED, 32, 1, 0) if !big_endian => Kind::Signed,
            (0 | 1, FLOAT, 32, 1, 0) => Kind::Float,
            (2, UNSIGNED, 8, 3, 0..=3) if has_only_zeros_after(1) => Kind::Rgb,
            (2, UNSIGNED, 16, 3, 0 | 1) => Kind::Rgb,
            // A file without the tag of extra samples.
            (2, UNSIGNED, 8 | 16, 4, 0) => Kind::Rgb,
            (3, UNSIGNED, 1 | 2 | 4 | 8, 1, 0) => Kind::Palette,
            (3, UNSIGNED, 8, 1, 1) if alpha != Alpha::Associated => Kind::Palette,
            (5, UNSIGNED, 8, 4, 0..=2) if has_only_zeros_after(0) => Kind::Cmyk,
            (5, UNSIGNED, 16, 4, 0) => Kind::Cmyk,
            (6, UNSIGNED, 8, 1, 0) => Kind::Grey { inverted: false },
            (6, UNSIGNED, 8, 3, 0) => Kind::YCbCr,
            (8, UNSIGNED, 8, 3, 0) => Kind::Lab,
            _ => return Err(unknown()),
        };
        let is_odd_alpha = matches!(extra.first(), Some(&first) if !matches!(first, 0..=2) && (first != 999 || extra.len() > 1 || kind != Kind::Rgb));
        if is_odd_alpha {
            return Err(unknown());
        }
        if samples == 2 && alpha == Alpha::Associated {
            return Err(unsupported("grey multiplied with opacity"));
        }
        Ok(Self {
            kind,
            bits: depth,
            samples,
            alpha: match (kind, colours) {
                // libtiff's default for a fourth sample.
                (Kind::Rgb, 4) if is_planar && !is_raw => Alpha::Associated,
                (Kind::Rgb, 4) => Alpha::Unassociated,
                _ => alpha,
            },
            big_endian,
            palette: read_palette(directory, kind)?,
        })
    }

    /// Sets the colours to RGB, for data that the decompression converts.
    pub(super) fn set_rgb(&mut self) {
        self.kind = Kind::Rgb;
    }

    /// Returns the layout of the pixels that [`Self::convert`] makes.
    pub(super) fn output(&self) -> ColorType {
        match self.alpha {
            Alpha::None => ColorType::Rgb8,
            _ => ColorType::Rgba8,
        }
    }

    /// Returns whether the bytes are those of colours that need conversion from YCbCr.
    pub(super) fn is_ycbcr(&self) -> bool {
        self.kind == Kind::YCbCr
    }

    /// Converts rows of interleaved samples to RGB or RGBA. `row` has at least `width` pixels.
    pub(super) fn convert(&self, row: &[u8], width: usize, out: &mut Vec<u8>) {
        let end = out.len() + width * usize::from(self.output().channel_count());
        match self.bits {
            8 => {
                for pixel in row.chunks_exact(self.samples).take(width) {
                    self.pixel(pixel, out);
                }
            }
            16 if self.kind == Kind::Signed || self.samples == 1 => {
                for pixel in row.as_chunks::<2>().0.iter().take(width) {
                    let value = if self.big_endian {
                        u16::from_be_bytes(*pixel)
                    } else {
                        u16::from_le_bytes(*pixel)
                    };
                    let value = match self.kind {
                        Kind::Signed => i32::from(value as i16),
                        _ => i32::from(value),
                    };
                    out.extend([value.clamp(0, 255) as u8; 3]);
                }
            }
            16 => {
                // The high bytes.
                let mut pixel = [0; 6];
                for samples in row.chunks_exact(2 * self.samples).take(width) {
                    let skip = usize::from(!self.big_endian);
                    for (to, &from) in pixel.iter_mut().zip(samples.iter().skip(skip).step_by(2)) {
                        *to = from;
                    }
                    self.pixel(&pixel[..self.samples], out);
                }
            }
            32 => {
                for pixel in row.as_chunks::<4>().0.iter().take(width) {
                    let value = if self.big_endian {
                        u32::from_be_bytes(*pixel)
                    } else {
                        u32::from_le_bytes(*pixel)
                    };
                    let value = match self.kind {
                        Kind::Float => f32::from_bits(value) as i32,
                        _ => value as i32,
                    };
                    out.extend([value.clamp(0, 255) as u8; 3]);
                }
            }
            bits => {
                for value in small_samples(row, bits).take(width) {
                    match self.kind {
                        Kind::Grey { .. } if bits == 12 => out.extend([value.min(255) as u8; 3]),
                        Kind::Palette => self.pixel(&[value as u8], out),
                        _ => self.pixel(&[(value * (255 / ((1 << bits) - 1))) as u8], out),
                    }
                }
            }
        }
        out.resize(end, 0);
    }

    /// Converts one pixel of 8-bit samples.
    fn pixel(&self, samples: &[u8], out: &mut Vec<u8>) {
        let colour = match self.kind {
            Kind::Grey { inverted: true } => [255 - samples[0]; 3],
            Kind::Palette => self.palette.get(samples[0]),
            Kind::Rgb => [samples[0], samples[1], samples[2]],
            Kind::Cmyk => [0, 1, 2].map(|i| subtract_ink(samples[i], samples[3])),
            Kind::YCbCr => super::ycbcr::to_rgb(samples[0], samples[1], samples[2]),
            Kind::Lab => lab::to_rgb(samples[0], samples[1], samples[2]),
            _ => [samples[0]; 3],
        };
        let alpha_index = if self.kind == Kind::Rgb { 3 } else { 1 };
        match self.alpha {
            Alpha::None => out.extend(colour),
            Alpha::Unassociated => {
                out.extend(colour);
                out.push(samples[alpha_index]);
            }
            Alpha::Associated => {
                let alpha = samples[alpha_index];
                out.extend(colour.map(|value| divide(value, alpha)));
                out.push(alpha);
            }
        }
    }
}

/// Divides a value by the opacity that it was multiplied with.
fn divide(value: u8, alpha: u8) -> u8 {
    match alpha {
        0 => 0,
        255 => value,
        _ => (u32::from(value) * 255 / u32::from(alpha)).min(255) as u8,
    }
}

/// Returns what ink leaves of the light that black leaves, with Pillow's rounding (`cmyk2rgb`).
fn subtract_ink(ink: u8, black: u8) -> u8 {
    let light = 255 - black;
    let product = u32::from(ink) * u32::from(light) + 128;
    light.saturating_sub(((product + (product >> 8)) >> 8) as u8)
}

/// Iterates over samples of less than 8 or of 12 bits, the first one in the most significant bits.
fn small_samples(row: &[u8], bits: usize) -> impl Iterator<Item = u16> + '_ {
    let count = row.len() * 8 / bits;
    (0..count).map(move |i| {
        let (byte, bit) = (i * bits / 8, i * bits % 8);
        let next = row.get(byte + 1).copied().unwrap_or(0);
        let pair = u16::from_be_bytes([row[byte], next]);
        (pair << bit) >> (16 - bits)
    })
}

fn read_palette(directory: &Directory, kind: Kind) -> Result<Palette, Fault> {
    if kind != Kind::Palette {
        return Ok(Palette::grey());
    }
    let values = directory.list(tag::COLOUR_MAP);
    let third = values.len() / 3;
    if third == 0 || third > 256 {
        return Err(damaged(format!("a colour map of {} values", values.len())));
    }
    let colour = |i: usize| [0, 1, 2].map(|channel| (values[channel * third + i] >> 8) as u8);
    Ok(Palette::of((0..third).map(colour)))
}
