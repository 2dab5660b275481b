//! Apache Parquet, read through Arrow arrays.
//!
//! `parquet::record` would do without Arrow, but in a struct, such as an image of Hugging Face, it yields null once a column of a
//! damaged file has ended (`GroupReader` in parquet 60.1).

mod page_headers;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type};
use arrow_array::{Array, RecordBatch, RecordBatchReader};
use arrow_schema::DataType;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::basic::Compression;
use parquet::file::metadata::ParquetMetaData;
use parquet::schema::types::SchemaDescriptor;

use crate::tables::columns::{Cell, Cells, ColumnNames, Positions, Role, record};
use crate::tables::record::{ImageSource, Record};
use crate::{PrepareError, Result};
use vlct_util::{MappedFile, open_file};

/// Rows decoded at a time. Images are large, so there are few.
const BATCH_ROWS: usize = 32;
/// Images that are kept for later calls when they are read out of order.
const MAX_WAITING: usize = 256;

/// Which columns are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Projection {
    /// All columns that have a role.
    All,
    /// As `All`, but bytes of images are left empty.
    WithoutImages,
    /// The column of images.
    ImagesOnly,
}

/// The rows of a file, decoded a few at a time. Columns without a role are not read.
pub(super) struct Rows {
    path: PathBuf,
    reader: ParquetRecordBatchReader,
    /// Names of the columns of each role.
    names: [Option<String>; 6],
    /// Positions of the columns of each role among those that are read.
    positions: Positions,
    /// Whether images are embedded in the file, but not read.
    left_out: bool,
    batch: Option<RecordBatch>,
    /// Position of the next row in the batch, and in the file.
    next: usize,
    row: u64,
}

impl Rows {
    /// Opens the file at row `first`.
    pub fn open(path: &Path, columns: &ColumnNames, wanted: Projection, first: u64) -> Result<Self> {
        let file = open_file(path)?;
        let length = file.metadata().map_or(0, |metadata| metadata.len());
        let builder = guarded(path, || {
            // Derive the types from the Parquet schema, not from the embedded Arrow schema, which allows more.
            let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
            ParquetRecordBatchReaderBuilder::try_new_with_options(file, options)
        })?;
        check(path, builder.metadata(), length)?;
        let fields = builder.schema().fields().clone();
        let found = columns.find(fields.iter().map(|field| field.name().as_str()));
        let found = found.map_err(|reason| PrepareError::malformed(path, reason))?;
        let image = found[Role::Image as usize].map(|position| fields[position].data_type().clone());
        let packed = match &image {
            Some(DataType::Struct(parts)) => parts.find("bytes").is_some(),
            kind => *kind == Some(DataType::Binary),
        };
        let left_out = packed && wanted == Projection::WithoutImages;

        let schema = builder.parquet_schema();
        let leaves = leaves(schema, &found, wanted, left_out);
        check_pages(path, builder.metadata(), &leaves)?;
        let mask = ProjectionMask::leaves(schema, leaves);
        let offset = usize::try_from(first).unwrap_or(usize::MAX);
        let builder = builder
            .with_projection(mask)
            .with_batch_size(BATCH_ROWS)
            .with_offset(offset);
        let reader = guarded(path, || builder.build())?;
        let names = found.map(|position| position.map(|position| fields[position].name().clone()));
        let read = reader.schema();
        Ok(Self {
            path: path.to_path_buf(),
            reader,
            positions: names.each_ref().map(|name| {
                read.fields()
                    .iter()
                    .position(|field| Some(field.name()) == name.as_ref())
            }),
            names,
            left_out,
            batch: None,
            next: 0,
            row: first,
        })
    }

    /// Returns the values of the next row, or None at the end.
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
        if self.left_out {
            let path = match std::mem::take(&mut cells[Role::Image as usize]) {
                Cell::Image { path, .. } => path,
                _ => None,
            };
            cells[Role::Image as usize] = Cell::Image {
                bytes: Some(Vec::new()),
                path,
            };
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
        let name = |role: Role| self.names[role as usize].clone().unwrap_or_default();
        let row = self.row - 1;
        Some(record(cells, name).map_err(|reason| PrepareError::malformed(&self.path, format!("row {row}, {reason}"))))
    }
}

/// The images that are embedded in a Parquet file. Several threads can read them; fastest if each row is read once and about in
/// order.
pub struct EmbeddedImages {
    path: PathBuf,
    columns: ColumnNames,
    state: Mutex<Reading>,
}

/// The state of the reader.
#[derive(Default)]
struct Reading {
    rows: Option<Rows>,
    next: u64,
    /// Images that were skipped on the way to another.
    waiting: HashMap<u64, Result<ImageSource>>,
}

impl EmbeddedImages {
    /// Creates a reader; the file is opened with the first image.
    pub fn new(path: &Path, columns: &ColumnNames) -> Self {
        Self {
            path: path.to_path_buf(),
            columns: columns.clone(),
            state: Mutex::default(),
        }
    }

    /// Returns the image of a row, counted from 0.
    ///
    /// # Errors
    /// Returns an error if there is no such row, if it has no image, or if the file is damaged.
    pub fn image(&self, row: u64) -> Result<ImageSource> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Reading { rows, next, waiting } = &mut *state;
        if let Some(image) = waiting.remove(&row) {
            return image;
        }
        if waiting.len() > MAX_WAITING {
            waiting.clear();
        }
        let ahead = (*next..next.saturating_add(MAX_WAITING as u64)).contains(&row);
        let rows = match rows {
            Some(rows) if ahead => rows,
            _ => {
                let opened = Rows::open(&self.path, &self.columns, Projection::ImagesOnly, row)?;
                (*next, *waiting) = (row, HashMap::new());
                rows.insert(opened)
            }
        };
        loop {
            let record = rows.next().unwrap_or_else(|| {
                let reason = format!("there is no row {row}; was the file changed?");
                Err(PrepareError::malformed(&self.path, reason))
            });
            let image = record.map(|record| record.image);
            *next += 1;
            if *next > row {
                return image;
            }
            waiting.insert(*next - 1, image);
        }
    }
}

/// Calls the `parquet` crate, and converts its panics on damaged files to errors.
fn guarded<T, E: std::fmt::Display>(path: &Path, call: impl FnOnce() -> std::result::Result<T, E>) -> Result<T> {
    let damaged = |what: &str| {
        PrepareError::malformed(
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

/// Rejects what cannot be decoded before anything is decoded.
fn check(path: &Path, metadata: &ParquetMetaData, length: u64) -> Result<()> {
    let rows = metadata.row_groups().iter().try_fold(0u64, |sum, group| {
        sum.checked_add(u64::try_from(group.num_rows()).ok()?)
    });
    // Every row names or holds another image, so it has at least one byte.
    if rows.is_none_or(|rows| rows > length) {
        return Err(PrepareError::malformed(
            path,
            "it claims more rows than it can hold; make or copy it again",
        ));
    }
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
        return Err(PrepareError::malformed(
            path,
            format!("it is compressed with {name}, which is not supported; write it again: {advice}"),
        ));
    }
    Ok(())
}

/// Rejects pages whose headers claim more than their bytes can decompress to.
fn check_pages(path: &Path, metadata: &ParquetMetaData, leaves: &[usize]) -> Result<()> {
    let file = MappedFile::open(path)?;
    file.expect_gaps(true);
    for group in metadata.row_groups() {
        for column in leaves.iter().filter_map(|leaf| group.columns().get(*leaf)) {
            let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
            let (start, length) = (u64::try_from(start), u64::try_from(column.compressed_size()));
            let range = start
                .ok()
                .zip(length.ok())
                .and_then(|(start, length)| Some(start..start.checked_add(length)?));
            if !range.is_some_and(|range| page_headers::are_plausible(&file, range, column.compression())) {
                let name = column.column_path().string();
                let reason = format!("column {name:?} claims more than it can hold; make or copy the file again");
                return Err(PrepareError::malformed(path, reason));
            }
        }
    }
    Ok(())
}

/// Returns the leaf columns to read.
fn leaves(schema: &SchemaDescriptor, found: &Positions, wanted: Projection, without_bytes: bool) -> Vec<usize> {
    let is_wanted = |leaf: &usize| {
        let root = Some(schema.get_column_root_idx(*leaf));
        let is_image = root == found[Role::Image as usize];
        match wanted {
            Projection::ImagesOnly => is_image,
            Projection::All | Projection::WithoutImages => {
                let column = schema.column(*leaf);
                let is_bytes = column.path().parts().get(1).is_none_or(|part| part == "bytes");
                found.contains(&root) && !(without_bytes && is_image && is_bytes)
            }
        }
    };
    (0..schema.num_columns()).filter(is_wanted).collect()
}

/// Converts a value of a column.
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
