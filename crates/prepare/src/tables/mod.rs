//! Readers of tables of images and texts: JSONL, CSV, TSV and Parquet.
//!
//! Each format yields [`Record`]s: an image (the path of a file, or its bytes) with captions or a question. [`ColumnNames`] assigns
//! columns to these, by given or by usual names. One row is read at a time (of Parquet a few dozen), and no row of a text file may be
//! larger than [`MAX_ROW`].

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

/// File formats of tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableFormat {
    /// A JSON object per line.
    Jsonl,
    /// Comma-separated values; the first line names the columns.
    Csv,
    /// Tab-separated values; the first line names the columns.
    Tsv,
    /// Apache Parquet.
    Parquet,
}

impl TableFormat {
    /// Returns the extension of file names, without a dot.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Jsonl => "jsonl",
            Self::Csv => "csv",
            Self::Tsv => "tsv",
            Self::Parquet => "parquet",
        }
    }
}

/// Where the bytes of an image are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ImageSource {
    /// In a file, whose path is as in the table.
    File(String),
    /// In the table.
    Bytes(Vec<u8>),
}

/// A question about an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// Text of the question.
    pub text: String,
    /// One answer, or one for each person who was asked; none in a test split.
    pub answers: Vec<String>,
}

/// A row of a table: an image with captions or questions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where the image is.
    pub image: ImageSource,
    /// Captions. Blank ones are left out.
    pub captions: Vec<String>,
    /// Questions. Blank ones are left out.
    pub questions: Vec<Question>,
    /// Name of the image.
    pub image_id: Option<String>,
    /// The split that the row belongs to, as the table has it.
    pub split: Option<String>,
}

/// The rows of a table, in order. The iterator ends after the first error.
pub type Records = Box<dyn Iterator<Item = Result<Record>>>;

/// Opens a table.
///
/// # Errors
/// Returns an error if it cannot be opened, is malformed, or lacks a column. An error of a row names the row and the column.
pub fn read(path: impl AsRef<Path>, format: TableFormat, columns: &ColumnNames) -> Result<Records> {
    open(path.as_ref(), format, columns, Projection::All)
}

/// As [`read`], but the bytes of images that are embedded in the table are not read and left empty. [`EmbeddedImages`] reads them.
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
