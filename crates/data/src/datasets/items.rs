//! Files of several datasets as one sequence of items, with a small index.

use std::borrow::Cow;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rayon::prelude::*;

use super::contents::Contents;
use super::files::{FileRules, ReadingRule, Split};
use super::held_out::{Part as RowPart, RowView};
use super::index::{READ_AROUND_BYTES, Selection, TableIndex, TextsLeftOut};
use super::published::Published;
use super::registry::{self, SplitFile};
use super::table::Table as File;
use crate::webdataset::{TarCounts, TarTable};
use crate::{DataError, Result};
use vlct_image::Reading;
use vlct_util::text::counted;

/// Bytes read from the mapped files before their pages are released.
const RELEASE_BYTES: usize = 16 << 20;

/// The location of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// Index of the dataset among the given names.
    pub dataset: usize,
    /// Index of the file, over all datasets.
    pub table: usize,
    /// Row in the file.
    pub row: usize,
    /// Position among the row's distinct captions, or among its questions or sentences.
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
    /// How the images become pixels.
    reading: Reading,
    /// Whether the file was read since its pages were last released.
    was_read: AtomicBool,
}

/// Several datasets with the same [`Contents`], as one sequence of items (row, text; or row with labels). Datasets are in the given order,
/// files in reading order, rows and texts in their order. Equal captions of a row are one item; equal questions or sentences are several
/// items (`vlc/datasets/base_dataset.py`, `vqav2_dataset.py`, `nlvr2_dataset.py`). Blank captions are items of published datasets only.
///
/// Texts stay in the mapped files; the index in memory has one entry per 128 texts.
#[derive(Debug)]
pub struct TableDataset {
    contents: Contents,
    parts: Vec<Part>,
    tables: Vec<Table>,
    items: usize,
    rows: usize,
    /// Bytes read since pages were last released.
    bytes_read: AtomicUsize,
}

impl TableDataset {
    /// Opens a split of the datasets `names` in the directory `data_root`; every shard must exist. Reads all texts once, except in
    /// datasets of labels.
    ///
    /// # Errors
    /// Returns [`DataError::UnknownDataset`] for an unknown name, [`DataError::Invalid`] for an invalid name or a dataset with other
    /// contents, [`DataError::MissingFiles`] with all missing files, and errors of single files.
    pub fn open(
        contents: Contents,
        data_root: impl AsRef<Path>,
        names: &[impl AsRef<str>],
        split: Split,
    ) -> Result<Self> {
        Self::open_with(contents, data_root, names, split, &FileRules::default())
    }

    /// Opens datasets like [`Self::open`]; `rules` determine the files.
    ///
    /// # Errors
    /// Returns the errors of [`Self::open`].
    pub fn open_with(
        contents: Contents,
        data_root: impl AsRef<Path>,
        names: &[impl AsRef<str>],
        split: Split,
        rules: &FileRules,
    ) -> Result<Self> {
        for name in names {
            let found = registry::contents(data_root.as_ref(), name.as_ref())?;
            if found != contents {
                return Err(DataError::Invalid(format!(
                    "{} is a dataset of {found}, not of {contents}",
                    name.as_ref()
                )));
            }
        }
        let files = registry::files_of_all(data_root.as_ref(), names, split, rules)?;
        Self::of_split_files(contents, names, &files, rules.reading)
    }

    /// Opens `files`. Each has the index of its dataset in `names`; the files must be ordered by this index.
    ///
    /// # Errors
    /// Returns the error of the first file that cannot be opened or read.
    pub fn of_files(contents: Contents, names: &[impl AsRef<str>], files: Vec<(usize, PathBuf)>) -> Result<Self> {
        let whole = |(dataset, path)| SplitFile {
            dataset,
            path,
            part: RowPart::Whole,
        };
        let files: Vec<SplitFile> = files.into_iter().map(whole).collect();
        Self::of_split_files(contents, names, &files, ReadingRule::default())
    }

    /// Opens the rows of `files` that belong to their parts; see [`Self::of_files`].
    ///
    /// # Errors
    /// Returns the errors of [`Self::of_files`].
    pub fn of_split_files(
        contents: Contents,
        names: &[impl AsRef<str>],
        files: &[SplitFile],
        reading: ReadingRule,
    ) -> Result<Self> {
        let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
        let open = |file: &SplitFile| File::open_with_contents(&file.path, contents);
        let opened: Vec<File> = files.par_iter().map(open).collect::<Result<_>>()?;
        // Index of each file among those of its dataset, and the number of rows before it.
        let mut places = Vec::with_capacity(files.len());
        for (i, file) in files.iter().enumerate() {
            places.push(match places.last() {
                Some((place, rows)) if files[i - 1].dataset == file.dataset => (place + 1, rows + opened[i - 1].rows()),
                _ => (0, 0),
            });
        }
        let indices: Vec<(usize, TableIndex)> = (files, opened, places)
            .into_par_iter()
            .map(|(file, table, (place, earlier))| {
                let rows = RowView::new(file.part, table.rows(), earlier, place);
                let name = names.get(file.dataset);
                let selection = Selection {
                    contents,
                    keeps_blank: name.is_some_and(|name| Published::find(name).is_some()),
                };
                Ok((file.dataset, TableIndex::new(table, rows, selection)?))
            })
            .collect::<Result<_>>()?;
        Self::of_indices(contents, &names, indices, reading)
    }

    /// Opens a tar, plain or compressed with gzip, as the only file of the dataset `name`; see [`TarTable::open_compressed`].
    ///
    /// # Errors
    /// Returns the errors of [`TarTable::open_compressed`].
    pub fn of_tar(name: &str, path: &Path) -> Result<Self> {
        let table = File::Tar(TarTable::open_compressed(path)?);
        let rows = RowView::new(RowPart::Whole, table.rows(), 0, 0);
        let selection = Selection {
            contents: Contents::Captions,
            keeps_blank: false,
        };
        let index = TableIndex::new(table, rows, selection)?;
        Self::of_indices(Contents::Captions, &[name], vec![(0, index)], ReadingRule::default())
    }

    fn of_indices(
        contents: Contents,
        names: &[impl AsRef<str>],
        indices: Vec<(usize, TableIndex)>,
        reading: ReadingRule,
    ) -> Result<Self> {
        let mut tables: Vec<Table> = Vec::with_capacity(indices.len());
        let mut parts: Vec<Part> = Vec::with_capacity(names.len());
        let (mut items, mut rows) = (0usize, 0usize);
        let mut indices = indices.into_iter().peekable();
        for (dataset_index, name) in names.iter().enumerate() {
            let first = items;
            while let Some((dataset, index)) = indices.next_if(|(dataset, _)| *dataset == dataset_index) {
                let (first_item, first_row) = (items, rows);
                items += index.items;
                rows += index.rows.len();
                let is_published = Published::find(name.as_ref()).is_some();
                tables.push(Table {
                    reading: reading.resolve(index.table.reading(), is_published),
                    index,
                    dataset,
                    first_item,
                    first_row,
                    was_read: AtomicBool::new(false),
                });
            }
            parts.push(Part {
                name: name.as_ref().to_string(),
                items: first..items,
            });
        }
        Ok(Self {
            contents,
            parts,
            tables,
            items,
            rows,
            bytes_read: AtomicUsize::new(0),
        })
    }

    /// The contents of the rows.
    pub fn contents(&self) -> Contents {
        self.contents
    }

    /// Number of items.
    pub(super) fn items(&self) -> usize {
        self.items
    }

    /// Number of rows.
    pub(super) fn row_count(&self) -> usize {
        self.rows
    }

    /// Returns the name and the items of each dataset.
    pub fn datasets(&self) -> impl ExactSizeIterator<Item = (&str, Range<usize>)> {
        self.parts.iter().map(|p| (p.name.as_str(), p.items.clone()))
    }

    /// Returns the number of rows of each dataset.
    pub fn rows_of_datasets(&self) -> Vec<usize> {
        let mut rows = vec![0; self.parts.len()];
        for table in &self.tables {
            rows[table.dataset] += table.index.rows.len();
        }
        rows
    }

    /// Returns the names of the datasets, for messages.
    pub(super) fn names(&self) -> String {
        let names: Vec<&str> = self.parts.iter().map(|part| part.name.as_str()).collect();
        names.join(", ")
    }

    /// Returns the name, without extension, and the number of rows in use of each file, in reading order.
    pub fn tables(&self) -> impl ExactSizeIterator<Item = (&str, usize)> {
        self.tables.iter().map(|t| (t.index.table.name(), t.index.rows.len()))
    }

    /// Returns the location of item `index`.
    ///
    /// # Errors
    /// Returns [`DataError::Invalid`] if there is no such item.
    pub fn locate(&self, index: usize) -> Result<Location> {
        let no_item = || DataError::Invalid(format!("there is no item {index} of {}", self.items));
        let table_index = self.table_of_item(index).ok_or_else(no_item)?;
        let table = &self.tables[table_index];
        let (row, text) = table.index.find(index - table.first_item)?;
        self.count_bytes_read(table, READ_AROUND_BYTES);
        Ok(Location {
            dataset: table.dataset,
            table: table_index,
            row,
            text,
        })
    }

    /// Returns the index of the file of item `index`; `None` if there is no such item.
    pub(super) fn table_of_item(&self, index: usize) -> Option<usize> {
        // Of several tables that begin at the same item, only the last has items.
        (index < self.items).then(|| self.tables.partition_point(|t| t.first_item <= index) - 1)
    }

    /// Returns the name of a file without extension and without the name of its dataset or preparation before it; empty for a tar.
    pub(super) fn subset_of_table(&self, table: usize) -> &str {
        let Some(table) = self.tables.get(table) else { return "" };
        let File::Arrow(file) = &table.index.table else {
            return "";
        };
        let dataset = self.parts[table.dataset].name.as_str();
        let preparation = Published::find(dataset).map(|published| published.preparation);
        let without = |prefix: &str| file.name().strip_prefix(prefix)?.strip_prefix('_');
        match [Some(dataset), preparation].into_iter().flatten().find_map(without) {
            Some(rest) => rest,
            None if file.name() == dataset => "",
            None => file.name(),
        }
    }

    /// Returns the texts of a location's row that are items: all texts, but equal captions only once.
    ///
    /// # Errors
    /// Returns an error if there is no such location, or a text is damaged.
    pub fn texts_at(&self, location: &Location) -> Result<Vec<Cow<'_, str>>> {
        let table = self.table(location)?;
        let texts = table.index.texts(location.row)?;
        self.count_bytes_read(table, READ_AROUND_BYTES);
        Ok(texts)
    }

    /// Returns the bytes of the image file at a location. `column` selects the image in an Arrow file.
    pub(super) fn image_in(&self, location: &Location, column: &str) -> Result<&[u8]> {
        let image = self.file(location)?.image(location.row, column)?;
        self.count_bytes_read_at(location, image.len() + READ_AROUND_BYTES);
        Ok(image)
    }

    /// Returns the file of a location.
    pub(super) fn file(&self, location: &Location) -> Result<&File> {
        Ok(&self.table(location)?.index.table)
    }

    /// The name of the dataset and the index of each file, in reading order.
    pub(super) fn indices(&self) -> impl Iterator<Item = (&str, &TableIndex)> {
        let name = |table: &Table| self.parts[table.dataset].name.as_str();
        self.tables.iter().map(move |table| (name(table), &table.index))
    }

    /// The files, in reading order.
    pub fn files(&self) -> impl Iterator<Item = &File> {
        self.tables.iter().map(|table| &table.index.table)
    }

    /// Returns the file and row of a location, for messages.
    pub fn row_name(&self, location: &Location) -> String {
        match self.tables.get(location.table) {
            Some(table) => format!(
                "{}, {}",
                table.index.table.path().display(),
                table.index.table.row_name(location.row)
            ),
            None => format!("table {}, row {}", location.table, location.row),
        }
    }

    /// Returns the path of the file that a row is in; `None` if there is no such file.
    pub fn path_at(&self, location: &Location) -> Option<&Path> {
        let table = self.tables.get(location.table)?;
        Some(table.index.table.path())
    }

    /// Returns an error about a row. Its message names the file and the row.
    pub(super) fn row_error(&self, location: &Location, reason: &str) -> DataError {
        match self.tables.get(location.table) {
            Some(table) => table.index.table.row_error(location.row, reason),
            None => DataError::Invalid(format!("table {}, row {}: {reason}", location.table, location.row)),
        }
    }

    /// Returns the location of the first text of row `row`, counted over all files.
    ///
    /// # Errors
    /// Returns [`DataError::Invalid`] if there is no such row.
    pub fn locate_row(&self, row: usize) -> Result<Location> {
        if row >= self.rows {
            return Err(DataError::Invalid(format!("there is no row {row} of {}", self.rows)));
        }
        let table_index = self.table_of_row(row);
        let table = &self.tables[table_index];
        Ok(Location {
            dataset: table.dataset,
            table: table_index,
            row: table.index.rows.row_at(row - table.first_row),
            text: 0,
        })
    }

    /// Returns the index of the file of row `row`, which exists.
    fn table_of_row(&self, row: usize) -> usize {
        // Of several tables that begin at the same row, only the last has rows.
        self.tables.partition_point(|t| t.first_row <= row) - 1
    }

    /// Returns the items of row `row`, counted over all files.
    pub(super) fn items_of_row(&self, row: usize) -> Result<Range<usize>> {
        let location = self.locate_row(row)?;
        let table = self.table(&location)?;
        let first = table.first_item + table.index.first_item(row - table.first_row)?;
        let count = table.index.items_in(location.row)?;
        self.count_bytes_read(table, READ_AROUND_BYTES);
        Ok(first..first + count)
    }

    /// Describes the number of items and rows: `8 captions of 4 images`.
    pub fn describe_size(&self) -> String {
        let rows = |noun| counted(self.rows, noun);
        match self.contents {
            Contents::Captions => format!("{} of {}", counted(self.items, "caption"), rows("image")),
            Contents::Questions => format!("{} about {}", counted(self.items, "question"), rows("image")),
            Contents::Pairs => format!("{} about {} of images", counted(self.items, "statement"), rows("pair")),
            Contents::Labels => rows("row"),
        }
    }

    /// Says what is left out of each dataset and why, in lines that begin with the name of the dataset; empty if nothing is left
    /// out.
    pub fn left_out(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (dataset, part) in self.parts.iter().enumerate() {
            let mut counts = TarCounts::default();
            let (mut unreadable, mut endings) = (None, None);
            let (mut texts, mut without_image) = (TextsLeftOut::default(), 0);
            for table in self.tables.iter().filter(|table| table.dataset == dataset) {
                texts.rows += table.index.left_out.rows;
                texts.blank += table.index.left_out.blank;
                without_image += table.index.table.rows_without_image(self.contents);
                if let File::Tar(tar) = &table.index.table {
                    counts.add(tar.counts());
                    unreadable = unreadable.or(tar.first_unreadable());
                    if tar.rows() == 0 || tar.has_images_with_other_endings() {
                        endings = endings.or_else(|| tar.other_endings());
                    }
                }
            }
            let mut phrases = counts.left_out(unreadable);
            if texts.rows > 0 {
                phrases.push(format!("{} without text", counted(texts.rows, "row")));
            }
            if texts.blank > 0 {
                phrases.push(counted(texts.blank, "empty caption"));
            }
            if let Some(endings) = endings {
                phrases.push(format!("members with other endings than .jpg, .txt, …: {endings}"));
            }
            if !phrases.is_empty() {
                lines.push(format!("{}: left out {}", part.name, phrases.join("; ")));
            }
            if without_image > 0 {
                let rows = counted(without_image, "row");
                lines.push(format!(
                    "{}: {rows} without image, which training replaces by others",
                    part.name
                ));
            }
        }
        lines
    }

    /// Returns how the images at a location become pixels.
    pub fn reading_at(&self, location: &Location) -> Reading {
        self.tables
            .get(location.table)
            .map(|table| table.reading)
            .unwrap_or_default()
    }

    /// Returns how the images of custom datasets become pixels: that of the first file, and whether other files differ. `None` if all
    /// datasets are published.
    pub fn custom_reading(&self) -> Option<(Reading, bool)> {
        let is_custom = |table: &&Table| Published::find(&self.parts[table.dataset].name).is_none();
        let mut readings = self.tables.iter().filter(is_custom).map(|table| table.reading);
        let first = readings.next()?;
        Some((first, readings.any(|reading| reading != first)))
    }

    /// Memory of the index in bytes.
    pub fn index_memory(&self) -> usize {
        self.tables.iter().map(|t| t.index.memory()).sum()
    }

    fn table(&self, location: &Location) -> Result<&Table> {
        self.tables
            .get(location.table)
            .ok_or_else(|| DataError::Invalid(format!("there is no table {}", location.table)))
    }

    /// Counts `bytes` as read from the file of a location; see [`Self::count_bytes_read`].
    pub(super) fn count_bytes_read_at(&self, location: &Location, bytes: usize) {
        if let Some(table) = self.tables.get(location.table) {
            self.count_bytes_read(table, bytes);
        }
    }

    /// Counts bytes that were read from a file. After every [`RELEASE_BYTES`], releases the pages of all files that were read, so that
    /// the resident memory of this process does not grow to the size of the files.
    fn count_bytes_read(&self, table: &Table, bytes: usize) {
        table.was_read.store(true, Ordering::Relaxed);
        let before = self.bytes_read.fetch_add(bytes, Ordering::Relaxed);
        // Exactly one thread crosses the limit. Other threads may read meanwhile: a released page is mapped again when it is read.
        if before <= RELEASE_BYTES && before + bytes > RELEASE_BYTES {
            for table in &self.tables {
                if table.was_read.swap(false, Ordering::Relaxed) {
                    table.index.table.release_pages();
                }
            }
            self.bytes_read.store(0, Ordering::Relaxed);
        }
    }
}
