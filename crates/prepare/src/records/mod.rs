//! Tables of pictures and texts as people have them: JSON lines, CSV, TSV, Parquet; and folders of classes.
//!
//! Each format yields [`Record`]s: a picture (the path of a file, or its bytes) with captions or a question. Which column
//! is what is said by [`Columns`]: named by the caller or found by its usual names. A row is read at a time (of Parquet a few
//! dozen), and no row may be larger than [`MAX_ROW`].

mod columns;
mod delimited;
mod folders;
mod join;
mod jsonl;
mod metered;
mod pages;
mod parquet;
mod quotes;

use std::fs::File;
use std::path::Path;

pub use columns::{Columns, Role};
pub use folders::{ClassFolders, ClassPicture, class_folders, split_folders};
pub use join::join;
pub use parquet::PackedPictures;

use crate::{DataError, Result};
use parquet::Wanted;
use vlct_util::IoError;

/// Largest row of a text file, in bytes.
pub const MAX_ROW: usize = 16 << 20;

/// A kind of table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A JSON object per line.
    Jsonl,
    /// Values between commas, the first line names the columns.
    Csv,
    /// As CSV, with tabs.
    Tsv,
    /// Apache Parquet.
    Parquet,
}

impl Format {
    /// Ending of the names of such files.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Jsonl => "jsonl",
            Self::Csv => "csv",
            Self::Tsv => "tsv",
            Self::Parquet => "parquet",
        }
    }
}

/// Where a picture is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Picture {
    /// In a file: its path as the table has it.
    File(String),
    /// Here: the bytes of its file.
    Bytes(Vec<u8>),
}

/// A question about a picture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// The question.
    pub text: String,
    /// Its answers: one, or one for each person who was asked; none in a test split.
    pub answers: Vec<String>,
}

/// A row of a table: a picture and what is said or asked about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The picture.
    pub picture: Picture,
    /// Captions. Blank ones are left out.
    pub captions: Vec<String>,
    /// Questions. Blank ones are left out.
    pub questions: Vec<Question>,
    /// A name for the picture.
    pub image_id: Option<String>,
    /// The split that the row belongs to, as the table has it.
    pub split: Option<String>,
}

/// The rows of a table, in order. After an error there is no further row.
pub type Records = Box<dyn Iterator<Item = Result<Record>>>;

/// Opens a table.
///
/// # Errors
/// [`DataError::Io`] if it cannot be opened, [`DataError::Format`] if its beginning is not what it should be or columns are
/// missing. An error of a row names the row and the column.
pub fn read(path: impl AsRef<Path>, format: Format, columns: &Columns) -> Result<Records> {
    open(path.as_ref(), format, columns, Wanted::All)
}

/// As [`read`], but pictures that stand in the table itself are not read: their bytes are empty. [`PackedPictures`] has them.
///
/// # Errors
/// As [`read`].
pub fn outline(path: impl AsRef<Path>, format: Format, columns: &Columns) -> Result<Records> {
    open(path.as_ref(), format, columns, Wanted::Outline)
}

fn open(path: &Path, format: Format, columns: &Columns, wanted: Wanted) -> Result<Records> {
    let records: Records = match format {
        Format::Jsonl => Box::new(jsonl::Lines::open(path, columns)?),
        Format::Csv => Box::new(delimited::Rows::open(path, b',', columns)?),
        Format::Tsv => Box::new(delimited::Rows::open(path, b'\t', columns)?),
        Format::Parquet => Box::new(parquet::Rows::open(path, columns, wanted, 0)?),
    };
    let mut failed = false;
    Ok(Box::new(records.take_while(move |record| {
        !std::mem::replace(&mut failed, record.is_err())
    })))
}

/// Opens a file, not a pipe or a folder.
fn open_file(path: &Path) -> Result<File> {
    let io = |source| {
        DataError::Io(IoError {
            path: path.to_path_buf(),
            source,
        })
    };
    // Before opening: to open a pipe would wait for its writer.
    if !std::fs::metadata(path).map_err(io)?.is_file() {
        return Err(format_error(path, "it is not a file; give the path of a table"));
    }
    File::open(path).map_err(io)
}

fn format_error(path: &Path, reason: impl Into<String>) -> DataError {
    DataError::Format {
        path: path.to_path_buf(),
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests;
