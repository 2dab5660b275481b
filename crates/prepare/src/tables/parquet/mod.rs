//! Apache Parquet, read column by column.
//!
//! The `parquet` crate can read files into Arrow arrays, but this feature more than doubles its compile time. `parquet::record` needs no
//! Arrow, but if a column of a damaged file ends early, it returns null for a struct, such as a Hugging Face image, instead of an error.

mod columns;

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::vec::IntoIter;

use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::{FileReader, SerializedFileReader};

use crate::tables::cells::{Cell, Cells, to_record};
use crate::tables::columns::{ColumnNames, ROLES, Role, TableContents, with_columns};
use crate::tables::record::{ImageSource, Record};
use crate::{PrepareError, Result};
use columns::{Column, ColumnDecoder};
use vlct_util::{MappedFile, open_file, panics};

/// Number of rows that are decoded at a time, which is small, because images are large.
const BATCH_ROWS: usize = 32;
/// Maximum number of images that are kept for later calls when images are read out of order.
const MAX_WAITING_IMAGES: usize = 256;

/// The columns that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Projection {
    /// All columns that have a role.
    All,
    /// All columns that have a role, except the bytes of images.
    WithoutImages,
    /// Only the columns of images.
    ImagesOnly,
}

/// The roles of images.
const IMAGES: [Role; 2] = [Role::Image, Role::SecondImage];

/// Opens the file and checks its metadata.
fn open_reader(path: &Path) -> Result<SerializedFileReader<File>> {
    let file = open_file(path)?;
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    let reader = catch_panic(path, || SerializedFileReader::new(file))?;
    check_metadata(path, reader.metadata(), length)?;
    Ok(reader)
}

/// Calls `check` with the columns of a file.
pub(super) fn check_columns<T>(path: &Path, check: impl Fn(&[&str]) -> Result<T, String>) -> Result<T> {
    let reader = open_reader(path)?;
    let schema = reader.metadata().file_metadata().schema_descr();
    let names: Vec<&str> = schema
        .root_schema()
        .get_fields()
        .iter()
        .map(|field| field.name())
        .collect();
    check(&names).map_err(|reason| PrepareError::malformed(path, with_columns(&reason, &names)))
}

/// The rows of a file, decoded a few at a time. Columns without a role are not read.
pub(super) struct Rows {
    path: PathBuf,
    reader: SerializedFileReader<File>,
    /// The same file, for columns that are compressed with zstd.
    file: Arc<File>,
    /// The size in bytes of the largest page of the columns that are read, decompressed.
    max_page: usize,
    /// The name of the column of each role.
    names: [Option<String>; ROLES],
    /// The column of each role, if it is read.
    columns: [Option<Column>; ROLES],
    contents: TableContents,
    /// For the columns [`IMAGES`], whether the file has bytes of images that are not read.
    skips_bytes: [bool; 2],
    /// The row group that is being read.
    group: Option<Group>,
    /// Index of the next row group.
    next_group: usize,
    /// Rows to skip before the next row.
    skip: u64,
    /// Index of the next row in the file.
    row: u64,
    /// Whether decoding failed. The iterator then returns no more rows.
    is_damaged: bool,
}

/// The rows of a row group that are not returned yet.
struct Group {
    columns: [Option<ColumnDecoder>; ROLES],
    /// Number of rows that are not decoded yet.
    undecoded_rows: usize,
    /// The cells of the rows that are decoded but not returned yet, by column.
    decoded: [IntoIter<Cell>; ROLES],
    /// Number of rows that are decoded but not returned yet.
    decoded_rows: usize,
}

impl Rows {
    /// Opens the file at row `first`.
    pub fn open(
        path: &Path,
        columns: &ColumnNames,
        contents: TableContents,
        projection: Projection,
        first: u64,
    ) -> Result<Self> {
        let reader = open_reader(path)?;
        let schema = reader.metadata().file_metadata().schema_descr();
        let fields = schema.root_schema().get_fields();
        let positions = columns.positions(contents, fields.iter().map(|field| field.name()));
        let mut columns = Role::ALL.map(|role| Column::new(schema, positions[role as usize]?, role));
        let skips_bytes = IMAGES.map(|role| {
            let image = &mut columns[role as usize];
            let skips = projection == Projection::WithoutImages && image.as_ref().is_some_and(Column::embeds_images);
            if skips {
                *image = image.take().and_then(Column::without_bytes);
            }
            skips
        });
        if projection == Projection::ImagesOnly {
            for role in Role::ALL.into_iter().filter(|role| !IMAGES.contains(role)) {
                columns[role as usize] = None;
            }
        }
        let leaves: Vec<usize> = columns.iter().flatten().flat_map(Column::leaves).collect();
        let max_page = check_pages(path, reader.metadata(), &leaves)?;
        Ok(Self {
            path: path.to_path_buf(),
            names: positions.map(|position| position.map(|position| fields[position].name().to_string())),
            reader,
            file: Arc::new(open_file(path)?),
            max_page,
            columns,
            contents,
            skips_bytes,
            group: None,
            next_group: 0,
            skip: first,
            row: first,
            is_damaged: false,
        })
    }

    /// Opens the next row group that has a row to read. Returns `None` at the end of the file.
    fn open_group(&mut self) -> std::result::Result<Option<Group>, ParquetError> {
        while self.next_group < self.reader.num_row_groups() {
            let group = self.reader.get_row_group(self.next_group)?;
            self.next_group += 1;
            let rows = u64::try_from(group.metadata().num_rows()).unwrap_or(0);
            if rows <= self.skip {
                self.skip -= rows;
                continue;
            }
            let skip = usize::try_from(std::mem::take(&mut self.skip)).unwrap_or(usize::MAX);
            let mut columns = [const { None }; ROLES];
            for (opened, column) in columns.iter_mut().zip(&self.columns) {
                *opened = column
                    .as_ref()
                    .map(|column| column.open(&*group, &self.file, self.max_page))
                    .transpose()?;
            }
            columns.iter_mut().flatten().try_for_each(|column| column.skip(skip))?;
            return Ok(Some(Group {
                columns,
                undecoded_rows: usize::try_from(rows).unwrap_or(usize::MAX) - skip,
                decoded: Default::default(),
                decoded_rows: 0,
            }));
        }
        Ok(None)
    }

    /// Returns the values of the next row, or `None` at the end.
    fn advance(&mut self) -> std::result::Result<Option<Cells>, ParquetError> {
        let unfinished = self
            .group
            .take()
            .filter(|group| group.decoded_rows > 0 || group.undecoded_rows > 0);
        let Some(mut group) = unfinished.map_or_else(|| self.open_group(), |group| Ok(Some(group)))? else {
            return Ok(None);
        };
        let mut cells = group.next()?;
        self.group = Some(group);
        for (role, skips_bytes) in IMAGES.into_iter().zip(self.skips_bytes) {
            if !skips_bytes {
                continue;
            }
            let path = match std::mem::take(&mut cells[role as usize]) {
                Cell::Image { path, .. } => path,
                _ => None,
            };
            cells[role as usize] = Cell::Image {
                bytes: Some(Vec::new()),
                path,
            };
        }
        self.row += 1;
        Ok(Some(cells))
    }
}

impl Group {
    /// Returns the values of the next row, which must exist.
    fn next(&mut self) -> std::result::Result<Cells, ParquetError> {
        if self.decoded_rows == 0 {
            let rows = self.undecoded_rows.min(BATCH_ROWS);
            for (decoded, column) in self.decoded.iter_mut().zip(&mut self.columns) {
                if let Some(column) = column {
                    *decoded = column.read(rows)?.into_iter();
                }
            }
            self.undecoded_rows -= rows;
            self.decoded_rows = rows;
        }
        self.decoded_rows -= 1;
        Ok(self.decoded.each_mut().map(|cells| cells.next().unwrap_or_default()))
    }
}

impl Iterator for Rows {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_damaged {
            return None;
        }
        let path = self.path.clone();
        let cells = match catch_panic(&path, || self.advance()) {
            Ok(cells) => cells?,
            Err(error) => {
                self.is_damaged = true;
                return Some(Err(error));
            }
        };
        let name = |role: Role| self.names[role as usize].clone().unwrap_or_default();
        let row = self.row - 1;
        Some(
            to_record(self.contents, row, cells, name)
                .map_err(|reason| PrepareError::malformed_row(&self.path, format!("row {row}, {reason}"))),
        )
    }
}

/// The images that are embedded in a Parquet file. Several threads can read them. Reading is fastest if each row is read once and
/// approximately in order.
pub struct EmbeddedImages {
    path: PathBuf,
    columns: ColumnNames,
    contents: TableContents,
    state: Mutex<ReaderState>,
}

/// The state of [`EmbeddedImages`].
#[derive(Default)]
struct ReaderState {
    rows: Option<Rows>,
    /// Index of the next row of `rows`.
    next: u64,
    /// Images that were decoded before a requested image and not returned yet, by row.
    waiting: HashMap<u64, Result<RowImages>>,
}

/// The sources of a row's image, or of the left and the right image of a pair.
type RowImages = [Option<ImageSource>; 2];

impl EmbeddedImages {
    /// Creates a reader. It opens the file when the first image is read.
    pub fn new(path: &Path, columns: &ColumnNames, contents: TableContents) -> Self {
        Self {
            path: path.to_path_buf(),
            columns: columns.clone(),
            contents,
            state: Mutex::default(),
        }
    }

    /// Returns the image, or the left and the right image, of row `row`, counted from 0; `None` if the row has no such image.
    ///
    /// # Errors
    /// Returns an error if there is no such row, or if the file is damaged.
    pub fn images(&self, row: u64) -> Result<RowImages> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let ReaderState { rows, next, waiting } = &mut *state;
        if let Some(images) = waiting.remove(&row) {
            return images;
        }
        if waiting.len() > MAX_WAITING_IMAGES {
            waiting.clear();
        }
        let is_ahead = (*next..next.saturating_add(MAX_WAITING_IMAGES as u64)).contains(&row);
        let rows = match rows {
            Some(rows) if is_ahead => rows,
            _ => {
                let opened = Rows::open(&self.path, &self.columns, self.contents, Projection::ImagesOnly, row)?;
                (*next, *waiting) = (row, HashMap::new());
                rows.insert(opened)
            }
        };
        loop {
            let record = rows.next().unwrap_or_else(|| {
                Err(PrepareError::DamagedTable {
                    path: self.path.clone(),
                    reason: format!("there is no row {row}; was the file changed?"),
                })
            });
            let images = record.map(|record| record.images);
            *next += 1;
            if rows.is_damaged {
                // The file is opened again for the next image.
                *next = u64::MAX;
                return images;
            }
            if *next > row {
                return images;
            }
            waiting.insert(*next - 1, images);
        }
    }
}

/// Calls the `parquet` crate, and converts its panics on damaged files to errors.
fn catch_panic<T, E: std::fmt::Display>(path: &Path, call: impl FnOnce() -> std::result::Result<T, E>) -> Result<T> {
    let damaged = |what: &str| PrepareError::DamagedTable {
        path: path.to_path_buf(),
        reason: format!("it is not a Parquet file, or damaged{what}; make or copy it again"),
    };
    match panics::catch(call) {
        Ok(result) => result.map_err(|error| {
            let first_line = error.to_string().lines().next().unwrap_or_default().to_string();
            damaged(&format!(" ({first_line})"))
        }),
        Err(_) => Err(damaged("")),
    }
}

/// Rejects files with unsupported compression or an impossible number of rows, before anything is decoded.
fn check_metadata(path: &Path, metadata: &ParquetMetaData, length: u64) -> Result<()> {
    let rows = metadata.row_groups().iter().try_fold(0u64, |sum, group| {
        sum.checked_add(u64::try_from(group.num_rows()).ok()?)
    });
    // Every row names or holds an image, so it has at least one byte.
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
            | Compression::LZ4
            | Compression::ZSTD(_) => {
                continue;
            }
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

/// Rejects pages whose headers claim more than their bytes can decompress to. Returns the size of the largest page.
fn check_pages(path: &Path, metadata: &ParquetMetaData, leaves: &[usize]) -> Result<usize> {
    let file = MappedFile::open(path)?;
    file.advise_sparse_reads(true);
    let mut largest = 0;
    for group in metadata.row_groups() {
        for column in leaves.iter().filter_map(|leaf| group.columns().get(*leaf)) {
            let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
            let (start, length) = (u64::try_from(start), u64::try_from(column.compressed_size()));
            let range = start
                .ok()
                .zip(length.ok())
                .and_then(|(start, length)| Some(start..start.checked_add(length)?));
            let size = range.and_then(|range| vlct_pages::largest_page(&file, range, column.compression()));
            largest = largest.max(size.ok_or_else(|| {
                let name = column.column_path().string();
                let reason = format!("column {name:?} claims more than it can hold; make or copy the file again");
                PrepareError::malformed(path, reason)
            })?);
        }
    }
    Ok(usize::try_from(largest).unwrap_or(usize::MAX - 1))
}
