//! Decoding of scans to coefficients, as in libjpeg (`jdhuff.c`, `jdphuff.c`).

use super::super::super::fault::{Fault, damaged};
use super::huffman::{Bits, Definition, Table};
use super::markers::{Frame, NATURAL_ORDER, ScanHeader, State};

/// The coefficients of a component.
pub(super) struct Plane {
    /// Blocks of 64 coefficients, in the order of a block's rows; rows of blocks are padded to whole MCUs.
    pub(super) coefficients: Vec<i16>,
    /// Number of blocks in a padded row.
    pub(super) stride: usize,
    /// Number of blocks in a row and in a column that the image has.
    pub(super) columns: usize,
    pub(super) rows: usize,
    /// The quantisation table that was current at the first scan of the component.
    pub(super) quantisation: Option<[u16; 64]>,
}

impl Plane {
    /// Returns the size, in blocks, of each component of a frame: columns and rows without and with padding.
    pub(super) fn sizes(frame: &Frame) -> impl Iterator<Item = [usize; 4]> + '_ {
        frame.components.iter().map(|component| {
            let columns = (frame.width * component.horizontal).div_ceil(8 * frame.max_horizontal);
            let rows = (frame.height * component.vertical).div_ceil(8 * frame.max_vertical);
            let stride = columns.next_multiple_of(component.horizontal);
            [columns, rows, stride, rows.next_multiple_of(component.vertical)]
        })
    }

    pub(super) fn all(frame: &Frame) -> Vec<Self> {
        Self::sizes(frame)
            .map(|[columns, rows, stride, padded_rows]| Self {
                coefficients: vec![0; stride * padded_rows * 64],
                stride,
                columns,
                rows,
                quantisation: None,
            })
            .collect()
    }
}

/// A component of the scan that is decoded.
struct Part {
    /// Index in the frame.
    index: usize,
    /// Number of blocks of an MCU, in a row and in a column.
    width: usize,
    height: usize,
    dc: Option<Table>,
    ac: Option<Table>,
    /// The last DC coefficient.
    predictor: i32,
}

/// Decodes one scan to `planes`. `position` is that of the byte after the scan header. Returns the marker that ended the scan, if it was
/// reached, and the position after it.
pub(super) fn decode(
    bytes: &[u8],
    position: usize,
    scan: &ScanHeader,
    state: &State,
    frame: &Frame,
    planes: &mut [Plane],
) -> Result<(Option<u8>, usize), Fault> {
    for &(index, ..) in &scan.components {
        if planes[index].quantisation.is_none() {
            let table = state.quantisation.get(frame.components[index].table).copied().flatten();
            planes[index].quantisation = Some(table.ok_or_else(|| damaged("a missing quantisation table"))?);
        }
    }
    let mut parts = parts(scan, state, frame)?;
    let (mcus_per_row, mcu_rows) = match parts[..] {
        [ref part] => (planes[part.index].columns, planes[part.index].rows),
        _ => (
            frame.width.div_ceil(8 * frame.max_horizontal),
            frame.height.div_ceil(8 * frame.max_vertical),
        ),
    };
    let mut decoder = Decoder {
        bits: Bits::new(bytes, position),
        scan,
        progressive: frame.progressive,
        end_of_band_run: 0,
        next_restart: 0,
    };
    let mut until_restart = state.restart_interval;
    for mcu_row in 0..mcu_rows {
        for mcu in 0..mcus_per_row {
            if state.restart_interval > 0 {
                if until_restart == 0 {
                    decoder.restart(&mut parts);
                    until_restart = state.restart_interval;
                }
                until_restart -= 1;
            } else if decoder.bits.exhausted {
                // The rest of the scan would change nothing.
                return Ok(decoder.finish());
            }
            if decoder.bits.exhausted {
                continue;
            }
            for part in &mut parts {
                let plane = &mut planes[part.index];
                for row in mcu_row * part.height..(mcu_row + 1) * part.height {
                    let start = row * plane.stride + mcu * part.width;
                    let blocks = &mut plane.coefficients[64 * start..64 * (start + part.width)];
                    for block in blocks.as_chunks_mut::<64>().0 {
                        decoder.block(block, part)?;
                    }
                }
            }
        }
    }
    Ok(decoder.finish())
}

fn parts(scan: &ScanHeader, state: &State, frame: &Frame) -> Result<Vec<Part>, Fault> {
    let is_alone = scan.components.len() == 1;
    let prepare = |tables: &[Option<Definition>; 4], index: usize, is_dc| {
        let definition = tables.get(index).and_then(Option::as_ref);
        let definition = definition.ok_or_else(|| damaged("a missing Huffman table"))?;
        let table = Table::new(definition, is_dc);
        table
            .map(Some)
            .ok_or_else(|| damaged("a Huffman table with impossible codes"))
    };
    let needs_dc = !frame.progressive || (scan.first == 0 && scan.high == 0);
    let needs_ac = !frame.progressive || scan.first > 0;
    scan.components
        .iter()
        .map(|&(index, dc, ac)| {
            let component = &frame.components[index];
            Ok(Part {
                index,
                width: if is_alone { 1 } else { component.horizontal },
                height: if is_alone { 1 } else { component.vertical },
                dc: if needs_dc {
                    prepare(&state.dc_tables, dc, true)?
                } else {
                    None
                },
                ac: if needs_ac {
                    prepare(&state.ac_tables, ac, false)?
                } else {
                    None
                },
                predictor: 0,
            })
        })
        .collect()
}

struct Decoder<'a> {
    bits: Bits<'a>,
    scan: &'a ScanHeader,
    progressive: bool,
    /// Number of further blocks without new coefficients.
    end_of_band_run: u32,
    /// Number of the expected restart marker, from 0 to 7.
    next_restart: u8,
}

impl Decoder<'_> {
    fn block(&mut self, block: &mut [i16; 64], part: &mut Part) -> Result<(), Fault> {
        match (&part.dc, &part.ac) {
            (Some(dc), Some(ac)) if !self.progressive => {
                let difference = self.dc(dc);
                block[0] = predict(&mut part.predictor, difference)? as i16;
                self.sequential_ac(block, ac);
            }
            (Some(dc), _) => {
                let difference = self.dc(dc);
                block[0] = (predict(&mut part.predictor, difference)? << self.scan.low) as i16;
            }
            (None, Some(ac)) if self.scan.high == 0 => self.first_ac(block, ac),
            (None, Some(ac)) => self.refine_ac(block, ac),
            (None, None) => {
                if self.bits.take(1) == 1 {
                    block[0] |= 1 << self.scan.low;
                }
            }
        }
        Ok(())
    }

    /// Returns the difference from the DC coefficient before.
    fn dc(&mut self, table: &Table) -> i32 {
        let size = self.bits.symbol(table);
        self.bits.coefficient(u32::from(size))
    }

    fn sequential_ac(&mut self, block: &mut [i16; 64], table: &Table) {
        let mut k = 1;
        while k < 64 {
            let symbol = self.bits.symbol(table);
            let (run, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
            if size > 0 {
                k += run;
                block[usize::from(NATURAL_ORDER[k])] = self.bits.coefficient(size) as i16;
            } else if run < 15 {
                break;
            } else {
                k += 15;
            }
            k += 1;
        }
    }

    /// Reads the length of a run of blocks without new coefficients.
    fn end_of_band(&mut self, run: usize) {
        self.end_of_band_run = (1 << run) + self.bits.take(run as u32) as u32;
    }

    fn first_ac(&mut self, block: &mut [i16; 64], table: &Table) {
        if self.end_of_band_run > 0 {
            self.end_of_band_run -= 1;
            return;
        }
        let mut k = usize::from(self.scan.first);
        while k <= usize::from(self.scan.last) {
            let symbol = self.bits.symbol(table);
            let (run, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
            if size > 0 {
                k += run;
                let value = self.bits.coefficient(size) << self.scan.low;
                block[usize::from(NATURAL_ORDER[k])] = value as i16;
            } else if run == 15 {
                k += 15;
            } else {
                self.end_of_band(run);
                self.end_of_band_run -= 1;
                break;
            }
            k += 1;
        }
    }

    fn refine_ac(&mut self, block: &mut [i16; 64], table: &Table) {
        let bit = 1i16 << self.scan.low;
        let last = usize::from(self.scan.last);
        let mut k = usize::from(self.scan.first);
        if self.end_of_band_run == 0 {
            while k <= last {
                let symbol = self.bits.symbol(table);
                let (mut run, size) = (usize::from(symbol >> 4), symbol & 15);
                let mut value = 0;
                if size > 0 {
                    value = if self.bits.take(1) == 1 { bit } else { -bit };
                } else if run < 15 {
                    self.end_of_band(run);
                    break;
                }
                // Skips `run` coefficients that are still zero, and refines the others before the next one.
                while k <= last {
                    let coefficient = &mut block[usize::from(NATURAL_ORDER[k])];
                    if *coefficient != 0 {
                        self.refine(coefficient, bit);
                    } else if run == 0 {
                        break;
                    } else {
                        run -= 1;
                    }
                    k += 1;
                }
                if value != 0 {
                    block[usize::from(NATURAL_ORDER[k])] = value;
                }
                k += 1;
            }
        }
        if self.end_of_band_run > 0 {
            for position in NATURAL_ORDER.get(k..=last).unwrap_or_default() {
                let coefficient = &mut block[usize::from(*position)];
                if *coefficient != 0 {
                    self.refine(coefficient, bit);
                }
            }
            self.end_of_band_run -= 1;
        }
    }

    fn refine(&mut self, coefficient: &mut i16, bit: i16) {
        if self.bits.take(1) == 1 && *coefficient & bit == 0 {
            let change = if *coefficient >= 0 { bit } else { -bit };
            *coefficient = coefficient.wrapping_add(change);
        }
    }

    /// Looks for the next restart marker, as libjpeg does (`jpeg_resync_to_restart`): a marker that is one or two ahead, or none at all,
    /// is left for later.
    fn restart(&mut self, parts: &mut [Part]) {
        self.bits.clear();
        for part in parts {
            part.predictor = 0;
        }
        self.end_of_band_run = 0;
        let expected = self.next_restart;
        self.next_restart = (expected + 1) % 8;
        loop {
            let Some(marker) = self.bits.next_marker() else {
                return;
            };
            if marker < 0xc0 {
                self.bits.marker = None;
                continue;
            }
            if !(0xd0..=0xd7).contains(&marker) {
                return;
            }
            match (marker & 7).wrapping_sub(expected) & 7 {
                1 | 2 => return,
                6 | 7 => self.bits.marker = None,
                _ => {
                    self.bits.marker = None;
                    self.bits.exhausted = false;
                    return;
                }
            }
        }
    }

    fn finish(mut self) -> (Option<u8>, usize) {
        // Without a marker before the end of the file, the search for one fails.
        (self.bits.next_marker(), self.bits.position)
    }
}

/// Adds a difference to the last DC coefficient. libjpeg rejects a sum that overflows.
fn predict(last: &mut i32, difference: i32) -> Result<i32, Fault> {
    *last = last
        .checked_add(difference)
        .ok_or_else(|| damaged("an impossible coefficient"))?;
    Ok(*last)
}
