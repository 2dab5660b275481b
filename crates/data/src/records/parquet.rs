//! Apache Parquet.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type};
use arrow_array::{Array, RecordBatch};
use arrow_schema::DataType;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::basic::Compression;
use parquet::file::metadata::ParquetMetaData;

use super::columns::{Cell, Cells, Columns, Positions, Role, record};
use super::{Record, format_error, open_file};
use crate::{DataError, Result};

/// Rows decoded at a time: pictures are large.
const BATCH_ROWS: usize = 32;

/// The rows of a file, decoded a few at a time; columns that are not needed are not read.
pub(super) struct Rows {
    path: PathBuf,
    reader: ParquetRecordBatchReader,
    positions: Positions,
    names: Vec<String>,
    batch: Option<RecordBatch>,
    /// Next row in the batch, and in the file.
    next: usize,
    row: u64,
}

impl Rows {
    pub fn open(path: &Path, columns: &Columns) -> Result<Self> {
        let file = open_file(path)?;
        let builder = guarded(path, || {
            // Types as Parquet has them, not as the writing program had them in memory: there are fewer.
            let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
            ParquetRecordBatchReaderBuilder::try_new_with_options(file, options)
        })?;
        check(path, builder.metadata())?;
        let names: Vec<String> = builder
            .schema()
            .fields()
            .iter()
            .map(|field| field.name().clone())
            .collect();
        let find = |names: &[String]| {
            let found = columns.find(names.iter().map(String::as_str));
            found.map_err(|reason| format_error(path, reason))
        };
        let wanted: Vec<usize> = find(&names)?.into_iter().flatten().collect();
        let mask = ProjectionMask::roots(builder.parquet_schema(), wanted);
        let builder = builder.with_projection(mask).with_batch_size(BATCH_ROWS);
        let reader = guarded(path, || builder.build())?;
        // Positions among those columns that are read.
        let schema = arrow_array::RecordBatchReader::schema(&reader);
        let names: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
        Ok(Self {
            path: path.to_path_buf(),
            reader,
            positions: find(&names)?,
            names,
            batch: None,
            next: 0,
            row: 0,
        })
    }

    /// The next row's values; None at the end.
    fn advance(&mut self) -> Result<Option<Cells>> {
        while self.batch.as_ref().is_none_or(|batch| self.next >= batch.num_rows()) {
            let reader = &mut self.reader;
            let Some(batch) = guarded(&self.path, || reader.next().transpose())? else {
                return Ok(None);
            };
            (self.batch, self.next) = (Some(batch), 0);
        }
        let mut cells = Cells::default();
        if let Some(batch) = &self.batch {
            for (role, (cell, position)) in Role::ALL.into_iter().zip(cells.iter_mut().zip(self.positions)) {
                if let Some(position) = position {
                    *cell = value(batch.column(position).as_ref(), self.next, role);
                }
            }
        }
        self.next += 1;
        self.row += 1;
        Ok(Some(cells))
    }
}

impl Iterator for Rows {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        let cells = match self.advance() {
            Ok(cells) => cells?,
            Err(error) => return Some(Err(error)),
        };
        let name = |role: Role| {
            let name = self.positions[role as usize].and_then(|position| self.names.get(position));
            name.cloned().unwrap_or_default()
        };
        let row = self.row - 1;
        Some(record(cells, name).map_err(|reason| format_error(&self.path, format!("row {row}, {reason}"))))
    }
}

/// Calls the library. A damaged file can make it panic; that is an error here.
fn guarded<T, E: std::fmt::Display>(path: &Path, call: impl FnOnce() -> std::result::Result<T, E>) -> Result<T> {
    let damaged = |what: &str| {
        format_error(
            path,
            format!("it is no Parquet file or damaged{what}; make or copy it again"),
        )
    };
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|error| {
            let first_line = error.to_string().lines().next().unwrap_or_default().to_string();
            damaged(&format!(" ({first_line})"))
        }),
        Err(_) => Err(damaged("")),
    }
}

/// Refuses what cannot be decoded, before anything is.
fn check(path: &Path, metadata: &ParquetMetaData) -> std::result::Result<(), DataError> {
    for column in metadata.row_groups().iter().flat_map(|group| group.columns()) {
        let name = match column.compression() {
            Compression::UNCOMPRESSED
            | Compression::SNAPPY
            | Compression::GZIP(_)
            | Compression::LZ4_RAW
            | Compression::LZ4 => {
                continue;
            }
            Compression::ZSTD(_) => "zstd",
            Compression::BROTLI(_) => "brotli",
            Compression::LZO => "lzo",
        };
        let advice = "pyarrow.parquet.write_table(pyarrow.parquet.read_table(FILE), FILE, compression='snappy')";
        return Err(format_error(
            path,
            format!("it is compressed with {name}, which is not supported; write it again: {advice}"),
        ));
    }
    Ok(())
}

/// A value of a column.
fn value(array: &dyn Array, row: usize, role: Role) -> Cell {
    if row >= array.len() || array.is_null(row) {
        return Cell::Null;
    }
    match array.data_type() {
        DataType::Utf8 => Cell::Text(array.as_string::<i32>().value(row).to_string()),
        DataType::Binary => Cell::Bytes(array.as_binary::<i32>().value(row).to_vec()),
        DataType::Int64 => Cell::Number(array.as_primitive::<Int64Type>().value(row)),
        DataType::Int32 => Cell::Number(array.as_primitive::<Int32Type>().value(row).into()),
        DataType::List(_) => {
            let items = array.as_list::<i32>().value(row);
            let texts: Option<Vec<String>> = (0..items.len())
                .filter(|item| !items.is_null(*item))
                .map(|item| match value(items.as_ref(), item, role) {
                    Cell::Text(text) => Some(text),
                    Cell::Bytes(bytes) => String::from_utf8(bytes).ok(),
                    _ => None,
                })
                .collect();
            texts.map_or(Cell::Other("a list of other things than texts"), Cell::Texts)
        }
        DataType::Struct(_) if role == Role::Image => {
            let parts = array.as_struct();
            let part = |name: &str| parts.column_by_name(name).map(|part| value(part.as_ref(), row, role));
            match (part("bytes"), part("path")) {
                (None, None) => Cell::Other("a struct without bytes and path"),
                (bytes, path) => Cell::Image {
                    bytes: match bytes {
                        Some(Cell::Bytes(bytes)) => Some(bytes),
                        _ => None,
                    },
                    path: match path {
                        Some(Cell::Text(path)) => Some(path),
                        _ => None,
                    },
                },
            }
        }
        DataType::Struct(_) => Cell::Other("a struct"),
        _ => Cell::Other("values of a type that is not supported"),
    }
}
