//! A decoder for every layout of sequential and progressive JPEG with Huffman codes. It gives the pixels of libjpeg-turbo as Pillow uses
//! it: integer transform, interpolated chroma, and its rules for colour spaces, missing tables and damaged data.
//!
//! It is slower than `zune-jpeg`, and decodes what `zune-jpeg` does not decode as libjpeg does.

use image::RgbImage;

use super::super::fault::{Fault, damaged, unsupported};
use super::super::{MAX_ALLOCATION, check_size};
use crate::memory;

mod colour;
mod huffman;
mod idct;
mod markers;
mod scan;
mod upsample;

use colour::ColourSpace;
use huffman::{Bits, standard_tables};
use markers::{Frame, State};
use scan::Plane;
use upsample::Samples;

/// Maximum number of scans. Each may take as long as the whole image; a progressive file has ten.
const MAX_SCANS: usize = 200;

/// The components of an image, enlarged to its size when they are read.
pub(super) struct Components {
    frame: Frame,
    samples: Vec<Samples>,
    space: ColourSpace,
}

/// Decodes a JPEG file to RGB.
pub(super) fn decode(bytes: &[u8]) -> Result<RgbImage, Fault> {
    let Components { frame, samples, space } = decode_components(bytes, State::new())?;
    let mut pixels = memory::take(3 * frame.width * frame.height);
    let mut rows = vec![Vec::new(); samples.len()];
    for (y, out) in pixels.chunks_exact_mut(3 * frame.width).enumerate() {
        for (component, row) in samples.iter().zip(&mut rows) {
            component.enlarge_row(y, row);
        }
        space.convert_row(&rows, out);
    }
    let image = RgbImage::from_raw(frame.width as u32, frame.height as u32, pixels);
    image.ok_or_else(|| damaged("too few pixels"))
}

/// Decodes JPEG data whose tables may be apart. Returns width, height and interleaved components: as they are stored, or as RGB if they
/// are YCbCr.
pub(in crate::decode) fn decode_part(
    tables: Option<&[u8]>,
    bytes: &[u8],
    is_ycbcr: bool,
) -> Result<(usize, usize, Vec<u8>), Fault> {
    let mut state = State::new();
    state.may_be_pairs = true;
    if let Some(tables) = tables {
        next_scan(tables, &mut Bits::new(tables, 2), &mut state)?;
    }
    let Components { frame, samples, .. } = decode_components(bytes, state)?;
    let mut pixels = vec![0; samples.len() * frame.width * frame.height];
    let mut rows = vec![Vec::new(); samples.len()];
    for (y, out) in pixels.chunks_exact_mut(samples.len() * frame.width).enumerate() {
        for (component, row) in samples.iter().zip(&mut rows) {
            component.enlarge_row(y, row);
        }
        if is_ycbcr && samples.len() == 3 {
            ColourSpace::YCbCr.convert_row(&rows, out);
        } else {
            for (x, pixel) in out.chunks_exact_mut(samples.len()).enumerate() {
                for (value, row) in pixel.iter_mut().zip(&rows) {
                    *value = row[x];
                }
            }
        }
    }
    Ok((frame.width, frame.height, pixels))
}

fn decode_components(bytes: &[u8], mut state: State) -> Result<Components, Fault> {
    let mut image: Option<(Frame, Vec<Plane>)> = None;
    let mut space = ColourSpace::Grey;
    let mut markers = Bits::new(bytes, 2);
    let mut is_first_complete = false;
    for scans in 0.. {
        let Some(content) = next_scan(bytes, &mut markers, &mut state)? else {
            break;
        };
        if scans == MAX_SCANS {
            return Err(unsupported(format!("more than {MAX_SCANS} scans")));
        }
        let scan = state.read_scan_header(content)?;
        let (frame, planes) = match &mut image {
            // The first scan of a sequential image may have all components. libjpeg expects no other then.
            Some((frame, _)) if !frame.progressive && is_first_complete => {
                return Err(damaged("a scan after the last one"));
            }
            Some(image) => image,
            None => {
                let frame = state.frame.clone().ok_or_else(|| damaged("a scan before the frame"))?;
                // Markers behind the first scan change neither colours nor size.
                space = ColourSpace::of(&state, &frame);
                is_first_complete = scan.components.len() == frame.components.len();
                if !frame.progressive {
                    complete_tables(&mut state);
                }
                let planes = allocate(&frame)?;
                image.insert((frame, planes))
            }
        };
        let (marker, position) = scan::decode(bytes, markers.position, &scan, &state, frame, planes)?;
        markers = Bits::new(bytes, position);
        markers.marker = marker;
    }
    let (frame, planes) = image.ok_or_else(|| damaged("no image data"))?;
    Ok(Components {
        samples: samples(&frame, planes),
        frame,
        space,
    })
}

/// Reads segments up to the next scan. Returns the content of the scan's header, or `None` at the end of the image.
fn next_scan<'a>(bytes: &'a [u8], markers: &mut Bits<'a>, state: &mut State) -> Result<Option<&'a [u8]>, Fault> {
    loop {
        let marker = markers.next_marker();
        let marker = marker.ok_or_else(|| damaged("the file ends before the image does"))?;
        markers.marker = None;
        match marker {
            // Restart markers and a marker without meaning.
            0x01 | 0xd0..=0xd7 => continue,
            0xd9 => return Ok(None),
            _ => {}
        }
        let content = segment(bytes, markers.position);
        let content = content.ok_or_else(|| damaged("a segment that is longer than the file"))?;
        markers.position += content.len() + 2;
        if marker == 0xda {
            return Ok(Some(content));
        }
        state.read_segment(marker, content)?;
    }
}

/// Returns the content of the segment whose length is at `position`.
fn segment(bytes: &[u8], position: usize) -> Option<&[u8]> {
    let rest = bytes.get(position..)?;
    let length = usize::from(u16::from_be_bytes(*rest.first_chunk()?));
    rest.get(2..length)
}

/// Sets the Huffman tables that a sequential file leaves out.
fn complete_tables(state: &mut State) {
    let (dc, ac) = standard_tables();
    for (table, standard) in state.dc_tables.iter_mut().zip(dc) {
        table.get_or_insert(standard);
    }
    for (table, standard) in state.ac_tables.iter_mut().zip(ac) {
        table.get_or_insert(standard);
    }
}

fn allocate(frame: &Frame) -> Result<Vec<Plane>, Fault> {
    check_size(frame.width as u32, frame.height as u32)?;
    // A coefficient takes two bytes. Padding can multiply the size of small images only.
    let blocks: usize = Plane::sizes(frame).map(|[_, _, columns, rows]| columns * rows).sum();
    if blocks as u64 * 128 > MAX_ALLOCATION {
        return Err(unsupported("a layout that needs too much memory"));
    }
    for component in &frame.components {
        if !frame.max_horizontal.is_multiple_of(component.horizontal)
            || !frame.max_vertical.is_multiple_of(component.vertical)
        {
            return Err(damaged("sampling factors whose ratio is not an integer"));
        }
    }
    Ok(Plane::all(frame))
}

/// Transforms all coefficients to samples. The memory of a component's coefficients is freed before the next one is transformed.
fn samples(frame: &Frame, planes: Vec<Plane>) -> Vec<Samples> {
    let transformed = planes.into_iter().zip(&frame.components).map(|(plane, component)| {
        let stride = 8 * plane.columns;
        // A component without a scan is grey.
        let mut values = vec![128; stride * 8 * plane.rows];
        if let Some(quantisation) = &plane.quantisation {
            let block_rows = plane.coefficients.chunks_exact(64 * plane.stride);
            for (blocks, out) in block_rows.zip(values.chunks_exact_mut(8 * stride)) {
                for (column, block) in blocks.as_chunks::<64>().0[..plane.columns].iter().enumerate() {
                    let block = idct::transform(block, quantisation);
                    for (row, line) in block.as_chunks::<8>().0.iter().enumerate() {
                        out[row * stride + 8 * column..][..8].copy_from_slice(line);
                    }
                }
            }
        }
        Samples {
            values,
            stride,
            width: (frame.width * component.horizontal).div_ceil(frame.max_horizontal),
            height: (frame.height * component.vertical).div_ceil(frame.max_vertical),
            horizontal: frame.max_horizontal / component.horizontal,
            vertical: frame.max_vertical / component.vertical,
        }
    });
    transformed.collect()
}
