//! A value of an Arrow file, read in place and checked.

use std::ops::Range;

use super::kinds::{Column, Kind};
use super::layout::{Array, VIEW_BYTES};
use crate::{DataError, Result};
use vlct_util::MappedFile;

/// Returns whether a value of an array of the file `map` is null.
pub(super) fn is_null(map: &MappedFile, array: &Array, index: usize) -> bool {
    match &array.validity {
        Some(bitmap) => map[bitmap.start + index / 8] >> (index % 8) & 1 == 0,
        None => false,
    }
}

/// A list: the type of its items, the items of all lists of the array, and the range of its own items.
pub(super) type List<'a> = (&'a Kind, &'a Array, Range<usize>);

/// The position of a value: a row of a column.
#[derive(Clone, Copy)]
pub(super) struct Cell<'a> {
    pub map: &'a MappedFile,
    /// Index in the table, for messages.
    pub row: usize,
    /// Index in the batch.
    pub index: usize,
    pub column: &'a Column,
    pub array: &'a Array,
}

impl<'a> Cell<'a> {
    pub fn error(&self, reason: &str) -> DataError {
        let location = format!("row {}, column {:?}", self.row, self.column.name);
        DataError::format(self.map.path(), format!("{location} {reason}"))
    }

    pub fn damaged(&self) -> DataError {
        self.error("is damaged (its offsets are impossible); make or copy the file again")
    }

    pub fn wrong_kind(&self, expected: &str) -> DataError {
        self.error(&format!(
            "should hold {expected}, but the column holds {}",
            self.column.kind
        ))
    }

    pub fn is_null(&self, array: &Array, index: usize) -> bool {
        is_null(self.map, array, index)
    }

    /// Returns the range between the offsets `index` and `index + 1` of an array. The range must end at or before `limit`.
    pub fn span(&self, array: &Array, index: usize, large: bool, limit: usize) -> Result<Range<usize>> {
        let offset = |index: usize| -> Option<usize> {
            let width = if large { 8 } else { 4 };
            let start = array.offsets_or_numbers.start.checked_add(index.checked_mul(width)?)?;
            let bytes = self.map.get(start..start.checked_add(width)?)?;
            if large {
                usize::try_from(i64::from_le_bytes(bytes.try_into().ok()?)).ok()
            } else {
                usize::try_from(i32::from_le_bytes(bytes.try_into().ok()?)).ok()
            }
        };
        match (offset(index), offset(index + 1)) {
            (Some(start), Some(end)) if start <= end && end <= limit => Ok(start..end),
            _ => Err(self.damaged()),
        }
    }

    /// A text or binary value; `None` if it is null. `kind` is the kind of `array`.
    pub fn bytes(&self, kind: &Kind, array: &Array, index: usize) -> Result<Option<&'a [u8]>> {
        if self.is_null(array, index) {
            return Ok(None);
        }
        let large = match kind {
            Kind::Bytes { large, .. } => *large,
            _ => return self.view(array, index).map(Some),
        };
        let span = self.span(array, index, large, array.data.len())?;
        Ok(Some(&self.map[array.data.clone()][span]))
    }

    /// The bytes of a view. A value of at most 12 bytes is in the view itself; of a longer one, the view has the length, four bytes, and
    /// the buffer and the offset of all bytes.
    pub fn view(&self, array: &Array, index: usize) -> Result<&'a [u8]> {
        const INLINE_BYTES: usize = VIEW_BYTES - 4;
        let map: &'a [u8] = self.map;
        let read = || {
            let start = array
                .offsets_or_numbers
                .start
                .checked_add(index.checked_mul(VIEW_BYTES)?)?;
            let view = map.get(start..start.checked_add(VIEW_BYTES)?)?;
            let field = |at: usize| usize::try_from(i32::from_le_bytes(view[at..at + 4].try_into().ok()?)).ok();
            let length = field(0)?;
            if length <= INLINE_BYTES {
                return Some(&view[4..4 + length]);
            }
            let (buffer, offset) = (field(8)?, field(12)?);
            let data = map.get(array.view_data.get(buffer)?.clone())?;
            data.get(offset..offset.checked_add(length)?)
        };
        read().ok_or_else(|| self.damaged())
    }

    pub fn text(&self, kind: &Kind, array: &Array, index: usize) -> Result<Option<&'a str>> {
        let Some(bytes) = self.bytes(kind, array, index)? else {
            return Ok(None);
        };
        let text = std::str::from_utf8(bytes).map_err(|_| self.error("holds text that is not UTF-8"))?;
        Ok(Some(text))
    }

    /// The bytes of a number of `N` bytes; `None` if it is null.
    pub fn number<const N: usize>(&self, array: &Array, index: usize) -> Result<Option<[u8; N]>> {
        if self.is_null(array, index) {
            return Ok(None);
        }
        let start = array.offsets_or_numbers.start + index * N;
        let bytes = self.map.get(start..start + N).ok_or_else(|| self.damaged())?;
        Ok(bytes.try_into().ok())
    }

    /// An integer of any type, as text; `None` if it is null.
    pub fn integer_text(&self) -> Result<Option<String>> {
        let (bytes, signed) = match self.column.kind {
            Kind::Integer { bytes, signed } => (bytes, signed),
            _ => (8, true),
        };
        let (array, index) = (self.array, self.index);
        macro_rules! read {
            ($type:ty) => {
                self.number(array, index)?
                    .map(|bytes| <$type>::from_le_bytes(bytes).to_string())
            };
        }
        Ok(match (bytes, signed) {
            (1, true) => read!(i8),
            (1, false) => read!(u8),
            (2, true) => read!(i16),
            (2, false) => read!(u16),
            (4, true) => read!(i32),
            (4, false) => read!(u32),
            (_, true) => read!(i64),
            (_, false) => read!(u64),
        })
    }

    /// A list value; `None` if it is null or has the type null.
    pub fn list(&self, kind: &'a Kind, array: &'a Array, index: usize) -> Result<Option<List<'a>>> {
        match (kind, array.children.first()) {
            (Kind::Null, _) => Ok(None),
            (Kind::List { large, item }, Some(items)) if !self.is_null(array, index) => {
                let range = self.span(array, index, *large, items.len)?;
                Ok(Some((item, items, range)))
            }
            (Kind::List { .. }, _) => Ok(None),
            _ => Err(self.wrong_kind("lists")),
        }
    }

    /// Reads a list of lists. `read` reads each inner list.
    pub fn lists<T>(&self, read: impl Fn(&'a Kind, &'a Array, Range<usize>) -> Result<Vec<T>>) -> Result<Vec<Vec<T>>> {
        let Some((item, items, range)) = self.list(&self.column.kind, self.array, self.index)? else {
            return Ok(Vec::new());
        };
        if *item == Kind::Null && !range.is_empty() {
            return Err(self.wrong_kind("lists of lists"));
        }
        range
            .map(|i| match self.list(item, items, i)? {
                Some((item, items, range)) => read(item, items, range),
                None => Ok(Vec::new()),
            })
            .collect()
    }

    pub fn text_items(&self, item: &Kind, items: &Array, range: Range<usize>) -> Result<Vec<&'a str>> {
        match item {
            kind if kind.is_text() => range
                .map(|i| self.text(kind, items, i)?.ok_or_else(|| self.error("has a null text")))
                .collect(),
            _ if range.is_empty() => Ok(Vec::new()),
            _ => Err(self.wrong_kind("lists of text")),
        }
    }

    pub fn number_items<T>(
        &self,
        item: &Kind,
        items: &Array,
        range: Range<usize>,
        kind: &Kind,
        convert: impl Fn([u8; 8]) -> T,
    ) -> Result<Vec<T>> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        if item != kind {
            return Err(self.wrong_kind(&format!("lists of {kind}")));
        }
        range
            .map(|i| {
                let bytes = self
                    .number::<8>(items, i)?
                    .ok_or_else(|| self.error("has a null item"))?;
                Ok(convert(bytes))
            })
            .collect()
    }
}
