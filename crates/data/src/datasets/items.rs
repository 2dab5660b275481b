//! Several datasets of one kind as one space of items: a row, and one of its texts.

use std::borrow::Cow;
use std::marker::PhantomData;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rand::{Rng, RngExt};
use rayon::prelude::*;

use super::contents::RowKind;
use super::index::TableIndex;
use super::registry::{self, Shards, Split};
use super::table::Table as File;
use crate::{DataError, Result};

/// Bytes read from the mapped files before their pages are given back to the system.
const RELEASE_BYTES: usize = 16 << 20;
/// What the system may map around a place that is read: since Linux 6.18 a whole large folio of its cache.
pub(super) const AROUND_BYTES: usize = 2 << 20;

/// Where an item lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// Number of the dataset among the names that were given.
    pub dataset: usize,
    /// Number of the file, counted over all datasets.
    pub table: usize,
    /// Row in the file.
    pub row: usize,
    /// Position among the texts of the row: distinct captions, questions or sentences.
    pub text: usize,
}

/// A dataset within the concatenation.
#[derive(Debug)]
struct Part {
    name: String,
    items: Range<usize>,
}

/// A file within the concatenation.
#[derive(Debug)]
struct Table {
    index: TableIndex,
    dataset: usize,
    first_item: usize,
    first_row: usize,
    /// Whether it was read since its pages were given back last.
    touched: AtomicBool,
}

/// Several datasets of one kind as one space of items (row, text): datasets in the order given, files in reading order,
/// rows in order, texts in order; of captions that occur twice in a row the first.
///
/// What the rows are is `K`: see [`CaptionDataset`](super::CaptionDataset), [`QuestionDataset`](super::QuestionDataset) and
/// [`PairDataset`](super::PairDataset).
#[derive(Debug)]
pub struct ItemDataset<K> {
    parts: Vec<Part>,
    tables: Vec<Table>,
    items: usize,
    rows: usize,
    /// Bytes read since the pages were given back last.
    touched: AtomicUsize,
    kind: PhantomData<K>,
}

impl<K: RowKind> ItemDataset<K> {
    /// Opens the named datasets' split in the folder `data_root`; every shard must be there. Reads all texts once.
    ///
    /// # Errors
    /// [`DataError::Invalid`] for a name that is unknown or of a dataset of another kind, [`DataError::MissingFiles`] with all missing
    /// files, or what is wrong with a file.
    pub fn open(data_root: impl AsRef<Path>, names: &[impl AsRef<str>], split: Split) -> Result<Self> {
        Self::open_with(data_root, names, split, Shards::All)
    }

    /// As [`Self::open`], with a choice whether shards may be absent.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with(
        data_root: impl AsRef<Path>,
        names: &[impl AsRef<str>],
        split: Split,
        shards: Shards,
    ) -> Result<Self> {
        for name in names {
            let contents = registry::contents(data_root.as_ref(), name.as_ref())?;
            if contents != K::CONTENTS {
                return Err(DataError::Invalid(format!(
                    "{} is a dataset of {contents}, not of {}",
                    name.as_ref(),
                    K::CONTENTS
                )));
            }
        }
        Self::of_files(names, registry::files_of_all(data_root.as_ref(), names, split, shards)?)
    }

    /// Opens files, each with the number of its dataset in `names`, in that order.
    ///
    /// # Errors
    /// What is wrong with a file.
    pub fn of_files(names: &[impl AsRef<str>], files: Vec<(usize, PathBuf)>) -> Result<Self> {
        let indices: Vec<(usize, TableIndex)> = files
            .par_iter()
            .map(|(dataset, file)| {
                let table = File::with(file, K::CONTENTS)?;
                Ok((*dataset, TableIndex::new(table, K::CONTENTS)?))
            })
            .collect::<Result<_>>()?;

        let mut tables: Vec<Table> = Vec::with_capacity(indices.len());
        let mut parts: Vec<Part> = Vec::with_capacity(names.len());
        let (mut items, mut rows) = (0usize, 0usize);
        let mut indices = indices.into_iter().peekable();
        for (number, name) in names.iter().enumerate() {
            let first = items;
            while let Some((dataset, index)) = indices.next_if(|(dataset, _)| *dataset == number) {
                let (first_item, first_row) = (items, rows);
                items += index.items;
                rows += index.table.rows();
                tables.push(Table {
                    index,
                    dataset,
                    first_item,
                    first_row,
                    touched: AtomicBool::new(false),
                });
            }
            parts.push(Part {
                name: name.as_ref().to_string(),
                items: first..items,
            });
        }
        Ok(Self {
            parts,
            tables,
            items,
            rows,
            touched: AtomicUsize::new(0),
            kind: PhantomData,
        })
    }

    /// Number of items: the texts of every row.
    pub fn len(&self) -> usize {
        self.items
    }

    /// Whether there is no item.
    pub fn is_empty(&self) -> bool {
        self.items == 0
    }

    /// Number of rows, with or without texts: pictures, or pairs of them.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Names of the datasets and the items of each.
    pub fn datasets(&self) -> impl ExactSizeIterator<Item = (&str, Range<usize>)> {
        self.parts.iter().map(|p| (p.name.as_str(), p.items.clone()))
    }

    /// Names of the files in reading order, without their endings, and the number of rows of each.
    pub fn tables(&self) -> impl ExactSizeIterator<Item = (&str, usize)> {
        self.tables.iter().map(|t| (t.index.table.name(), t.index.table.rows()))
    }

    /// Where item `index` lies.
    ///
    /// # Errors
    /// [`DataError::Invalid`] if there is no such item.
    pub fn locate(&self, index: usize) -> Result<Location> {
        if index >= self.items {
            return Err(DataError::Invalid(format!(
                "there is no item {index}; there are {}",
                self.items
            )));
        }
        // The last table that begins at or before the item; empty tables before it begin there too.
        let number = self.tables.partition_point(|t| t.first_item <= index) - 1;
        let table = &self.tables[number];
        let (row, text) = table.index.find(index - table.first_item)?;
        self.touch(table, AROUND_BYTES);
        Ok(Location {
            dataset: table.dataset,
            table: number,
            row,
            text,
        })
    }

    /// All texts of the row at a location that are items.
    pub(super) fn texts_at(&self, at: &Location) -> Result<Vec<Cow<'_, str>>> {
        let table = self.table(at)?;
        let texts = table.index.texts(at.row)?;
        self.touch(table, AROUND_BYTES);
        Ok(texts)
    }

    /// The picture at a location, of an Arrow file the one in that column: the bytes of its file.
    pub(super) fn image_in(&self, at: &Location, column: &str) -> Result<&[u8]> {
        let picture = self.file(at)?.image(at.row, column)?;
        self.read(at, picture.len() + AROUND_BYTES);
        Ok(picture)
    }

    /// The file of a location.
    pub(super) fn file(&self, at: &Location) -> Result<&File> {
        Ok(&self.table(at)?.index.table)
    }

    /// The files, in reading order.
    pub(crate) fn files(&self) -> impl Iterator<Item = &File> {
        self.tables.iter().map(|table| &table.index.table)
    }

    /// A name for a row in reports: its file and what it is called there.
    pub fn row_name(&self, at: &Location) -> String {
        match self.tables.get(at.table) {
            Some(table) => format!(
                "{}, {}",
                table.index.table.path().display(),
                table.index.table.row_name(at.row)
            ),
            None => format!("table {}, row {}", at.table, at.row),
        }
    }

    /// An error about a row: names the file and the row.
    pub fn row_error(&self, at: &Location, reason: &str) -> DataError {
        match self.tables.get(at.table) {
            Some(table) => table.index.table.row_error(at.row, reason),
            None => DataError::Invalid(format!("table {}, row {}: {reason}", at.table, at.row)),
        }
    }

    /// The location of row `row` of all rows (its first text).
    ///
    /// # Errors
    /// [`DataError::Invalid`] if there is no such row.
    pub fn locate_row(&self, row: usize) -> Result<Location> {
        if row >= self.rows {
            return Err(DataError::Invalid(format!(
                "there is no row {row}; there are {}",
                self.rows
            )));
        }
        let number = self.tables.partition_point(|t| t.first_row <= row) - 1;
        let table = &self.tables[number];
        Ok(Location {
            dataset: table.dataset,
            table: number,
            row: row - table.first_row,
            text: 0,
        })
    }

    /// Number of the row at a location, over all files.
    pub fn row_of(&self, at: &Location) -> usize {
        self.tables.get(at.table).map_or(0, |t| t.first_row) + at.row
    }

    /// The items that are texts of row `row` of all rows. Empty for a row without texts.
    ///
    /// # Errors
    /// [`DataError::Invalid`] if there is no such row.
    pub fn items_of(&self, row: usize) -> Result<Range<usize>> {
        let at = self.locate_row(row)?;
        let table = self.table(&at)?;
        let first = table.first_item + table.index.first_item(at.row)?;
        let count = table.index.texts(at.row)?.len();
        self.touch(table, AROUND_BYTES);
        Ok(first..first + count)
    }

    /// A uniformly random item of the dataset that item `index` belongs to. It may be the item itself: negatives of
    /// image-text matching are drawn this way, weighted by captions.
    ///
    /// # Errors
    /// [`DataError::Invalid`] if there is no item `index`.
    pub fn random_of_same_dataset(&self, index: usize, rng: &mut impl Rng) -> Result<usize> {
        let part = self
            .parts
            .iter()
            .find(|p| p.items.contains(&index))
            .ok_or_else(|| DataError::Invalid(format!("there is no item {index}; there are {}", self.items)))?;
        Ok(rng.random_range(part.items.clone()))
    }

    /// Bytes of memory that the index takes.
    pub fn index_memory(&self) -> usize {
        self.tables.iter().map(|t| t.index.memory()).sum()
    }

    fn table(&self, at: &Location) -> Result<&Table> {
        self.tables
            .get(at.table)
            .ok_or_else(|| DataError::Invalid(format!("there is no table {}", at.table)))
    }

    /// Says that `bytes` of the file of a location were read; see [`Self::touch`].
    pub(super) fn read(&self, at: &Location, bytes: usize) {
        if let Some(table) = self.tables.get(at.table) {
            self.touch(table, bytes);
        }
    }

    /// Counts what was read, and now and then gives the pages back, so that this process does not grow to the size of the files.
    fn touch(&self, table: &Table, bytes: usize) {
        table.touched.store(true, Ordering::Relaxed);
        let before = self.touched.fetch_add(bytes, Ordering::Relaxed);
        // One thread crosses the line. Others may read on meanwhile: a page that was given back returns when it is read.
        if before <= RELEASE_BYTES && before + bytes > RELEASE_BYTES {
            for table in &self.tables {
                if table.touched.swap(false, Ordering::Relaxed) {
                    table.index.table.release_pages();
                }
            }
            self.touched.store(0, Ordering::Relaxed);
        }
    }
}
