//! Tables of images and texts as people have them: JSON lines, CSV, TSV, Parquet; and directories of classes.
//!
//! Each format yields [`Record`]s: an image (the path of a file, or its bytes) with captions or a question. Which column
//! is what is said by [`ColumnNames`]: named by the caller or found by its usual names. A row is read at a time (of Parquet a few
//! dozen), and no row may be larger than [`MAX_ROW`].

mod columns;
mod csv;
mod join;
mod jsonl;
mod parquet;

use std::path::Path;

pub use columns::{ColumnNames, Role};
pub use join::join;
pub use parquet::EmbeddedImages;

use crate::{PrepareError, Result};
use parquet::Projection;
use vlct_util::open_file;

/// Largest row of a text file, in bytes.
pub const MAX_ROW: usize = 16 << 20;

/// A kind of table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableFormat {
    /// A JSON object per line.
    Jsonl,
    /// Values between commas, the first line names the columns.
    Csv,
    /// As CSV, with tabs.
    Tsv,
    /// Apache Parquet.
    Parquet,
}

impl TableFormat {
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

/// Where an image is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ImageSource {
    /// In a file: its path as the table has it.
    File(String),
    /// Here: the bytes of its file.
    Bytes(Vec<u8>),
}

/// A question about an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// The question.
    pub text: String,
    /// Its answers: one, or one for each person who was asked; none in a test split.
    pub answers: Vec<String>,
}

/// A row of a table: an image and what is said or asked about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The image.
    pub image: ImageSource,
    /// Captions. Blank ones are left out.
    pub captions: Vec<String>,
    /// Questions. Blank ones are left out.
    pub questions: Vec<Question>,
    /// A name for the image.
    pub image_id: Option<String>,
    /// The split that the row belongs to, as the table has it.
    pub split: Option<String>,
}

/// The rows of a table, in order. After an error there is no further row.
pub type Records = Box<dyn Iterator<Item = Result<Record>>>;

/// Opens a table.
///
/// # Errors
/// Returns an error if it cannot be opened, is malformed, or lacks a column. An error of a row names the row and the column.
pub fn read(path: impl AsRef<Path>, format: TableFormat, columns: &ColumnNames) -> Result<Records> {
    open(path.as_ref(), format, columns, Projection::All)
}

/// As [`read`], but images that stand in the table itself are not read: their bytes are empty. [`EmbeddedImages`] has them.
///
/// # Errors
/// As [`read`].
pub fn read_without_images(path: impl AsRef<Path>, format: TableFormat, columns: &ColumnNames) -> Result<Records> {
    open(path.as_ref(), format, columns, Projection::WithoutImages)
}

fn open(path: &Path, format: TableFormat, columns: &ColumnNames, wanted: Projection) -> Result<Records> {
    let records: Records = match format {
        TableFormat::Jsonl => Box::new(jsonl::Lines::open(path, columns)?),
        TableFormat::Csv => Box::new(csv::Rows::open(path, b',', columns)?),
        TableFormat::Tsv => Box::new(csv::Rows::open(path, b'\t', columns)?),
        TableFormat::Parquet => Box::new(parquet::Rows::open(path, columns, wanted, 0)?),
    };
    let mut failed = false;
    Ok(Box::new(records.take_while(move |record| {
        !std::mem::replace(&mut failed, record.is_err())
    })))
}

fn malformed(path: &Path, reason: impl Into<String>) -> PrepareError {
    PrepareError::malformed(path, reason)
}

#[cfg(test)]
mod tests;
