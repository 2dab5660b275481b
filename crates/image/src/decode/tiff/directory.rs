//! The first tag directory of a TIFF file.

use std::collections::BTreeMap;

use super::super::fault::{Fault, damaged};

/// Maximum number of values of a tag that are read. Pixels of larger files are in strips of at least one row.
const MAX_VALUES: usize = 1 << 20;

/// The tags, and the byte order of the file. Ratios are two values each; tags of other types than integers and ratios have no values.
pub(super) struct Directory {
    pub(super) big_endian: bool,
    tags: BTreeMap<u16, Vec<u64>>,
}

/// A reader of integers in the byte order of the file.
struct Input<'a> {
    bytes: &'a [u8],
    big_endian: bool,
}

impl Input<'_> {
    /// Returns the unsigned integer of `size` bytes at `position`.
    fn number(&self, position: usize, size: usize) -> Option<u64> {
        let bytes = self.bytes.get(position..position.checked_add(size)?)?;
        let append = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
        Some(if self.big_endian {
            bytes.iter().fold(0, append)
        } else {
            bytes.iter().rev().fold(0, append)
        })
    }

    fn position(&self, position: usize, size: usize) -> Option<usize> {
        usize::try_from(self.number(position, size)?).ok()
    }
}

impl Directory {
    /// Reads the directory. Like Pillow, skips values that are beyond the end of the file.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Fault> {
        let big_endian = bytes.starts_with(b"M");
        let input = Input { bytes, big_endian };
        let tags = read_tags(&input).ok_or_else(|| damaged("the file ends before its tags do"))?;
        Ok(Self { big_endian, tags })
    }

    /// Returns whether a tag of ratios has these values, or is missing.
    pub(super) fn is_ratio_list(&self, tag: u16, values: &[f64]) -> bool {
        let is_close =
            |(pair, value): (&[u64; 2], &f64)| (pair[0] as f64 - value * pair[1] as f64).abs() <= 1e-4 * pair[1] as f64;
        self.tags.get(&tag).is_none_or(|stored| {
            stored.len() == 2 * values.len() && stored.as_chunks::<2>().0.iter().zip(values).all(is_close)
        })
    }

    /// Returns the values of a tag, or an empty list.
    pub(super) fn list(&self, tag: u16) -> &[u64] {
        self.tags.get(&tag).map_or(&[], Vec::as_slice)
    }

    /// Returns the first value of a tag.
    pub(super) fn number(&self, tag: u16) -> Option<u64> {
        self.list(tag).first().copied()
    }

    /// Returns the first value of a tag as a small number.
    pub(super) fn small(&self, tag: u16, default: u16) -> u16 {
        self.number(tag)
            .map_or(default, |value| u16::try_from(value).unwrap_or(u16::MAX))
    }
}

fn read_tags(input: &Input<'_>) -> Option<BTreeMap<u16, Vec<u64>>> {
    const BIG: u64 = 43;
    let is_big = input.number(2, 2)? == BIG;
    // Sizes of the number of entries, of an entry, and of a count or offset.
    let (count_size, entry_size, word) = if is_big { (8, 20, 8) } else { (2, 12, 4) };
    let start = input.position(if is_big { 8 } else { 4 }, word)?;
    let entries = input.number(start, count_size)?;
    let mut tags = BTreeMap::new();
    let first = start.checked_add(count_size)?;
    for i in 0..entries.min(1 << 16) as usize {
        let entry = first + i * entry_size;
        let Some(tag) = input.number(entry, 2) else {
            break;
        };
        let values = read_values(input, entry, word);
        if values.is_some() || !tags.contains_key(&(tag as u16)) {
            tags.insert(tag as u16, values.unwrap_or_default());
        }
    }
    Some(tags)
}

/// Returns the values of an entry of integers that is complete.
fn read_values(input: &Input<'_>, entry: usize, word: usize) -> Option<Vec<u64>> {
    let (size, per_value) = match input.number(entry + 2, 2)? {
        5 => (4, 2),
        kind => (size_of(kind)?, 1),
    };
    let count = input.position(entry + 4, word)?.checked_mul(per_value)?;
    let mut position = entry + 4 + word;
    if count.checked_mul(size)? > word {
        position = input.position(position, word)?;
    }
    // All values must exist, also those that are not read.
    input
        .bytes
        .get(position..position.checked_add(count.checked_mul(size)?)?)?;
    (0..count.min(MAX_VALUES))
        .map(|i| input.number(position + i * size, size))
        .collect()
}

/// Returns the size in bytes of an integer of the type `kind`.
fn size_of(kind: u64) -> Option<usize> {
    match kind {
        1 | 2 | 6 | 7 => Some(1),
        3 | 8 => Some(2),
        4 | 9 | 13 => Some(4),
        16..=18 => Some(8),
        _ => None,
    }
}
