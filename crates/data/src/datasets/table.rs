//! A file of a dataset, Arrow or WebDataset, as rows of images and texts.

use std::borrow::Cow;
use std::path::Path;

use super::contents::Contents;
use crate::arrow::ArrowTable;
use crate::webdataset::{TarCounts, TarTable, tar_stem};
use crate::{DataError, Result};
use vlct_image::Reading;

/// An open file of a dataset.
#[derive(Debug)]
pub enum Table {
    /// An Arrow file.
    Arrow(ArrowTable),
    /// A WebDataset shard.
    Tar(TarTable),
}

impl Table {
    /// Opens a file; the extension decides its format.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read or does not have the format of its extension.
    pub fn open(path: &Path) -> Result<Self> {
        if is_tar(path) {
            return Ok(Self::Tar(TarTable::open(path)?));
        }
        Ok(Self::Arrow(ArrowTable::open(path)?))
    }

    /// Opens a file like [`Self::open`], or a tar that is compressed with gzip.
    ///
    /// # Errors
    /// Returns the errors of [`Self::open`] and [`TarTable::open_compressed`].
    pub fn open_compressed(path: &Path) -> Result<Self> {
        match is_tar(path) {
            true => Ok(Self::Tar(TarTable::open_compressed(path)?)),
            false => Self::open(path),
        }
    }

    /// Opens a file and checks that it has the columns of `contents`.
    ///
    /// # Errors
    /// Returns the errors of [`Self::open`], and an error if a column is missing or has another type, or if `contents` are neither
    /// captions nor labels and the file is a tar.
    pub fn open_with_contents(path: &Path, contents: Contents) -> Result<Self> {
        if contents == Contents::Labels && is_tar(path) {
            return Ok(Self::Tar(TarTable::open_classes(path)?));
        }
        let table = Self::open(path)?;
        if contents != Contents::Captions || matches!(table, Self::Arrow(_)) {
            contents.check_columns(table.arrow()?)?;
        }
        Ok(table)
    }

    /// Detects the contents of a file from its columns.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read, or has the columns of none of the [`Contents`].
    pub fn detect_contents(path: &Path) -> Result<Contents> {
        if is_tar(path) {
            return Ok(Contents::Captions);
        }
        Contents::of_table(&ArrowTable::open(path)?)
    }

    /// Path of the file.
    pub fn path(&self) -> &Path {
        match self {
            Self::Arrow(table) => table.path(),
            Self::Tar(table) => table.path(),
        }
    }

    /// File name without extension.
    pub fn name(&self) -> &str {
        match self {
            Self::Arrow(table) => table.name(),
            Self::Tar(table) => table.name(),
        }
    }

    /// Size of the file in bytes; of a compressed tar, of its content.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Arrow(table) => table.bytes(),
            Self::Tar(table) => table.bytes(),
        }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        match self {
            Self::Arrow(table) => table.rows(),
            Self::Tar(table) => table.rows(),
        }
    }

    /// Returns the Arrow file.
    ///
    /// # Errors
    /// Returns [`DataError::Format`] for a tar.
    pub(super) fn arrow(&self) -> Result<&ArrowTable> {
        match self {
            Self::Arrow(table) => Ok(table),
            Self::Tar(_) => Err(self.error("a tar file has captions or classes only; write an Arrow file")),
        }
    }

    /// Returns for each row whether it begins a part of the file: a record batch of an Arrow file, or a sample of a tar.
    pub fn part_starts(&self) -> Box<dyn Iterator<Item = bool> + '_> {
        match self {
            Self::Arrow(table) => Box::new(table.batches().flat_map(|rows| (0..rows).map(|row| row == 0))),
            Self::Tar(table) => Box::new((0..table.rows()).map(|_| true)),
        }
    }

    /// Returns the captions, questions or sentences of a row, in order; with labels, its text if it has one. A tar has only captions.
    ///
    /// # Errors
    /// Returns an error if there is no such row or a text is damaged.
    pub fn texts(&self, row: usize, contents: Contents) -> Result<Vec<Cow<'_, str>>> {
        match self {
            Self::Arrow(table) => {
                let texts = match contents {
                    Contents::Captions => table.captions(row)?,
                    Contents::Questions | Contents::Pairs => table.texts(row, "questions")?,
                    Contents::Labels => Vec::from_iter(table.optional_text(row)?),
                };
                Ok(texts.into_iter().map(Cow::Borrowed).collect())
            }
            Self::Tar(table) => table.captions(row),
        }
    }

    /// How the images become pixels, if the file says so. Tars do not.
    pub fn reading(&self) -> Option<Reading> {
        match self {
            Self::Arrow(table) => table.reading(),
            Self::Tar(_) => None,
        }
    }

    /// Returns the bytes of an image file of a row. `column` selects the image in an Arrow file; a row of a tar has one image.
    ///
    /// # Errors
    /// Returns an error if there is no such row or it has no image.
    pub fn image(&self, row: usize, column: &str) -> Result<&[u8]> {
        match self {
            Self::Arrow(table) => table.image(row, column),
            Self::Tar(table) => table.image(row),
        }
    }

    /// Returns the name of a row's image; `None` if an Arrow file has no column `image_id` of texts or integers.
    ///
    /// # Errors
    /// Returns an error if there is no such row.
    pub fn image_id(&self, row: usize) -> Result<Option<String>> {
        match self {
            Self::Arrow(table) => table.name_at(row, "image_id"),
            Self::Tar(table) => Ok(Some(table.image_id(row)?)),
        }
    }

    /// Returns the name of a row for messages: its index and, in a tar, the name of its image.
    pub fn row_name(&self, row: usize) -> String {
        let name = match self {
            Self::Arrow(_) => None,
            Self::Tar(table) => table.image_id(row).ok(),
        };
        name.map_or(format!("row {row}"), |name| format!("row {row} ({name})"))
    }

    /// Returns an error about a row. Its message names the file and the row.
    pub fn row_error(&self, row: usize, reason: &str) -> DataError {
        self.error(&format!("{}: {reason}", self.row_name(row)))
    }

    /// Counts of the samples and members of a tar; `None` for an Arrow file.
    pub fn tar_counts(&self) -> Option<TarCounts> {
        match self {
            Self::Arrow(_) => None,
            Self::Tar(table) => Some(table.counts()),
        }
    }

    /// Releases the pages of the file from this process's memory until they are read again.
    pub fn release_pages(&self) {
        match self {
            Self::Arrow(table) => table.release_pages(),
            Self::Tar(table) => table.release_pages(),
        }
    }

    /// Memory of the table's index in bytes.
    pub fn index_memory(&self) -> usize {
        match self {
            Self::Arrow(_) => 0,
            Self::Tar(table) => table.index_memory(),
        }
    }

    /// Number of rows that lack an image of these contents. A row of a tar has one, and a row with labels may lack it.
    pub(super) fn rows_without_image(&self, contents: Contents) -> usize {
        let columns: &[&str] = match contents {
            Contents::Captions | Contents::Questions => &["image"],
            Contents::Pairs => &["image_0", "image_1"],
            Contents::Labels => &[],
        };
        match self {
            Self::Arrow(table) => columns.iter().map(|column| table.null_rows(column)).max().unwrap_or(0),
            Self::Tar(_) => 0,
        }
    }

    fn error(&self, reason: &str) -> DataError {
        DataError::Format {
            path: self.path().to_path_buf(),
            reason: reason.into(),
        }
    }
}

fn is_tar(path: &Path) -> bool {
    tar_stem(path).is_some()
}
