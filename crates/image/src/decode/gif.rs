//! Decoding of the first frame of GIF files, as in Pillow (`GifImagePlugin.py`). The canvas has the size of the logical screen, or more if
//! the frame exceeds it. Around the frame are the transparent colour or, if there is none, the first one of the palette.

use weezl::decode::Decoder;
use weezl::{BitOrder, LzwStatus};

use super::check_size;
use super::fault::{Fault, damaged, unsupported};
use super::samples::{Palette, Samples};

/// A reader of the blocks of a file.
struct Blocks<'a> {
    rest: &'a [u8],
}

/// The first frame, before it is decoded.
struct Frame<'a> {
    /// Left, top, width, height.
    area: [u32; 4],
    interlaced: bool,
    palette: Palette,
    transparent: Option<u8>,
    code_size: u8,
    data: Blocks<'a>,
    canvas: (u32, u32),
}

/// Returns the size of the canvas, if the file has a frame.
pub(super) fn dimensions(bytes: &[u8]) -> Option<(u32, u32)> {
    Some(first_frame(bytes).ok()?.canvas)
}

/// Decodes the first frame of a GIF file.
pub(super) fn decode(bytes: &[u8]) -> Result<Samples, Fault> {
    let mut frame = first_frame(bytes)?;
    let (width, height) = frame.canvas;
    check_size(width, height)?;
    if frame.area[2] == 0 || frame.area[3] == 0 {
        return Err(damaged("a frame without pixels"));
    }
    let mut canvas = vec![frame.transparent.unwrap_or(0); width as usize * height as usize];
    let [left, top, frame_width, frame_height] = frame.area.map(|side| side as usize);
    let indices = decompress(&mut frame.data, frame.code_size, frame_width * frame_height)?;
    let rows = row_order(frame_height, frame.interlaced);
    for (y, row) in rows.zip(indices.chunks_exact(frame_width)) {
        let start = (top + y) * width as usize + left;
        canvas[start..start + frame_width].copy_from_slice(row);
    }
    Ok(frame.palette.expand(&canvas, frame.transparent, width, height))
}

fn truncated() -> Fault {
    damaged("the file ends before the image does")
}

impl<'a> Blocks<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Fault> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or_else(truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, Fault> {
        Ok(self.take(1)?[0])
    }

    /// Returns the next block of data, or `None` at the end of the sequence or file.
    fn block(&mut self) -> Option<&'a [u8]> {
        let (&length, rest) = self.rest.split_first()?;
        let (block, rest) = rest.split_at(usize::from(length).min(rest.len()));
        self.rest = rest;
        (length > 0).then_some(block)
    }

    fn palette(&mut self, flags: u8) -> Result<Palette, Fault> {
        let colours = self.take(3 << ((flags & 7) + 1))?;
        Ok(Palette::of(colours.as_chunks::<3>().0.iter().copied()))
    }
}

fn first_frame(bytes: &[u8]) -> Result<Frame<'_>, Fault> {
    const HAS_PALETTE: u8 = 0x80;
    const INTERLACED: u8 = 0x40;
    let number = |bytes: &[u8], i: usize| u32::from(u16::from_le_bytes([bytes[i], bytes[i + 1]]));
    let mut blocks = Blocks { rest: bytes };
    let screen = blocks.take(13)?;
    let (mut width, mut height) = (number(screen, 6), number(screen, 8));
    let mut palette = Palette::grey();
    if screen[10] & HAS_PALETTE != 0 {
        palette = blocks.palette(screen[10])?;
    }
    let mut transparent = None;
    loop {
        match blocks.byte()? {
            b';' => return Err(damaged("no image")),
            b'!' => {
                const GRAPHIC_CONTROL: u8 = 0xf9;
                const COMMENT: u8 = 0xfe;
                let kind = blocks.byte()?;
                let first = blocks.block();
                if let (GRAPHIC_CONTROL, Some(&[flags, _, _, index, ..])) = (kind, first)
                    && flags & 1 != 0
                {
                    transparent = Some(index);
                }
                if first.is_some() || kind != COMMENT {
                    while blocks.block().is_some() {}
                }
            }
            b',' => {
                let descriptor = blocks.take(9)?;
                let area = [0, 2, 4, 6].map(|i| number(descriptor, i));
                width = width.max(area[0] + area[2]);
                height = height.max(area[1] + area[3]);
                if descriptor[8] & HAS_PALETTE != 0 {
                    let local = blocks.palette(descriptor[8])?;
                    // For Pillow, a palette of greys in order is none.
                    if !local.is_grey() {
                        palette = local;
                    }
                }
                return Ok(Frame {
                    area,
                    interlaced: descriptor[8] & INTERLACED != 0,
                    palette,
                    transparent,
                    code_size: blocks.byte()?,
                    data: blocks,
                    canvas: (width, height),
                });
            }
            // Pillow skips other bytes.
            _ => {}
        }
    }
}

/// Decompresses `length` indices.
fn decompress(data: &mut Blocks<'_>, code_size: u8, length: usize) -> Result<Vec<u8>, Fault> {
    if !(1..=12).contains(&code_size) {
        return Err(damaged(format!("codes of {code_size} bits")));
    }
    let mut decoder = Decoder::new(BitOrder::Lsb, code_size);
    let mut indices = vec![0; length];
    let mut done = 0;
    while let Some(mut block) = data.block() {
        while !block.is_empty() && done < length {
            let result = decoder.decode_bytes(block, &mut indices[done..]);
            done += result.consumed_out;
            block = &block[result.consumed_in..];
            match result.status {
                Ok(LzwStatus::Ok) => {}
                Ok(LzwStatus::Done | LzwStatus::NoProgress) => break,
                // Pillow reads some data with impossible codes.
                Err(error) => return Err(unsupported(error)),
            }
        }
        if done == length {
            return Ok(indices);
        }
        if decoder.has_ended() {
            break;
        }
    }
    // The last codes may still be in the decoder.
    while done < length {
        let result = decoder.decode_bytes(&[], &mut indices[done..]);
        if result.consumed_out == 0 {
            break;
        }
        done += result.consumed_out;
    }
    if done < length {
        return Err(truncated());
    }
    Ok(indices)
}

/// Returns the order in which the rows of a frame are stored.
fn row_order(height: usize, interlaced: bool) -> Box<dyn Iterator<Item = usize>> {
    if !interlaced {
        return Box::new(0..height);
    }
    let passes = [(0, 8), (4, 8), (2, 4), (1, 2)];
    Box::new(
        passes
            .into_iter()
            .flat_map(move |(first, step)| (first..height).step_by(step)),
    )
}
