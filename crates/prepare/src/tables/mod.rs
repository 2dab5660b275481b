//! Readers of tables of images and texts: JSONL, CSV, TSV and Parquet.
//!
//! Each format yields [`Record`]s: an image (the path of a file, or its bytes) with captions or a question; an image, a text or both,
//! with labels; or a pair of images with a statement. The columns determine the [`TableContents`]. [`ColumnNames`] assigns columns to
//! the fields of a record, by given or by usual names. Memory holds one row, or one batch of rows of a Parquet file. A row of a text
//! file has at most [`MAX_ROW_BYTES`] bytes.

mod cells;
mod columns;
mod csv;
mod join;
mod jsonl;
mod parquet;
mod record;

use std::path::Path;

pub use columns::{ColumnNames, Role, TableContents};
pub use join::join;
pub(crate) use join::normal_path;
pub use parquet::EmbeddedImages;
pub use record::{ImageSource, MAX_ROW_BYTES, Question, Record, TableFormat};

use crate::Result;
use parquet::Projection;

/// The rows of a table, in order. The iterator ends after the first error that is not [of a row](crate::PrepareError::is_of_row).
pub type Records = Box<dyn Iterator<Item = Result<Record>>>;

/// Reads the columns of a table, in JSON lines the keys of all objects. Returns the contents of the rows.
///
/// # Errors
/// Returns an error if the table cannot be read or is malformed, lacks a necessary column, or has columns that contradict each other.
pub fn contents(path: impl AsRef<Path>, format: TableFormat, columns: &ColumnNames) -> Result<TableContents> {
    let contents = check_columns(path.as_ref(), format, columns, |names| {
        columns.contents(names.iter().copied())
    });
    Ok(contents?.unwrap_or(TableContents::Texts))
}

/// Checks that a table has the necessary columns of `contents`, except the column of labels, which a table of a test split may lack.
///
/// # Errors
/// Returns an error if the table cannot be read or is malformed, or lacks a necessary column.
pub fn check_without_labels(
    path: impl AsRef<Path>,
    format: TableFormat,
    columns: &ColumnNames,
    contents: TableContents,
) -> Result<()> {
    check_columns(path.as_ref(), format, columns, |names| {
        columns.check_without_labels(contents, names.iter().copied())
    })?;
    Ok(())
}

/// Calls `check` with the columns of a table that may be used. Returns `None` for a table without columns.
fn check_columns<T>(
    path: &Path,
    format: TableFormat,
    columns: &ColumnNames,
    check: impl Fn(&[&str]) -> Result<T, String>,
) -> Result<Option<T>> {
    match format {
        TableFormat::Jsonl => jsonl::check_columns(path, |key| columns.uses(key), check),
        TableFormat::Csv => csv::check_columns(path, b',', check).map(Some),
        TableFormat::Tsv => csv::check_columns(path, b'\t', check).map(Some),
        TableFormat::Parquet => parquet::check_columns(path, check).map(Some),
    }
}

/// Opens a table.
///
/// # Errors
/// Returns the errors of [`contents`]. An error of a row names the row and the column.
pub fn read(path: impl AsRef<Path>, format: TableFormat, columns: &ColumnNames) -> Result<Records> {
    let contents = contents(&path, format, columns)?;
    open(path.as_ref(), format, columns, contents, Projection::All)
}

/// Opens a table whose rows have the given contents, like [`read`], but leaves the bytes of embedded images empty. Embedded images that
/// are missing cannot be recognised. [`EmbeddedImages`] reads the images.
///
/// # Errors
/// Returns an error if the table cannot be opened or is malformed.
pub fn read_without_images(
    path: impl AsRef<Path>,
    format: TableFormat,
    columns: &ColumnNames,
    contents: TableContents,
) -> Result<Records> {
    open(path.as_ref(), format, columns, contents, Projection::WithoutImages)
}

fn open(
    path: &Path,
    format: TableFormat,
    columns: &ColumnNames,
    contents: TableContents,
    projection: Projection,
) -> Result<Records> {
    let records: Records = match format {
        TableFormat::Jsonl => Box::new(jsonl::Lines::open(path, columns, contents)?),
        TableFormat::Csv => Box::new(csv::Rows::open(path, b',', columns, contents)?),
        TableFormat::Tsv => Box::new(csv::Rows::open(path, b'\t', columns, contents)?),
        TableFormat::Parquet => Box::new(parquet::Rows::open(path, columns, contents, projection, 0)?),
    };
    let mut failed = false;
    Ok(Box::new(records.take_while(move |record| {
        let fails = record.as_ref().is_err_and(|error| !error.is_of_row());
        !std::mem::replace(&mut failed, fails)
    })))
}

#[cfg(test)]
mod tests;
