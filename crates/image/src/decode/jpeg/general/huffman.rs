//! Huffman tables, and the bits of entropy-coded data.

/// Number of bits that one table look-up decodes.
const LOOK_AHEAD: u32 = 9;

/// A Huffman table as a file defines it: the number of codes of each length from 1 to 16, and the symbols in order of their codes.
#[derive(Clone)]
pub(super) struct Definition {
    pub(super) counts: [u8; 16],
    pub(super) symbols: Vec<u8>,
}

/// A Huffman table prepared for decoding.
pub(super) struct Table {
    /// For each sequence of [`LOOK_AHEAD`] bits: length and symbol of the code that it begins with; length 0 if the code is longer.
    short: Vec<(u8, u8)>,
    /// The largest code of each length, or -1. The last entry ends the search.
    max_code: [i32; 18],
    /// What is added to a code of each length to get the index of its symbol.
    offset: [i32; 18],
    symbols: [u8; 256],
}

impl Table {
    /// Prepares a table. Returns `None` if its codes do not fit in their lengths, or if a symbol of a table for DC coefficients is no
    /// number of bits.
    pub(super) fn new(definition: &Definition, is_dc: bool) -> Option<Self> {
        let mut symbols = [0; 256];
        symbols
            .get_mut(..definition.symbols.len())?
            .copy_from_slice(&definition.symbols);
        if is_dc && definition.symbols.iter().any(|&s| s > 15) {
            return None;
        }
        let mut table = Self {
            short: vec![(0, 0); 1 << LOOK_AHEAD],
            max_code: [-1; 18],
            offset: [0; 18],
            symbols,
        };
        table.max_code[17] = i32::MAX;
        let (mut code, mut next) = (0u32, 0usize);
        for (length, &count) in (1u32..).zip(&definition.counts) {
            table.offset[length as usize] = next as i32 - code as i32;
            for _ in 0..count {
                if length <= LOOK_AHEAD {
                    let first = (code << (LOOK_AHEAD - length)) as usize;
                    let entries = table.short.get_mut(first..first + (1 << (LOOK_AHEAD - length)))?;
                    entries.fill((length as u8, symbols[next]));
                }
                code += 1;
                next += 1;
            }
            // No code consists of ones only, except that the last length may be filled.
            if count > 0 && code > 1 << length {
                return None;
            }
            if count > 0 {
                table.max_code[length as usize] = code as i32 - 1;
            }
            code <<= 1;
        }
        Some(table)
    }
}

/// A reader of entropy-coded data. It stops at the first marker and gives zeros from there on, as libjpeg does.
pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    /// Index of the next byte.
    pub(super) position: usize,
    /// The next bits, from the most significant. Bits after the first `count` are zero.
    buffer: u64,
    count: u32,
    /// The marker at which the data ends, once it is reached.
    pub(super) marker: Option<u8>,
    /// Whether zeros after the end have been used.
    pub(super) exhausted: bool,
    /// Whether the data ends with the file.
    is_cut: bool,
}

impl<'a> Bits<'a> {
    pub(super) fn new(bytes: &'a [u8], position: usize) -> Self {
        Self {
            bytes,
            position,
            buffer: 0,
            count: 0,
            marker: None,
            exhausted: false,
            is_cut: false,
        }
    }

    /// Forgets the bits that are left of the current byte and of those read ahead.
    pub(super) fn clear(&mut self) {
        (self.buffer, self.count) = (0, 0);
    }

    /// Reads ahead until there are more than 48 bits or a marker.
    fn fill(&mut self) {
        while self.count <= 48 && self.marker.is_none() {
            let byte = self.next_byte();
            if self.marker.is_none() {
                self.buffer |= u64::from(byte) << (56 - self.count);
                self.count += 8;
            }
        }
    }

    /// Returns the next byte of data, or sets the marker. The end of the file counts as the marker of the end of the image.
    fn next_byte(&mut self) -> u8 {
        const END: u8 = 0xd9;
        let Some(&byte) = self.bytes.get(self.position) else {
            self.marker = Some(END);
            self.is_cut = true;
            return 0;
        };
        self.position += 1;
        if byte != 0xff {
            return byte;
        }
        let rest = self.bytes.get(self.position..).unwrap_or_default();
        let fill = rest.iter().take_while(|&&b| b == 0xff).count();
        self.position += fill + 1;
        match rest.get(fill) {
            Some(0) => 0xff,
            Some(&marker) => {
                self.marker = Some(marker);
                0
            }
            None => {
                self.marker = Some(END);
                self.is_cut = true;
                0
            }
        }
    }

    /// Returns the marker at which the data ends, after skipping the rest of the data. Returns `None` at the end of the file.
    pub(super) fn next_marker(&mut self) -> Option<u8> {
        if self.is_cut {
            return None;
        }
        if self.marker.is_some() {
            return self.marker;
        }
        loop {
            let rest = self.bytes.get(self.position..)?;
            self.position += memchr::memchr(0xff, rest)?;
            let rest = &self.bytes[self.position..];
            let fill = rest.iter().take_while(|&&b| b == 0xff).count();
            let marker = *rest.get(fill)?;
            self.position += fill + 1;
            if marker != 0 {
                self.marker = Some(marker);
                return self.marker;
            }
        }
    }

    fn consume(&mut self, bits: u32) {
        if bits > self.count {
            self.exhausted = true;
            // All bits after the end are zero.
            self.count = 64;
        }
        self.buffer <<= bits;
        self.count -= bits;
    }

    /// Returns the next `bits` bits, at most 16, as a number.
    pub(super) fn take(&mut self, bits: u32) -> i32 {
        if bits == 0 {
            return 0;
        }
        if self.count < bits {
            self.fill();
        }
        let value = (self.buffer >> (64 - bits)) as i32;
        self.consume(bits);
        value
    }

    /// Returns the next symbol. A code that is not in the table gives 0, as in libjpeg.
    pub(super) fn symbol(&mut self, table: &Table) -> u8 {
        if self.count < 17 {
            self.fill();
        }
        let (length, symbol) = table.short[(self.buffer >> (64 - LOOK_AHEAD)) as usize];
        if length != 0 {
            self.consume(u32::from(length));
            return symbol;
        }
        let mut length = LOOK_AHEAD as usize + 1;
        loop {
            let code = (self.buffer >> (64 - length)) as i32;
            if code <= table.max_code[length] {
                self.consume(length as u32);
                return match length {
                    17 => 0,
                    _ => table.symbols[((code + table.offset[length]) & 0xff) as usize],
                };
            }
            length += 1;
        }
    }

    /// Returns a coefficient of `bits` bits: a sign that the first bit tells, and a magnitude (HUFF_EXTEND of the standard).
    pub(super) fn coefficient(&mut self, bits: u32) -> i32 {
        let value = self.take(bits);
        if bits > 0 && value < 1 << (bits - 1) {
            value - (1 << bits) + 1
        } else {
            value
        }
    }
}

/// The tables that the standard suggests (K.3.3), for luminance and chrominance: those of DC and those of AC coefficients. Frames of
/// motion JPEG leave them out.
pub(super) fn standard_tables() -> ([Definition; 2], [Definition; 2]) {
    let table = |counts: [u8; 16], symbols: &[u8]| Definition {
        counts,
        symbols: symbols.to_vec(),
    };
    let dc_symbols: Vec<u8> = (0..12).collect();
    (
        [
            table([0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0], &dc_symbols),
            table([0, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0], &dc_symbols),
        ],
        [
            table([0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 0x7d], &AC_LUMINANCE),
            table([0, 2, 1, 2, 4, 4, 3, 4, 7, 5, 4, 4, 0, 1, 2, 0x77], &AC_CHROMINANCE),
        ],
    )
}

#[rustfmt::skip]
const AC_LUMINANCE: [u8; 162] = [
    0x01, 0x02, 0x03, 0x00, 0x04, 0x11, 0x05, 0x12, 0x21, 0x31, 0x41, 0x06, 0x13, 0x51, 0x61, 0x07,
    0x22, 0x71, 0x14, 0x32, 0x81, 0x91, 0xa1, 0x08, 0x23, 0x42, 0xb1, 0xc1, 0x15, 0x52, 0xd1, 0xf0,
    0x24, 0x33, 0x62, 0x72, 0x82, 0x09, 0x0a, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x25, 0x26, 0x27, 0x28,
    0x29, 0x2a, 0x34, 0x35, 0x36, 0x37, 0x38, 0x39, 0x3a, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49,
    0x4a, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59, 0x5a, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69,
    0x6a, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7a, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89,
    0x8a, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9a, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7,
    0xa8, 0xa9, 0xaa, 0xb2, 0xb3, 0xb4, 0xb5, 0xb6, 0xb7, 0xb8, 0xb9, 0xba, 0xc2, 0xc3, 0xc4, 0xc5,
    0xc6, 0xc7, 0xc8, 0xc9, 0xca, 0xd2, 0xd3, 0xd4, 0xd5, 0xd6, 0xd7, 0xd8, 0xd9, 0xda, 0xe1, 0xe2,
    0xe3, 0xe4, 0xe5, 0xe6, 0xe7, 0xe8, 0xe9, 0xea, 0xf1, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8,
    0xf9, 0xfa,
];

#[rustfmt::skip]
const AC_CHROMINANCE: [u8; 162] = [
    0x00, 0x01, 0x02, 0x03, 0x11, 0x04, 0x05, 0x21, 0x31, 0x06, 0x12, 0x41, 0x51, 0x07, 0x61, 0x71,
    0x13, 0x22, 0x32, 0x81, 0x08, 0x14, 0x42, 0x91, 0xa1, 0xb1, 0xc1, 0x09, 0x23, 0x33, 0x52, 0xf0,
    0x15, 0x62, 0x72, 0xd1, 0x0a, 0x16, 0x24, 0x34, 0xe1, 0x25, 0xf1, 0x17, 0x18, 0x19, 0x1a, 0x26,
    0x27, 0x28, 0x29, 0x2a, 0x35, 0x36, 0x37, 0x38, 0x39, 0x3a, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48,
    0x49, 0x4a, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59, 0x5a, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68,
    0x69, 0x6a, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7a, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87,
    0x88, 0x89, 0x8a, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9a, 0xa2, 0xa3, 0xa4, 0xa5,
    0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xb2, 0xb3, 0xb4, 0xb5, 0xb6, 0xb7, 0xb8, 0xb9, 0xba, 0xc2, 0xc3,
    0xc4, 0xc5, 0xc6, 0xc7, 0xc8, 0xc9, 0xca, 0xd2, 0xd3, 0xd4, 0xd5, 0xd6, 0xd7, 0xd8, 0xd9, 0xda,
    0xe2, 0xe3, 0xe4, 0xe5, 0xe6, 0xe7, 0xe8, 0xe9, 0xea, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8,
    0xf9, 0xfa,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_tables_are_complete_codes() {
        let (dc, ac) = standard_tables();
        for (tables, is_dc) in [(dc, true), (ac, false)] {
            for definition in tables {
                let total: usize = definition.counts.iter().map(|&n| usize::from(n)).sum();
                assert_eq!(total, definition.symbols.len());
                assert!(Table::new(&definition, is_dc).is_some());
            }
        }
    }

    #[test]
    fn codes_of_every_length_are_decoded_and_zeros_follow_the_end() {
        // One code of each length: 0, 10, 110, ..., of 16 bits.
        let definition = Definition {
            counts: [1; 16],
            symbols: (1..=16).collect(),
        };
        let table = Table::new(&definition, false).unwrap();
        let bytes = [
            0b0101_1011,
            0b1111_1110,
            0xff,
            0x00,
            0b0111_1111,
            0xff,
            0x00,
            0xff,
            0xd0,
            3,
        ];
        let mut bits = Bits::new(&bytes, 0);
        let symbols: Vec<u8> = (0..6).map(|_| bits.symbol(&table)).collect();
        // 0, 10, 110, 1111 1111 0 (9 bits), 1111 1111 0, then 16 ones, which are no code.
        assert_eq!(symbols[..3], [1, 2, 3]);
        assert_eq!(bits.marker, Some(0xd0));
        let too_many = Definition {
            counts: [3; 16],
            symbols: (0..48).collect(),
        };
        assert!(Table::new(&too_many, false).is_none());
        bits.clear();
        assert_eq!((bits.take(5), bits.exhausted), (0, true));
    }

    #[test]
    fn coefficients_have_a_sign() {
        let mut bits = Bits::new(&[0b0110_0101, 0xff, 0xd9], 0);
        let values = [
            bits.coefficient(1),
            bits.coefficient(2),
            bits.coefficient(2),
            bits.coefficient(3),
        ];
        assert_eq!(values, [-1, 3, -3, 5]);
    }
}
