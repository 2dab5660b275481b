//! Segments of a JPEG file: tables, the frame, and the headers of scans. What libjpeg rejects is an error.

use super::super::super::fault::{Fault, damaged, unsupported};
use super::huffman::Definition;

/// Number of components that a frame or scan can have.
pub(super) const MAX_COMPONENTS: usize = 4;

/// Maximum side that libjpeg decodes (`JPEG_MAX_DIMENSION`).
const MAX_DIMENSION: usize = 65_500;

/// The position in a block of each coefficient in zigzag order. Indices above 63, which damaged data has, are the last coefficient.
#[rustfmt::skip]
pub(super) const NATURAL_ORDER: [u8; 80] = [
    0,   1,  8, 16,  9,  2,  3, 10, 17, 24, 32, 25, 18, 11,  4,  5,
    12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13,  6,  7, 14, 21, 28,
    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51,
    58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
    63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63,
];

/// A component of the frame.
#[derive(Clone, Debug)]
pub(super) struct Component {
    pub(super) id: u8,
    /// Sampling factors, from 1 to 4.
    pub(super) horizontal: usize,
    pub(super) vertical: usize,
    /// Index of the quantisation table.
    pub(super) table: usize,
}

/// The frame: size and components of the image.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) progressive: bool,
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) components: Vec<Component>,
    /// The largest sampling factors.
    pub(super) max_horizontal: usize,
    pub(super) max_vertical: usize,
}

/// The header of a scan.
#[derive(Clone, Debug)]
pub(super) struct ScanHeader {
    /// For each component of the scan: its index in the frame, and the indices of its tables for DC and AC coefficients.
    pub(super) components: Vec<(usize, usize, usize)>,
    /// The first and last coefficient of the scan, in zigzag order.
    pub(super) first: u8,
    pub(super) last: u8,
    /// The bit position before and after this scan.
    pub(super) high: u8,
    pub(super) low: u8,
}

/// What the segments have set so far.
pub(super) struct State {
    pub(super) frame: Option<Frame>,
    /// Quantisation tables, in the order of a block's rows.
    pub(super) quantisation: [Option<[u16; 64]>; 4],
    pub(super) dc_tables: [Option<Definition>; 4],
    pub(super) ac_tables: [Option<Definition>; 4],
    /// Number of MCUs between restart markers, or 0.
    pub(super) restart_interval: usize,
    pub(super) has_jfif: bool,
    /// The colour transform of an Adobe marker.
    pub(super) adobe: Option<u8>,
    /// Whether an image may have two components, as in TIFF files.
    pub(super) may_be_pairs: bool,
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            frame: None,
            quantisation: [None; 4],
            dc_tables: [const { None }; 4],
            ac_tables: [const { None }; 4],
            restart_interval: 0,
            has_jfif: false,
            adobe: None,
            may_be_pairs: false,
        }
    }

    /// Reads a segment other than a scan header. `content` is what follows its length.
    pub(super) fn read_segment(&mut self, marker: u8, content: &[u8]) -> Result<(), Fault> {
        match marker {
            0xc0..=0xc2 => self.read_frame(marker == 0xc2, content),
            0xc3 => Err(unsupported("lossless coding")),
            0xc9 | 0xca => Err(unsupported("arithmetic coding")),
            0xc4 => self.read_huffman_tables(content),
            0xdb => self.read_quantisation_tables(content),
            0xdd => match *content {
                [high, low] => {
                    self.restart_interval = usize::from(u16::from_be_bytes([high, low]));
                    Ok(())
                }
                _ => Err(damaged("a restart interval of a wrong length")),
            },
            0xe0 => {
                self.has_jfif |= content.len() >= 14 && content.starts_with(b"JFIF\0");
                Ok(())
            }
            0xee => {
                if content.len() >= 12 && content.starts_with(b"Adobe") {
                    self.adobe = Some(content[11]);
                }
                Ok(())
            }
            // Application data, comments, parameters of arithmetic coding, and a number of lines, which libjpeg skips too.
            0xe1..=0xef | 0xfe | 0xcc | 0xdc => Ok(()),
            _ => Err(damaged(format!("the marker FF {marker:02X}"))),
        }
    }

    fn read_frame(&mut self, progressive: bool, content: &[u8]) -> Result<(), Fault> {
        if self.frame.is_some() {
            return Err(damaged("two frames"));
        }
        let Some((&[precision, h1, h0, w1, w0, count], rest)) = content.split_first_chunk::<6>() else {
            return Err(damaged("a frame header of a wrong length"));
        };
        let (height, width) = (u16::from_be_bytes([h1, h0]), u16::from_be_bytes([w1, w0]));
        let (height, width) = (usize::from(height), usize::from(width));
        if precision != 8 {
            return Err(damaged(format!("samples of {precision} bits")));
        }
        if width == 0 || height == 0 || width > MAX_DIMENSION || height > MAX_DIMENSION {
            return Err(damaged(format!("a size of {width}x{height} pixels")));
        }
        if !(matches!(count, 1 | 3 | 4) || count == 2 && self.may_be_pairs) {
            return Err(damaged(format!("{count} components")));
        }
        if rest.len() != 3 * usize::from(count) {
            return Err(damaged("a frame header of a wrong length"));
        }
        let components: Vec<Component> = rest
            .as_chunks::<3>()
            .0
            .iter()
            .map(|&[id, sampling, table]| Component {
                id,
                horizontal: usize::from(sampling >> 4),
                vertical: usize::from(sampling & 15),
                table: usize::from(table),
            })
            .collect();
        let factors = components.iter().flat_map(|c| [c.horizontal, c.vertical]);
        if factors.clone().any(|factor| !(1..=4).contains(&factor)) {
            return Err(damaged("a sampling factor that is not in 1..=4"));
        }
        self.frame = Some(Frame {
            progressive,
            width,
            height,
            max_horizontal: components.iter().map(|c| c.horizontal).max().unwrap_or(1),
            max_vertical: components.iter().map(|c| c.vertical).max().unwrap_or(1),
            components,
        });
        Ok(())
    }

    fn read_quantisation_tables(&mut self, mut content: &[u8]) -> Result<(), Fault> {
        let wrong_length = || damaged("quantisation tables of a wrong length");
        while let Some((&kind, rest)) = content.split_first() {
            let table = self
                .quantisation
                .get_mut(usize::from(kind & 15))
                .ok_or_else(|| damaged("a quantisation table of a wrong index"))?;
            let size = if kind >> 4 == 0 { 64 } else { 128 };
            let (values, rest) = rest.split_at_checked(size).ok_or_else(wrong_length)?;
            let table = table.insert([0; 64]);
            for (i, position) in NATURAL_ORDER[..64].iter().enumerate() {
                table[usize::from(*position)] = match size {
                    64 => u16::from(values[i]),
                    _ => u16::from_be_bytes([values[2 * i], values[2 * i + 1]]),
                };
            }
            content = rest;
        }
        Ok(())
    }

    fn read_huffman_tables(&mut self, mut content: &[u8]) -> Result<(), Fault> {
        let wrong = || damaged("a Huffman table of a wrong length");
        while content.len() > 16 {
            let (&kind, rest) = content.split_first().ok_or_else(wrong)?;
            let (&counts, rest) = rest.split_first_chunk::<16>().ok_or_else(wrong)?;
            let total: usize = counts.iter().map(|&n| usize::from(n)).sum();
            if total > 256 {
                return Err(wrong());
            }
            let (symbols, rest) = rest.split_at_checked(total).ok_or_else(wrong)?;
            let tables = if kind & 0x10 == 0 {
                &mut self.dc_tables
            } else {
                &mut self.ac_tables
            };
            let table = tables
                .get_mut(usize::from(kind & !0x10))
                .ok_or_else(|| damaged("a Huffman table of a wrong index"))?;
            *table = Some(Definition {
                counts,
                symbols: symbols.to_vec(),
            });
            content = rest;
        }
        if content.is_empty() { Ok(()) } else { Err(wrong()) }
    }

    /// Reads the header of a scan.
    pub(super) fn read_scan_header(&self, content: &[u8]) -> Result<ScanHeader, Fault> {
        let frame = self.frame.as_ref().ok_or_else(|| damaged("a scan before the frame"))?;
        let wrong_length = || damaged("a scan header of a wrong length");
        let (&count, rest) = content.split_first().ok_or_else(wrong_length)?;
        if !(1..=MAX_COMPONENTS).contains(&usize::from(count)) || rest.len() != 2 * usize::from(count) + 3 {
            return Err(wrong_length());
        }
        let (selectors, parameters) = rest.split_at(2 * usize::from(count));
        let mut components: Vec<(usize, usize, usize)> = Vec::new();
        for &[id, tables] in selectors.as_chunks::<2>().0 {
            // As in libjpeg, which thus tells components with the same id from each other by their order.
            let place = components.len();
            let mut frame_components = frame.components.iter().enumerate();
            let index = frame_components.position(|(i, component)| component.id == id && i >= place);
            let index = index.filter(|i| !components.iter().any(|(used, ..)| used == i));
            let index = index.ok_or_else(|| damaged(format!("a scan of the unknown component {id}")))?;
            components.push((index, usize::from(tables >> 4), usize::from(tables & 15)));
        }
        let scan = ScanHeader {
            components,
            first: parameters[0],
            last: parameters[1],
            high: parameters[2] >> 4,
            low: parameters[2] & 15,
        };
        let blocks: usize = scan
            .components
            .iter()
            .map(|&(i, ..)| frame.components[i].horizontal * frame.components[i].vertical)
            .sum();
        if scan.components.len() > 1 && blocks > 10 {
            return Err(damaged("more than ten blocks per MCU"));
        }
        if frame.progressive && !scan.is_progression() {
            return Err(damaged("a scan with impossible parameters"));
        }
        Ok(scan)
    }
}

impl ScanHeader {
    /// Returns whether the parameters are those of a scan of a progressive frame.
    fn is_progression(&self) -> bool {
        let band = match self.first {
            0 => self.last == 0,
            _ => self.first <= self.last && self.last < 64 && self.components.len() == 1,
        };
        band && (self.high == 0 || self.low + 1 == self.high) && self.low <= 13
    }
}
