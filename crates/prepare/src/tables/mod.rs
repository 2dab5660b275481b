//! Readers of tables of images and texts: JSONL, CSV, TSV and Parquet.
//!
//! Each format yields [`Record`]s: an image (the path of a file, or its bytes) with captions or a question. [`ColumnNames`] assigns
//! columns to the fields of a record, by given or by usual names. Memory holds one row, or one batch of rows of a Parquet
//! file. A row of a text file has at most [`MAX_ROW_BYTES`] bytes.

mod columns;
mod csv;
mod join;
mod jsonl;
mod parquet;
mod record;

use std::path::Path;

pub use columns::{ColumnNames, Role};
pub use join::join;
pub use parquet::EmbeddedImages;
pub use record::{ImageSource, MAX_ROW_BYTES, Question, Record, TableFormat};

use crate::Result;
use parquet::Projection;

/// The rows of a table, in order. The iterator ends after the first error.
pub type Records = Box<dyn Iterator<Item = Result<Record>>>;

/// Opens a table.
///
/// # Errors
/// Returns an error if the table cannot be opened, is malformed, or lacks a necessary column. An error of a row names the row
/// and the column.
pub fn read(path: impl AsRef<Path>, format: TableFormat, columns: &ColumnNames) -> Result<Records> {
    open(path.as_ref(), format, columns, Projection::All)
}

/// Opens a table like [`read`], but leaves the bytes of embedded images empty. [`EmbeddedImages`] reads them.
///
/// # Errors
/// Returns the errors of [`read`].
pub fn read_without_images(path: impl AsRef<Path>, format: TableFormat, columns: &ColumnNames) -> Result<Records> {
    open(path.as_ref(), format, columns, Projection::WithoutImages)
}

fn open(path: &Path, format: TableFormat, columns: &ColumnNames, projection: Projection) -> Result<Records> {
    let records: Records = match format {
        TableFormat::Jsonl => Box::new(jsonl::Lines::open(path, columns)?),
        TableFormat::Csv => Box::new(csv::Rows::open(path, b',', columns)?),
        TableFormat::Tsv => Box::new(csv::Rows::open(path, b'\t', columns)?),
        TableFormat::Parquet => Box::new(parquet::Rows::open(path, columns, projection, 0)?),
    };
    let mut failed = false;
    Ok(Box::new(records.take_while(move |record| {
        !std::mem::replace(&mut failed, record.is_err())
    })))
}

#[cfg(test)]
mod tests;
