//! Strips and tiles of a TIFF file: decompression and prediction.

use std::io::Read;

use super::super::fault::{Fault, damaged, unsupported};
use super::directory::Directory;
use super::tag;

/// How chunks are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    /// Modified Huffman codes, and those of fax groups 3 and 4.
    HuffmanRuns,
    Group3,
    Group4,
    Lzw,
    Jpeg,
    Deflate,
    PackBits,
    Zstd,
    WebP,
}

impl Compression {
    pub(super) fn of(directory: &Directory) -> Result<Self, Fault> {
        Ok(match directory.small(tag::COMPRESSION, 1) {
            1 => Self::None,
            2 => Self::HuffmanRuns,
            3 => Self::Group3,
            4 => Self::Group4,
            5 => Self::Lzw,
            7 => Self::Jpeg,
            8 | 32_946 => Self::Deflate,
            32_773 => Self::PackBits,
            50_000 => Self::Zstd,
            50_001 => Self::WebP,
            number @ (6 | 32_771 | 32_809 | 34_676 | 34_677 | 34_925) => {
                return Err(unsupported(format!("the compression {number}")));
            }
            number => return Err(damaged(format!("the unknown compression {number}"))),
        })
    }
}

/// The shape of the samples in a chunk.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) width: usize,
    pub(super) height: usize,
    /// Bits of a sample, and samples of a pixel in this chunk.
    pub(super) bits: usize,
    pub(super) samples: usize,
}

impl Shape {
    /// Number of bytes of a row.
    pub(super) fn row_size(&self) -> usize {
        (self.width * self.bits * self.samples).div_ceil(8)
    }

    pub(super) fn size(&self) -> usize {
        self.row_size() * self.height
    }
}

/// What the tags say about all chunks.
pub(super) struct Coding<'a> {
    pub(super) compression: Compression,
    pub(super) predictor: u16,
    /// Whether the first pixel of a byte is in its lowest bit.
    reversed: bool,
    big_endian: bool,
    jpeg_tables: Option<Vec<u8>>,
    is_ycbcr: bool,
    fax_options: u64,
    bytes: &'a [u8],
}

impl<'a> Coding<'a> {
    pub(super) fn of(directory: &Directory, bytes: &'a [u8]) -> Result<Self, Fault> {
        let compression = Compression::of(directory)?;
        let predictor = match compression {
            Compression::Lzw | Compression::Deflate | Compression::Zstd => directory.small(tag::PREDICTOR, 1),
            _ => 1,
        };
        if !(1..=3).contains(&predictor) {
            return Err(damaged(format!("the predictor {predictor}")));
        }
        let tables = directory.list(tag::JPEG_TABLES);
        Ok(Self {
            compression,
            predictor,
            reversed: directory.small(tag::FILL_ORDER, 1) == 2,
            big_endian: directory.big_endian,
            jpeg_tables: (!tables.is_empty()).then(|| tables.iter().map(|&byte| byte as u8).collect()),
            is_ycbcr: directory.small(tag::PHOTOMETRIC, 0) == 6,
            fax_options: directory.number(tag::T4_OPTIONS).unwrap_or(0),
            bytes,
        })
    }

    /// Returns the size of the file in bytes.
    pub(super) fn file_size(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Returns the samples of the chunk at `offset`, in the byte order of the file. A chunk that ends early is an error.
    pub(super) fn read(&self, offset: u64, length: Option<u64>, shape: Shape) -> Result<Vec<u8>, Fault> {
        let ends_early = || damaged("the file ends before the image does");
        let size = shape.size();
        let data = usize::try_from(offset).ok().and_then(|start| self.bytes.get(start..));
        let mut data = data.ok_or_else(ends_early)?;
        if self.compression == Compression::None {
            return self.in_order(data.get(..size).ok_or_else(ends_early)?.to_vec());
        }
        // libtiff rejects a strip or tile without a size.
        let length = length.ok_or_else(|| damaged("no sizes of strips or tiles"))?;
        data = &data[..data.len().min(usize::try_from(length).unwrap_or(usize::MAX))];
        let reversed;
        if self.reversed {
            reversed = self.in_order(data.to_vec())?;
            data = &reversed;
        }
        let mut samples = self.decompress(data, shape)?;
        if samples.len() < size {
            return Err(damaged("a strip or tile that ends early"));
        }
        samples.truncate(size);
        match self.predictor {
            2 => self.undo_differences(&mut samples, shape)?,
            3 => self.undo_float_differences(&mut samples, shape)?,
            _ => {}
        }
        Ok(samples)
    }

    /// Reverses the bits of each byte, if the file has them so.
    fn in_order(&self, mut data: Vec<u8>) -> Result<Vec<u8>, Fault> {
        if self.reversed {
            for byte in &mut data {
                *byte = byte.reverse_bits();
            }
        }
        Ok(data)
    }

    fn decompress(&self, data: &[u8], shape: Shape) -> Result<Vec<u8>, Fault> {
        let size = shape.size();
        match self.compression {
            Compression::None => Ok(data.to_vec()),
            Compression::Deflate => read_at_most(flate2::read::ZlibDecoder::new(data), size),
            Compression::Zstd => {
                let decoder = ruzstd::decoding::StreamingDecoder::new(data).map_err(unsupported)?;
                read_at_most(decoder, size)
            }
            Compression::Lzw => lzw(data, size),
            Compression::PackBits => Ok(pack_bits(data, size)),
            Compression::Jpeg => self.jpeg(data, shape),
            Compression::WebP => Err(unsupported("WebP data in a TIFF file")),
            Compression::HuffmanRuns => Err(unsupported("the compression 2")),
            Compression::Group3 | Compression::Group4 => self.fax(data, shape),
        }
    }

    fn jpeg(&self, data: &[u8], shape: Shape) -> Result<Vec<u8>, Fault> {
        let stated = super::super::jpeg::dimensions(data).ok_or_else(|| damaged("JPEG data without a size"))?;
        // The last tile or strip may be stored whole. Much larger images would take very long.
        if u64::from(stated.0) * u64::from(stated.1) > 64 * (shape.width * shape.height) as u64 + (1 << 16) {
            return Err(damaged("JPEG data of another size"));
        }
        let image = super::super::jpeg::decode_part(self.jpeg_tables.as_deref(), data, self.is_ycbcr)?;
        let (width, height, samples) = image;
        if samples.len() != width * height * shape.samples || width < shape.width || height < shape.height {
            return Err(damaged("JPEG data of another size"));
        }
        let row = width * shape.samples;
        let rows = samples.chunks_exact(row).take(shape.height);
        Ok(rows.flat_map(|samples| &samples[..shape.row_size()]).copied().collect())
    }

    fn fax(&self, data: &[u8], shape: Shape) -> Result<Vec<u8>, Fault> {
        const TWO_DIMENSIONAL: u64 = 1;
        if shape.bits != 1 || shape.samples != 1 {
            return Err(damaged("fax data of several bits"));
        }
        let width = u16::try_from(shape.width).map_err(damaged)?;
        let mut samples = Vec::with_capacity(shape.size());
        let mut add_line = |transitions: &[u16]| {
            let start = samples.len();
            samples.resize(start + shape.row_size(), 0u8);
            for (x, colour) in fax::decoder::pels(transitions, width).enumerate() {
                let bit = u8::from(colour == fax::Color::Black);
                samples[start + x / 8] |= bit << (7 - x % 8);
            }
        };
        // Codes for the end of a line and of the data, which files of group 3 may leave out.
        const END: [u8; 9] = [0, 0x10, 1, 0, 0x10, 1, 0, 0x10, 1];
        let input = data.iter().chain(&END).copied();
        let finished = if self.compression == Compression::Group4 {
            let height = u16::try_from(shape.height).map_err(damaged)?;
            fax::decoder::decode_g4(input, width, Some(height), &mut add_line)
        } else if self.fax_options & TWO_DIMENSIONAL != 0 {
            return Err(unsupported("two-dimensional codes of fax group 3"));
        } else {
            fax::decoder::decode_g3(input, &mut add_line)
        };
        if finished.is_none() && samples.len() < shape.size() {
            return Err(unsupported("fax data that ends early"));
        }
        Ok(samples)
    }

    /// Adds to each sample the one before it in the row.
    fn undo_differences(&self, samples: &mut [u8], shape: Shape) -> Result<(), Fault> {
        let step = shape.samples;
        for row in samples.chunks_exact_mut(shape.row_size().max(1)) {
            match shape.bits {
                8 => {
                    for i in step..row.len() {
                        row[i] = row[i].wrapping_add(row[i - step]);
                    }
                }
                16 => {
                    let row = row.as_chunks_mut::<2>().0;
                    for i in step..row.len() {
                        row[i] = self.add_u16(row[i], row[i - step]);
                    }
                }
                32 => {
                    let row = row.as_chunks_mut::<4>().0;
                    for i in step..row.len() {
                        row[i] = self.add_u32(row[i], row[i - step]);
                    }
                }
                bits => return Err(damaged(format!("a predictor of samples of {bits} bits"))),
            }
        }
        Ok(())
    }

    fn add_u16(&self, a: [u8; 2], b: [u8; 2]) -> [u8; 2] {
        if self.big_endian {
            u16::from_be_bytes(a).wrapping_add(u16::from_be_bytes(b)).to_be_bytes()
        } else {
            u16::from_le_bytes(a).wrapping_add(u16::from_le_bytes(b)).to_le_bytes()
        }
    }

    fn add_u32(&self, a: [u8; 4], b: [u8; 4]) -> [u8; 4] {
        if self.big_endian {
            u32::from_be_bytes(a).wrapping_add(u32::from_be_bytes(b)).to_be_bytes()
        } else {
            u32::from_le_bytes(a).wrapping_add(u32::from_le_bytes(b)).to_le_bytes()
        }
    }

    /// Undoes differences of the bytes of floating-point samples, whose most significant bytes are stored first, then the next ones.
    fn undo_float_differences(&self, samples: &mut [u8], shape: Shape) -> Result<(), Fault> {
        if !matches!(shape.bits, 16 | 24 | 32 | 64) {
            return Err(damaged(format!("a predictor of samples of {} bits", shape.bits)));
        }
        let size = shape.bits / 8;
        for row in samples.chunks_exact_mut(shape.row_size().max(1)) {
            for i in shape.samples..row.len() {
                row[i] = row[i].wrapping_add(row[i - shape.samples]);
            }
            let stored = row.to_vec();
            let count = row.len() / size;
            for (i, sample) in row.chunks_exact_mut(size).enumerate() {
                for (byte, out) in sample.iter_mut().enumerate() {
                    let significance = if self.big_endian { byte } else { size - 1 - byte };
                    *out = stored[significance * count + i];
                }
            }
        }
        Ok(())
    }
}

fn read_at_most(reader: impl Read, size: usize) -> Result<Vec<u8>, Fault> {
    let mut samples = Vec::new();
    // The samples before damage may be all that are needed.
    let result = reader.take(size as u64).read_to_end(&mut samples);
    match result {
        Err(error) if samples.len() < size => Err(unsupported(error)),
        _ => Ok(samples),
    }
}

fn lzw(data: &[u8], size: usize) -> Result<Vec<u8>, Fault> {
    // Files of an old library begin with a byte of zeros, and have the bits in another order.
    if data.first() == Some(&0) && data.get(1).is_some_and(|byte| byte & 1 == 1) {
        return Err(unsupported("LZW codes of old files"));
    }
    let mut decoder = weezl::decode::Decoder::with_tiff_size_switch(weezl::BitOrder::Msb, 8);
    let mut samples = vec![0; size];
    let (mut done, mut rest) = (0, data);
    while done < size {
        let result = decoder.decode_bytes(rest, &mut samples[done..]);
        done += result.consumed_out;
        rest = &rest[result.consumed_in..];
        match result.status {
            Ok(weezl::LzwStatus::Ok) if result.consumed_in + result.consumed_out > 0 => {}
            Ok(_) => break,
            Err(error) => return Err(unsupported(error)),
        }
    }
    if done < size {
        // libtiff reads some damaged data.
        return Err(unsupported("LZW data that end early"));
    }
    Ok(samples)
}

fn pack_bits(data: &[u8], size: usize) -> Vec<u8> {
    let mut samples = Vec::with_capacity(size);
    let mut rest = data;
    while let Some((&head, after)) = rest.split_first()
        && samples.len() < size
    {
        rest = after;
        match head as i8 {
            -128 => {}
            count @ 0.. => {
                let (values, after) = rest.split_at(rest.len().min(count as usize + 1));
                samples.extend_from_slice(values);
                rest = after;
            }
            count => {
                let Some((&value, after)) = rest.split_first() else {
                    break;
                };
                samples.resize(samples.len() + 1 + usize::from(count.unsigned_abs()), value);
                rest = after;
            }
        }
    }
    samples
}
