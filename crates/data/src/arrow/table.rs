//! A reader of Arrow files that reads values in place.

use std::path::Path;

use super::cell::{Cell, is_null};
use super::column_type::ColumnType;
use super::kinds::Kind;
use super::layout::{self, Layout};
use crate::{DataError, Result};
use vlct_image::Reading;
use vlct_util::MappedFile;

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

    /// Size of the file in bytes.
    pub fn bytes(&self) -> u64 {
        self.map.len() as u64
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
                    let is_null = |row: &usize| is_null(&self.map, array, *row) || is_null(&self.map, bytes, *row);
                    (0..batch.rows).filter(is_null).count()
                }
            }
        });
        nulls.sum()
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
            map: &self.map,
            row,
            index: row - self.starts[batch],
            column: &self.layout.columns[position],
            array: &self.layout.batches[batch].arrays[position],
        })
    }
}
