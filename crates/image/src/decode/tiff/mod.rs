//! Decoding of the first page of TIFF files, as in Pillow (`TiffImagePlugin.py`, which decompresses with libtiff).

use super::fault::{Fault, damaged, unsupported};
use super::samples::Samples;
use super::{MAX_ALLOCATION, check_size};

mod chunks;
mod directory;
mod lab;
mod layout;
mod ycbcr;

use chunks::{Coding, Compression, Shape};
use directory::Directory;
use layout::Layout;
use ycbcr::Subsampling;

/// How often the bytes of a file may be used by its strips or tiles.
const MAX_REUSE: u64 = 16;

/// Numbers of tags.
mod tag {
    pub(super) const WIDTH: u16 = 256;
    pub(super) const HEIGHT: u16 = 257;
    pub(super) const BITS_PER_SAMPLE: u16 = 258;
    pub(super) const COMPRESSION: u16 = 259;
    pub(super) const PHOTOMETRIC: u16 = 262;
    pub(super) const FILL_ORDER: u16 = 266;
    pub(super) const STRIP_OFFSETS: u16 = 273;
    pub(super) const ORIENTATION: u16 = 274;
    pub(super) const SAMPLES_PER_PIXEL: u16 = 277;
    pub(super) const ROWS_PER_STRIP: u16 = 278;
    pub(super) const STRIP_SIZES: u16 = 279;
    pub(super) const PLANAR: u16 = 284;
    pub(super) const T4_OPTIONS: u16 = 292;
    pub(super) const PREDICTOR: u16 = 317;
    pub(super) const COLOUR_MAP: u16 = 320;
    pub(super) const TILE_WIDTH: u16 = 322;
    pub(super) const TILE_HEIGHT: u16 = 323;
    pub(super) const TILE_OFFSETS: u16 = 324;
    pub(super) const TILE_SIZES: u16 = 325;
    pub(super) const EXTRA_SAMPLES: u16 = 338;
    pub(super) const SAMPLE_FORMAT: u16 = 339;
    pub(super) const JPEG_TABLES: u16 = 347;
    pub(super) const COEFFICIENTS: u16 = 529;
    pub(super) const SUBSAMPLING: u16 = 530;
    pub(super) const REFERENCE_BLACK_WHITE: u16 = 532;
    pub(super) const MEDIA_PHOTO: u16 = 0xbc01;
}

/// Returns whether a file begins like a TIFF file. Pillow also reads wrong orders of the two bytes of the version.
pub(super) fn is_tiff(start: &[u8]) -> bool {
    matches!(
        start.first_chunk(),
        Some(b"MM\0\x2a" | b"II\x2a\0" | b"MM\x2a\0" | b"II\0\x2a" | b"MM\0\x2b" | b"II\x2b\0")
    )
}

/// Returns the size of the image as it is stored, if the tags have one.
pub(super) fn dimensions(bytes: &[u8]) -> Option<(u32, u32)> {
    size(&Directory::read(bytes).ok()?).ok()
}

/// Returns the orientation, from 1 to 8, which Pillow applies to TIFF files.
pub(super) fn orientation(bytes: &[u8]) -> u8 {
    let orientation = Directory::read(bytes)
        .ok()
        .and_then(|tags| tags.number(tag::ORIENTATION));
    orientation.and_then(|value| u8::try_from(value).ok()).unwrap_or(1)
}

fn size(directory: &Directory) -> Result<(u32, u32), Fault> {
    let side = |tag| {
        let side = directory.number(tag).ok_or_else(|| damaged("no size"))?;
        u32::try_from(side).map_err(damaged)
    };
    Ok((side(tag::WIDTH)?, side(tag::HEIGHT)?))
}

/// The parts into which an image is divided.
struct Grid<'a> {
    /// Size of a strip or tile.
    width: usize,
    height: usize,
    offsets: &'a [u64],
    sizes: &'a [u64],
}

impl<'a> Grid<'a> {
    fn of(directory: &'a Directory, image: (usize, usize), is_raw: bool, is_planar: bool) -> Result<Self, Fault> {
        let strips = directory.list(tag::STRIP_OFFSETS);
        let mut grid = if strips.is_empty() {
            let side = |tag| match directory.number(tag) {
                Some(side @ 1..0x8000_0000) => Ok(side as usize),
                _ => Err(damaged("no strips, and tiles without a size")),
            };
            Self {
                width: side(tag::TILE_WIDTH)?,
                height: side(tag::TILE_HEIGHT)?,
                offsets: directory.list(tag::TILE_OFFSETS),
                sizes: directory.list(tag::TILE_SIZES),
            }
        } else {
            let rows = directory.number(tag::ROWS_PER_STRIP).unwrap_or(u64::MAX);
            Self {
                width: image.0,
                height: rows.clamp(1, image.1 as u64) as usize,
                offsets: strips,
                sizes: directory.list(tag::STRIP_SIZES),
            }
        };
        if is_raw && !is_planar && (grid.width, grid.height) == image {
            // Pillow takes the last of several images.
            grid.offsets = &grid.offsets[grid.offsets.len().saturating_sub(1)..];
        }
        Ok(grid)
    }
}

/// Decodes a TIFF file as it is stored: its orientation is not applied.
pub(super) fn decode(bytes: &[u8]) -> Result<Samples, Fault> {
    const PLANAR: u16 = 2;
    let directory = Directory::read(bytes)?;
    if !directory.list(tag::MEDIA_PHOTO).is_empty() {
        return Err(damaged("Windows Media Photo data"));
    }
    let (width, height) = size(&directory)?;
    check_size(width, height)?;
    let coding = Coding::of(&directory, bytes)?;
    let is_raw = coding.compression == Compression::None;
    let is_planar = directory.small(tag::PLANAR, 1) == PLANAR;
    let mut layout = Layout::of(&directory, is_planar, is_raw)?;
    let mut subsampling = None;
    match coding.compression {
        Compression::Jpeg if layout.is_ycbcr() && !is_planar => layout.set_rgb(),
        _ if layout.is_ycbcr() && !is_raw => {
            if is_planar {
                return Err(damaged("compressed planes of YCbCr colours"));
            }
            subsampling = Some(subsampling_of(&directory, &coding)?);
            layout.set_rgb();
        }
        _ if is_raw && is_planar && layout.samples > 1 && layout.bits != 8 => {
            return Err(unsupported("uncompressed planes of more than 8 bits"));
        }
        _ => {}
    }
    let image = (width as usize, height as usize);
    let grid = Grid::of(&directory, image, is_raw, is_planar)?;
    read_chunks(&grid, &coding, &layout, is_planar, subsampling, image).map(|values| Samples {
        values,
        layout: layout.output(),
        width,
        height,
    })
}

/// Returns the subsampling of chroma of a compressed file.
fn subsampling_of(directory: &Directory, coding: &Coding<'_>) -> Result<Subsampling, Fault> {
    let has_defaults = directory.is_ratio_list(tag::COEFFICIENTS, &[0.299, 0.587, 0.114])
        && directory.is_ratio_list(tag::REFERENCE_BLACK_WHITE, &[0.0, 255.0, 128.0, 255.0, 128.0, 255.0]);
    if !has_defaults || coding.predictor != 1 {
        return Err(unsupported("compressed YCbCr colours with coefficients or a predictor"));
    }
    let [horizontal, vertical] = match *directory.list(tag::SUBSAMPLING) {
        [] => [2, 2],
        [_, 4, ..] => return Err(unsupported("compressed YCbCr colours of a quarter of the rows")),
        [horizontal @ (1 | 2 | 4), vertical @ (1 | 2), ..] => [horizontal as usize, vertical as usize],
        _ => return Err(damaged("an impossible subsampling")),
    };
    Ok(Subsampling { horizontal, vertical })
}

/// Reads all strips or tiles and converts them to rows of RGB or RGBA.
fn read_chunks(
    grid: &Grid<'_>,
    coding: &Coding<'_>,
    layout: &Layout,
    is_planar: bool,
    subsampling: Option<Subsampling>,
    (width, height): (usize, usize),
) -> Result<Vec<u8>, Fault> {
    let channels = usize::from(layout.output().channel_count());
    let mut pixels = vec![0; width * height * channels];
    let (across, down) = (width.div_ceil(grid.width), height.div_ceil(grid.height));
    let planes = if is_planar { layout.samples } else { 1 };
    if coding.compression != Compression::None {
        // Files of many strips or tiles with the same data would take very long.
        let sizes = grid.sizes.iter().map(|&size| size.min(coding.file_size()));
        if sizes.sum::<u64>() > MAX_REUSE * coding.file_size() {
            return Err(unsupported("strips or tiles that overlap"));
        }
    }
    let mut row = Vec::new();
    for chunk in 0..across * down {
        let (left, top) = (chunk % across * grid.width, chunk / across * grid.height);
        let rows = grid.height.min(height - top);
        let is_strip = grid.width == width;
        let is_raw = coding.compression == Compression::None;
        let shape = Shape {
            width: grid.width,
            // The last strip has the rows that are left, a compressed tile has all.
            height: if is_strip || is_raw { rows } else { grid.height },
            bits: layout.bits,
            samples: layout.samples / planes,
        };
        if shape.size() as u64 * planes as u64 > MAX_ALLOCATION {
            return Err(unsupported("strips or tiles that need too much memory"));
        }
        let stored_shape = match subsampling {
            None => shape,
            Some(subsampling) => Shape {
                width: shape.width.div_ceil(subsampling.horizontal),
                height: shape.height.div_ceil(subsampling.vertical),
                samples: subsampling.unit_size(),
                ..shape
            },
        };
        let read = |plane: usize| {
            let index = plane * across * down + chunk;
            let Some(&offset) = grid.offsets.get(index) else {
                return Ok(None);
            };
            let size = grid.sizes.get(index).copied();
            let samples = coding.read(offset, size, stored_shape)?;
            Ok(Some(match subsampling {
                None => samples,
                Some(subsampling) => subsampling.convert(&samples, shape.width),
            }))
        };
        let samples = if planes == 1 {
            read(0)?
        } else {
            let parts: Option<Vec<Vec<u8>>> = (0..planes).map(read).collect::<Result<_, _>>()?;
            parts.map(|parts| interleave(&parts, layout.bits / 8))
        };
        let Some(samples) = samples else {
            // Pillow leaves missing parts of uncompressed images black.
            if is_raw && !grid.offsets.is_empty() {
                break;
            }
            return Err(damaged("too few strips or tiles"));
        };
        let visible = grid.width.min(width - left);
        let stride = shape.row_size() * planes;
        for (y, stored) in samples.chunks_exact(stride).take(rows).enumerate() {
            row.clear();
            layout.convert(stored, visible, &mut row);
            let start = ((top + y) * width + left) * channels;
            pixels[start..start + row.len()].copy_from_slice(&row);
        }
    }
    Ok(pixels)
}

/// Joins planes of samples of `size` bytes to pixels.
fn interleave(planes: &[Vec<u8>], size: usize) -> Vec<u8> {
    let total = planes.iter().map(Vec::len).sum();
    let mut pixels = vec![0; total];
    for (i, plane) in planes.iter().enumerate() {
        let targets = pixels.chunks_exact_mut(size).skip(i).step_by(planes.len());
        for (target, sample) in targets.zip(plane.chunks_exact(size)) {
            target.copy_from_slice(sample);
        }
    }
    pixels
}
