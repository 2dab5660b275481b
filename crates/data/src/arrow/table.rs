//! A reader of Arrow files that reads values in place.

use std::fmt;
use std::ops::Range;
use std::path::Path;

use super::kinds::{Column, Kind};
use super::layout::{self, Array, Layout, VIEW_BYTES};
use crate::{DataError, Result};
use vlct_image::Reading;
use vlct_util::MappedFile;

/// The required type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnType {
    /// The bytes of image files, or structs with the bytes in a field `bytes`.
    Images,
    /// The bytes of image files, or the type null: Arrow writes this type if all values are null.
    OptionalImages,
    /// A text in each row, or the type null.
    OptionalText,
    /// A list of texts in each row, or the type null.
    OptionalTexts,
    /// A list of texts in each row.
    Texts,
    /// A text or a list of texts in each row.
    TextOrTexts,
    /// A list of 64-bit integers in each row.
    Integers,
    /// A list of lists of texts in each row. Items of type null are accepted too: Arrow writes this type if all lists are empty.
    TextLists,
    /// A list of lists of 64-bit integers in each row, or a list with items of type null, as for [`Self::TextLists`].
    IntegerLists,
    /// A list of lists of 64-bit floating-point numbers in each row, or a list with items of type null, as for [`Self::TextLists`].
    FloatLists,
}

impl ColumnType {
    fn matches(self, kind: &Kind) -> bool {
        let is_list_of = |kind: &Kind, fits: &dyn Fn(&Kind) -> bool| match kind {
            Kind::List { item, .. } => fits(item),
            _ => false,
        };
        // Lists that are empty in every row, such as answers of a test split, have items of type null.
        let is_list_of_lists =
            |fits: &dyn Fn(&Kind) -> bool| is_list_of(kind, &|item| *item == Kind::Null || is_list_of(item, fits));
        match self {
            Self::Images => kind.is_image(),
            Self::OptionalImages => *kind == Kind::Null || Self::Images.matches(kind),
            Self::OptionalText => *kind == Kind::Null || kind.is_text(),
            Self::OptionalTexts => *kind == Kind::Null || Self::Texts.matches(kind),
            Self::Texts => is_list_of(kind, &Kind::is_text),
            Self::TextOrTexts => kind.is_text() || Self::Texts.matches(kind),
            Self::Integers => is_list_of(kind, &|item| *item == Kind::Int64),
            Self::TextLists => is_list_of_lists(&Kind::is_text),
            Self::IntegerLists => is_list_of_lists(&|item| *item == Kind::Int64),
            Self::FloatLists => is_list_of_lists(&|item| *item == Kind::Float64),
        }
    }
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Images | Self::OptionalImages => "images (binary)",
            Self::OptionalText => "text",
            Self::Texts | Self::OptionalTexts => "lists of text",
            Self::TextOrTexts => "text or lists of text",
            Self::Integers => "lists of 64-bit integers",
            Self::TextLists => "lists of lists of text",
            Self::IntegerLists => "lists of lists of 64-bit integers",
            Self::FloatLists => "lists of lists of 64-bit floating-point numbers",
        })
    }
}

/// The usual name of the column of captions.
const CAPTION: &str = "caption";
/// Rows read between two releases of pages in [`ArrowTable::for_each_row`].
const ROWS_PER_RELEASE: usize = 4096;
/// Record batches read between two releases of pages in [`ArrowTable::for_each_row`].
const BATCHES_PER_RELEASE: usize = 4;

/// A memory-mapped Arrow IPC file or stream. Its rows are numbered from 0 over all record batches.
///
/// Values are slices of the file. A damaged value is an error of the call that reads it.
/// The file must not be changed while it is open; replacing it by renaming another file over it is fine.
///
/// ```
/// use vlct_data::arrow::{ArrowTable, CaptionWriter};
///
/// # let directory = tempfile::tempdir().unwrap();
/// let path = directory.path().join("photos_train.arrow");
/// let mut writer = CaptionWriter::create(&path)?;
/// writer.push(b"the bytes of a JPEG file", &["a dog", "a dog on a surfboard"], "1.jpg", "train")?;
/// writer.finish()?;
///
/// let table = ArrowTable::open(&path)?;
/// assert_eq!(table.rows(), 1);
/// assert_eq!(table.image(0, "image")?, b"the bytes of a JPEG file");
/// assert_eq!(table.texts(0, "caption")?, ["a dog", "a dog on a surfboard"]);
/// # Ok::<(), vlct_data::DataError>(())
/// ```
#[derive(Debug)]
pub struct ArrowTable {
    map: MappedFile,
    layout: Layout,
    /// First row of each batch.
    starts: Vec<usize>,
    rows: usize,
}

impl ArrowTable {
    /// Maps the file and checks its structure. The time depends on the number of record batches, not on the size of the file.
    ///
    /// # Errors
    /// Returns [`DataError::Io`] if the file cannot be opened, [`DataError::Format`] if it is not a complete, uncompressed Arrow
    /// file or stream.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let map = MappedFile::open(path)?;
        let layout = layout::parse(&map).map_err(|reason| DataError::format(map.path(), reason))?;
        let mut rows = 0usize;
        let mut starts = Vec::with_capacity(layout.batches.len());
        for batch in &layout.batches {
            starts.push(rows);
            rows = rows.checked_add(batch.rows).ok_or_else(|| {
                DataError::format(map.path(), "its number of rows is impossible; the file is damaged")
            })?;
        }
        Ok(Self {
            map,
            layout,
            starts,
            rows,
        })
    }

    /// How the images become pixels, if the file says so.
    pub fn reading(&self) -> Option<Reading> {
        self.layout.reading
    }

    /// The path that the file was opened with.
    pub fn path(&self) -> &Path {
        self.map.path()
    }

    /// The file name without `.arrow`.
    pub fn name(&self) -> &str {
        self.map.stem()
    }

    /// Number of rows, over all record batches.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of rows of each record batch.
    pub fn batches(&self) -> impl ExactSizeIterator<Item = usize> {
        self.layout.batches.iter().map(|b| b.rows)
    }

    /// Names of the columns, in order.
    pub fn columns(&self) -> impl ExactSizeIterator<Item = &str> {
        self.layout.columns.iter().map(|c| c.name.as_str())
    }

    /// Whether the column exists and has a type other than null.
    pub fn has_typed_column(&self, column: &str) -> bool {
        self.layout
            .columns
            .iter()
            .any(|c| c.name == column && c.kind != Kind::Null)
    }

    /// Whether the column exists and holds text.
    pub fn has_text_column(&self, column: &str) -> bool {
        let mut columns = self.layout.columns.iter();
        columns.any(|c| c.name == column && c.kind.is_text())
    }

    /// Whether the column exists and holds lists of 64-bit integers.
    pub fn has_integer_lists(&self, column: &str) -> bool {
        let mut columns = self.layout.columns.iter();
        columns.any(|c| c.name == column && ColumnType::Integers.matches(&c.kind))
    }

    /// Number of rows whose value in this column is null; in a column of images, also the rows without the bytes of an image. 0 if there
    /// is no such column.
    pub fn null_rows(&self, column: &str) -> usize {
        let Some(position) = self.layout.columns.iter().position(|c| c.name == column) else {
            return 0;
        };
        let kind = &self.layout.columns[position].kind;
        let bytes = kind.field("bytes");
        let nulls = self.layout.batches.iter().map(|batch| {
            let array = &batch.arrays[position];
            match (kind, bytes.map(|bytes| &array.children[bytes])) {
                (Kind::Null, _) => batch.rows,
                (_, None) => array.nulls,
                (_, Some(bytes)) if array.nulls == 0 => bytes.nulls,
                (_, Some(bytes)) => {
                    let is_null = |row: &usize| self.is_null_in(array, *row) || self.is_null_in(bytes, *row);
                    (0..batch.rows).filter(is_null).count()
                }
            }
        });
        nulls.sum()
    }

    /// Whether a value of an array is null.
    fn is_null_in(&self, array: &Array, index: usize) -> bool {
        match &array.validity {
            Some(bitmap) => self.map[bitmap.start + index / 8] >> (index % 8) & 1 == 0,
            None => false,
        }
    }

    /// Checks that columns exist and have these types. A table without rows passes, because the original writers give its columns
    /// the type null.
    ///
    /// # Errors
    /// Returns [`DataError::NoColumn`] if a column is missing, [`DataError::Format`] if a column has another type.
    pub fn check_columns(&self, columns: &[(&str, ColumnType)]) -> Result<()> {
        if self.rows == 0 {
            return Ok(());
        }
        for (name, required) in columns {
            let kind = &self.find(0, name)?.column.kind;
            if !required.matches(kind) {
                let reason = format!("column {name:?} should hold {required}, but holds {kind}");
                return Err(DataError::format(self.map.path(), reason));
            }
        }
        Ok(())
    }

    /// Whether a value is null, or an image without bytes.
    ///
    /// # Errors
    /// Returns [`DataError::NoRow`] or [`DataError::NoColumn`].
    pub fn is_null(&self, row: usize, column: &str) -> Result<bool> {
        let cell = self.find(row, column)?;
        let kind = &cell.column.kind;
        let bytes = kind.field("bytes").map(|bytes| &cell.array.children[bytes]);
        Ok(*kind == Kind::Null
            || cell.is_null(cell.array, cell.index)
            || bytes.is_some_and(|bytes| cell.is_null(bytes, cell.index)))
    }

    /// The bytes of an image file, or of another binary or text value.
    ///
    /// # Errors
    /// Returns [`DataError::NoRow`], [`DataError::NoColumn`], or [`DataError::Format`] if the column has another type or the value is
    /// null or damaged.
    pub fn image(&self, row: usize, column: &str) -> Result<&[u8]> {
        let cell = self.find(row, column)?;
        let kind = &cell.column.kind;
        if let Kind::Struct { fields } = kind
            && let Some(bytes) = kind.field("bytes").filter(|_| kind.is_image())
        {
            if cell.is_null(cell.array, cell.index) {
                return Err(cell.error("is null"));
            }
            let image = cell.bytes(&fields[bytes].kind, &cell.array.children[bytes], cell.index)?;
            return image.ok_or_else(|| cell.error("has no bytes of an image; write the bytes, not the path"));
        }
        match kind {
            Kind::Bytes { .. } | Kind::View { .. } => cell
                .bytes(kind, cell.array, cell.index)?
                .ok_or_else(|| cell.error("is null")),
            Kind::Null => Err(cell.error("is null")),
            _ => Err(cell.wrong_kind("images (binary)")),
        }
    }

    /// A text value; `None` if it is null.
    ///
    /// # Errors
    /// Returns [`DataError::NoRow`], [`DataError::NoColumn`], or [`DataError::Format`] if the column has another type or the value is
    /// damaged.
    pub fn string(&self, row: usize, column: &str) -> Result<Option<&str>> {
        let cell = self.find(row, column)?;
        match &cell.column.kind {
            kind if kind.is_text() => cell.text(kind, cell.array, cell.index),
            Kind::Null => Ok(None),
            _ => Err(cell.wrong_kind("text")),
        }
    }

    /// A name: a text, or an integer as text. `None` if it is null, if there is no such column, or if it has another type.
    ///
    /// # Errors
    /// Returns [`DataError::NoRow`], or [`DataError::Format`] if the value is damaged.
    pub fn name_at(&self, row: usize, column: &str) -> Result<Option<String>> {
        if !self.columns().any(|name| name == column) {
            return Ok(None);
        }
        let cell = self.find(row, column)?;
        match &cell.column.kind {
            kind if kind.is_text() => Ok(cell.text(kind, cell.array, cell.index)?.map(str::to_string)),
            Kind::Int64 | Kind::Integer { .. } => cell.integer_text(),
            _ => Ok(None),
        }
    }

    /// The texts of a list (captions, questions), in order; empty if the list is empty or null. A text is a list of one.
    ///
    /// # Errors
    /// Returns [`DataError::NoRow`], [`DataError::NoColumn`], or [`DataError::Format`] if the column has another type, a text is null,
    /// or a value is damaged.
    pub fn texts(&self, row: usize, column: &str) -> Result<Vec<&str>> {
        let cell = self.find(row, column)?;
        let kind = &cell.column.kind;
        if kind.is_text() {
            return Ok(Vec::from_iter(cell.text(kind, cell.array, cell.index)?));
        }
        let Some((item, items, range)) = cell.list(kind, cell.array, cell.index)? else {
            return Ok(Vec::new());
        };
        cell.text_items(item, items, range)
    }

    /// The captions of a row, in order, without null items: the texts in [`Self::caption_column`].
    ///
    /// # Errors
    /// Returns the errors of [`Self::texts`], but none for a text that is null.
    pub fn captions(&self, row: usize) -> Result<Vec<&str>> {
        let cell = self.find(row, self.caption_column())?;
        let kind = &cell.column.kind;
        if kind.is_text() {
            return Ok(Vec::from_iter(cell.text(kind, cell.array, cell.index)?));
        }
        match cell.list(kind, cell.array, cell.index)? {
            Some((item, items, range)) if item.is_text() => {
                range.filter_map(|i| cell.text(item, items, i).transpose()).collect()
            }
            Some((_, _, range)) if !range.is_empty() => Err(cell.wrong_kind("lists of text")),
            _ => Ok(Vec::new()),
        }
    }

    /// The name of the column of captions: `caption`, or `text` if there is no such column, as in datasets of Hugging Face.
    pub fn caption_column(&self) -> &'static str {
        match self.columns().any(|column| column == CAPTION) {
            true => CAPTION,
            false => "text",
        }
    }

    /// A 64-bit integer; `None` if it is null.
    ///
    /// # Errors
    /// Returns [`DataError::NoRow`], [`DataError::NoColumn`], or [`DataError::Format`] if the column has another type or the value is
    /// damaged.
    pub fn integer(&self, row: usize, column: &str) -> Result<Option<i64>> {
        let cell = self.find(row, column)?;
        match cell.column.kind {
            Kind::Int64 => Ok(cell.number::<8>(cell.array, cell.index)?.map(i64::from_le_bytes)),
            Kind::Null => Ok(None),
            _ => Err(cell.wrong_kind("64-bit integers")),
        }
    }

    /// The 64-bit integers of a list; empty if the list is empty or null.
    ///
    /// # Errors
    /// Returns [`DataError::NoRow`], [`DataError::NoColumn`], or [`DataError::Format`] if the column has another type, a number is
    /// null, or a value is damaged.
    pub fn integers(&self, row: usize, column: &str) -> Result<Vec<i64>> {
        let cell = self.find(row, column)?;
        let Some((item, items, range)) = cell.list(&cell.column.kind, cell.array, cell.index)? else {
            return Ok(Vec::new());
        };
        cell.number_items(item, items, range, &Kind::Int64, i64::from_le_bytes)
    }

    /// A list of lists of texts (answers of each question).
    ///
    /// # Errors
    /// Returns the errors of [`Self::texts`].
    pub fn text_lists(&self, row: usize, column: &str) -> Result<Vec<Vec<&str>>> {
        let cell = self.find(row, column)?;
        cell.lists(|item, items, range| cell.text_items(item, items, range))
    }

    /// A list of lists of 64-bit integers (answer labels of each question).
    ///
    /// # Errors
    /// Returns the errors of [`Self::integers`].
    pub fn integer_lists(&self, row: usize, column: &str) -> Result<Vec<Vec<i64>>> {
        let cell = self.find(row, column)?;
        cell.lists(|item, items, range| cell.number_items(item, items, range, &Kind::Int64, i64::from_le_bytes))
    }

    /// A list of lists of 64-bit floating-point numbers (answer scores of each question).
    ///
    /// # Errors
    /// Returns the errors of [`Self::integers`].
    pub fn float_lists(&self, row: usize, column: &str) -> Result<Vec<Vec<f64>>> {
        let cell = self.find(row, column)?;
        cell.lists(|item, items, range| cell.number_items(item, items, range, &Kind::Float64, f64::from_le_bytes))
    }

    /// An error that names the file and the row.
    pub(crate) fn row_error(&self, row: usize, reason: &str) -> DataError {
        DataError::format(self.map.path(), format!("row {row}: {reason}"))
    }

    /// Calls `read` with every row, in order, and releases the pages of the file at intervals. `read` should read small values only.
    ///
    /// # Errors
    /// Returns the first error of `read`.
    pub(crate) fn for_each_row(&self, mut read: impl FnMut(usize) -> Result<()>) -> Result<()> {
        let (mut row, mut unreleased_rows, mut unreleased_batches) = (0, 0, 0);
        for rows in self.batches() {
            for _ in 0..rows {
                read(row)?;
                row += 1;
                unreleased_rows += 1;
                if unreleased_rows == ROWS_PER_RELEASE {
                    self.release_pages();
                    (unreleased_rows, unreleased_batches) = (0, 0);
                }
            }
            unreleased_batches += 1;
            if unreleased_batches == BATCHES_PER_RELEASE {
                self.release_pages();
                (unreleased_rows, unreleased_batches) = (0, 0);
            }
        }
        self.release_pages();
        Ok(())
    }

    /// Removes the pages of the file from this process's resident memory; see [`MappedFile::release_pages`].
    pub fn release_pages(&self) {
        self.map.release_pages();
    }

    /// Finds a value by row and column name.
    fn find<'a>(&'a self, row: usize, name: &str) -> Result<Cell<'a>> {
        let position = self
            .layout
            .columns
            .iter()
            .position(|c| c.name == name)
            .ok_or_else(|| DataError::NoColumn {
                path: self.path().to_path_buf(),
                column: name.to_string(),
                columns: self.columns().map(str::to_string).collect(),
            })?;
        if row >= self.rows {
            return Err(DataError::NoRow {
                path: self.path().to_path_buf(),
                row,
                rows: self.rows,
            });
        }
        // Of several batches that begin at the same row, only the last has rows.
        let batch = self.starts.partition_point(|start| *start <= row) - 1;
        Ok(Cell {
            table: self,
            row,
            index: row - self.starts[batch],
            column: &self.layout.columns[position],
            array: &self.layout.batches[batch].arrays[position],
        })
    }
}

/// A list: the type of its items, the items of all lists of the array, and the range of its own items.
type List<'a> = (&'a Kind, &'a Array, Range<usize>);

/// The position of a value: a row of a column.
#[derive(Clone, Copy)]
struct Cell<'a> {
    table: &'a ArrowTable,
    /// Index in the table, for messages.
    row: usize,
    /// Index in the batch.
    index: usize,
    column: &'a Column,
    array: &'a Array,
}

impl<'a> Cell<'a> {
    fn error(&self, reason: &str) -> DataError {
        let location = format!("row {}, column {:?}", self.row, self.column.name);
        DataError::format(self.table.map.path(), format!("{location} {reason}"))
    }

    fn damaged(&self) -> DataError {
        self.error("is damaged (its offsets are impossible); make or copy the file again")
    }

    fn wrong_kind(&self, expected: &str) -> DataError {
        self.error(&format!(
            "should hold {expected}, but the column holds {}",
            self.column.kind
        ))
    }

    fn is_null(&self, array: &Array, index: usize) -> bool {
        self.table.is_null_in(array, index)
    }

    /// Returns the range between the offsets `index` and `index + 1` of an array. The range must end at or before `limit`.
    fn span(&self, array: &Array, index: usize, large: bool, limit: usize) -> Result<Range<usize>> {
        let offset = |index: usize| -> Option<usize> {
            let width = if large { 8 } else { 4 };
            let start = array.offsets_or_numbers.start.checked_add(index.checked_mul(width)?)?;
            let bytes = self.table.map.get(start..start.checked_add(width)?)?;
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
    fn bytes(&self, kind: &Kind, array: &Array, index: usize) -> Result<Option<&'a [u8]>> {
        if self.is_null(array, index) {
            return Ok(None);
        }
        let large = match kind {
            Kind::Bytes { large, .. } => *large,
            _ => return self.view(array, index).map(Some),
        };
        let span = self.span(array, index, large, array.data.len())?;
        Ok(Some(&self.table.map[array.data.clone()][span]))
    }

    /// The bytes of a view. A value of at most 12 bytes is in the view itself; of a longer one, the view has the length, four bytes, and
    /// the buffer and the offset of all bytes.
    fn view(&self, array: &Array, index: usize) -> Result<&'a [u8]> {
        const INLINE_BYTES: usize = VIEW_BYTES - 4;
        let map: &'a [u8] = &self.table.map;
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

    fn text(&self, kind: &Kind, array: &Array, index: usize) -> Result<Option<&'a str>> {
        let Some(bytes) = self.bytes(kind, array, index)? else {
            return Ok(None);
        };
        let text = std::str::from_utf8(bytes).map_err(|_| self.error("holds text that is not UTF-8"))?;
        Ok(Some(text))
    }

    /// The bytes of a number of `N` bytes; `None` if it is null.
    fn number<const N: usize>(&self, array: &Array, index: usize) -> Result<Option<[u8; N]>> {
        if self.is_null(array, index) {
            return Ok(None);
        }
        let start = array.offsets_or_numbers.start + index * N;
        let bytes = self.table.map.get(start..start + N).ok_or_else(|| self.damaged())?;
        Ok(bytes.try_into().ok())
    }

    /// An integer of any type, as text; `None` if it is null.
    fn integer_text(&self) -> Result<Option<String>> {
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
    fn list(&self, kind: &'a Kind, array: &'a Array, index: usize) -> Result<Option<List<'a>>> {
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
    fn lists<T>(&self, read: impl Fn(&'a Kind, &'a Array, Range<usize>) -> Result<Vec<T>>) -> Result<Vec<Vec<T>>> {
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

    fn text_items(&self, item: &Kind, items: &Array, range: Range<usize>) -> Result<Vec<&'a str>> {
        match item {
            kind if kind.is_text() => range
                .map(|i| self.text(kind, items, i)?.ok_or_else(|| self.error("has a null text")))
                .collect(),
            _ if range.is_empty() => Ok(Vec::new()),
            _ => Err(self.wrong_kind("lists of text")),
        }
    }

    fn number_items<T>(
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
