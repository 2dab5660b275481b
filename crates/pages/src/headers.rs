//! Checks that the page headers of a Parquet column are plausible.
//!
//! The `parquet` crate allocates the uncompressed size that a page header claims, so a small damaged file can ask for gigabytes. The
//! headers (structs of Thrift's compact protocol) are therefore read first.

use std::ops::Range;

use parquet::basic::Compression;

/// Maximum nesting of structs in a header. The headers of the format have three levels.
const MAX_DEPTH: usize = 8;
/// Uncompressed size in bytes that is plausible for every page, however small its compressed size is.
const ALWAYS_PLAUSIBLE_BYTES: u64 = 1 << 16;

/// Size in bytes of a page up to which zstd's largest compression ratio is plausible.
const MAX_REPETITIVE_BYTES: u64 = 16 << 20;

/// The fields of a page header that are checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Page {
    /// Size in bytes after decompression.
    uncompressed: u64,
    /// Size in bytes in the file, without the header.
    compressed: u64,
    /// Number of values in a dictionary page, otherwise 0.
    values: u64,
}

/// Returns the largest size in bytes, after decompression, that the header of a page in this range of a file claims. Returns `None` if
/// a page cannot decompress to its claimed size. Also returns `None` for an unreadable header, because the `parquet` crate might be able
/// to read it.
pub fn largest_page(file: &[u8], pages: Range<u64>, compression: Compression) -> Option<u64> {
    // Largest compression ratios: Snappy encodes a copy of 64 bytes in three, LZ4 extends a length by 255 per byte, and DEFLATE
    // encodes 258 bytes in two bits. Zstd encodes up to 128 KiB of a repeated byte in four; larger pages of images and texts do not
    // consist of repeated bytes.
    let ratio = |uncompressed: u64| match compression {
        Compression::UNCOMPRESSED => 1,
        Compression::SNAPPY => 22,
        Compression::LZ4 | Compression::LZ4_RAW => 255,
        Compression::ZSTD(_) if uncompressed <= MAX_REPETITIVE_BYTES => 1 << 15,
        _ => 1032,
    };
    let mut largest = 0;
    let mut offset = pages.start;
    while offset < pages.end {
        let rest = file.get(usize::try_from(offset).ok()?..)?;
        let (page, after) = read_header(rest)?;
        let length = rest.len() - after.len();
        let plausible = page.compressed.saturating_mul(ratio(page.uncompressed));
        if page.uncompressed > plausible.max(ALWAYS_PLAUSIBLE_BYTES) || page.values > page.uncompressed {
            return None;
        }
        largest = largest.max(page.uncompressed);
        offset = offset.saturating_add(length as u64).saturating_add(page.compressed);
    }
    Some(largest)
}

/// Reads a page header. Also returns the bytes after it.
///
/// In Thrift's compact protocol, type 5 is an i32 and type 12 a struct. `Page` has values of the fields 2, 3 and 7 of the
/// format's `PageHeader`.
fn read_header(bytes: &[u8]) -> Option<(Page, &[u8])> {
    let mut reader = Reader(bytes);
    let mut page = Page::default();
    let mut id = 0;
    while let Some((kind, field)) = reader.field(id)? {
        id = field;
        match (kind, field) {
            (5, 2) => page.uncompressed = reader.size()?,
            (5, 3) => page.compressed = reader.size()?,
            // The header of a dictionary page, whose first field is its number of values.
            (12, 7) => {
                let mut inner_id = 0;
                while let Some((kind, field)) = reader.field(inner_id)? {
                    inner_id = field;
                    match (kind, field) {
                        (5, 1) => page.values = reader.size()?,
                        _ => reader.skip(kind, 0)?,
                    }
                }
            }
            _ => reader.skip(kind, 0)?,
        }
    }
    Some((page, reader.0))
}

/// A reader of the remaining bytes of a header.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn skip_bytes(&mut self, count: usize) -> Option<()> {
        self.0 = self.0.get(count..)?;
        Some(())
    }

    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// Reads a signed integer. Returns `None` if it is negative.
    fn size(&mut self) -> Option<u64> {
        let zigzag = self.varint()?;
        (zigzag & 1 == 0).then_some(zigzag >> 1)
    }

    /// Reads the type and id of the next field in a struct whose previous field had the id `last`. Returns `Some(None)` at the end of
    /// the struct, and `None` if it is damaged.
    fn field(&mut self, last: i64) -> Option<Option<(u8, i64)>> {
        let head = self.byte()?;
        let kind = head & 0x0f;
        if kind == 0 {
            return Some(None);
        }
        let id = match head >> 4 {
            0 => {
                let zigzag = self.varint()?;
                (zigzag >> 1) as i64 ^ -((zigzag & 1) as i64)
            }
            delta => last.checked_add(i64::from(delta))?,
        };
        Some(Some((kind, id)))
    }

    /// Skips the value of a field. The types are 1 and 2 for true and false, 3 for a byte, 4 to 6 for integers, 7 for a double, 8 for a
    /// string, 9 for a list, 10 for a set, 11 for a map and 12 for a struct.
    fn skip(&mut self, kind: u8, depth: usize) -> Option<()> {
        if depth > MAX_DEPTH {
            return None;
        }
        match kind {
            // Booleans are encoded in the type.
            1 | 2 => Some(()),
            3 => self.skip_bytes(1),
            4..=6 => self.varint().map(drop),
            7 => self.skip_bytes(8),
            8 => {
                let length = usize::try_from(self.varint()?).ok()?;
                self.skip_bytes(length)
            }
            9 | 10 => {
                let head = self.byte()?;
                let count = match head >> 4 {
                    15 => self.varint()?,
                    count => count.into(),
                };
                self.skip_items(head & 0x0f, count, depth)
            }
            11 => {
                let count = self.varint()?;
                let kinds = if count > 0 { self.byte()? } else { 0 };
                for _ in 0..count {
                    self.skip_items(kinds >> 4, 1, depth)?;
                    self.skip_items(kinds & 0x0f, 1, depth)?;
                }
                Some(())
            }
            12 => {
                let mut id = 0;
                while let Some((kind, field)) = self.field(id)? {
                    id = field;
                    self.skip(kind, depth + 1)?;
                }
                Some(())
            }
            _ => None,
        }
    }

    /// Skips `count` items of a list, set or map, in which a boolean takes a byte. Every item has at least one byte, so
    /// the loop ends at the end of the bytes.
    fn skip_items(&mut self, kind: u8, count: u64, depth: usize) -> Option<()> {
        for _ in 0..count {
            match kind {
                1 | 2 => self.skip_bytes(1)?,
                kind => self.skip(kind, depth + 1)?,
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The header of a data page: type 0, the sizes, and the data page header with statistics.
    fn data_page(uncompressed: u8, compressed: u8) -> Vec<u8> {
        // The sizes are below 64, so each is one byte in zigzag encoding.
        let mut bytes = vec![0x15, 0, 0x15, uncompressed * 2, 0x15, compressed * 2, 0x2c];
        bytes.extend([
            0x15, 8, 0x15, 0, 0x15, 6, 0x15, 6, 0x1c, 0x18, 2, b'a', b'b', 0x11, 0, 0, 0,
        ]);
        bytes
    }

    #[test]
    fn reads_headers_to_their_end() {
        let mut bytes = data_page(40, 20);
        let length = bytes.len();
        bytes.extend([7; 3]);
        let (page, rest) = read_header(&bytes).unwrap();
        let expected = Page {
            uncompressed: 40,
            compressed: 20,
            values: 0,
        };
        assert_eq!((page, rest), (expected, &[7; 3][..]));
        for cut in 0..length {
            assert_eq!(read_header(&bytes[..cut]), None);
        }
        let dictionary = [0x15, 4, 0x15, 20, 0x15, 10, 0x4c, 0x15, 6, 0x15, 0, 0, 0];
        let (page, rest) = read_header(&dictionary).unwrap();
        assert_eq!(
            (page.uncompressed, page.compressed, page.values, rest.len()),
            (10, 5, 3, 0)
        );
    }

    #[test]
    fn rejects_implausible_sizes() {
        let page_of_size = |size: u32| {
            let mut bytes = vec![0x15, 0, 0x15];
            let mut value = u64::from(size) << 1;
            while value >= 0x80 {
                bytes.push(value as u8 | 0x80);
                value >>= 7;
            }
            bytes.extend([value as u8, 0x15, 20, 0]);
            bytes.extend([0; 10]);
            bytes
        };
        let is_plausible = |bytes: &[u8]| largest_page(bytes, 0..bytes.len() as u64, Compression::SNAPPY).is_some();
        let small = [page_of_size(100), page_of_size(60_000)].concat();
        assert!(is_plausible(&small));
        assert!(!is_plausible(&page_of_size(1 << 30)));
        assert!(
            !is_plausible(&[&small[..], &page_of_size(1 << 30)].concat()),
            "every page is checked"
        );
        let dictionary = [0x15, 4, 0x15, 20, 0x15, 10, 0x4c, 0x15, 60, 0, 0];
        assert!(!is_plausible(&dictionary), "thirty values in ten bytes");
        assert!(is_plausible(&[]));
        assert!(!is_plausible(&small[..2]), "a header that is cut");
    }

    proptest! {
        #[test]
        fn terminates_on_arbitrary_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300), start in 0..400u64) {
            let _ = largest_page(&bytes, start..u64::MAX, Compression::SNAPPY);
            if let Some((_, rest)) = read_header(&bytes) {
                prop_assert!(rest.len() < bytes.len());
            }
        }
    }
}
