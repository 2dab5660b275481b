//! Caption datasets, several as one.

use std::borrow::Cow;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rand::{Rng, RngExt};
use rayon::prelude::*;

use super::index::TableIndex;
use super::registry::{self, Contents, Shards, Split};
use super::table::Table as File;
use crate::webdataset::TarCounts;
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
    /// Position among the distinct captions of the row.
    pub caption: usize,
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
    first_image: usize,
    /// Whether it was read since its pages were given back last.
    touched: AtomicBool,
}

/// Several caption datasets as one space of items (picture, caption): datasets in the order given, files in reading order,
/// rows in order, captions in the order of their first occurrence in the row.
#[derive(Debug)]
pub struct CaptionDataset {
    parts: Vec<Part>,
    tables: Vec<Table>,
    items: usize,
    images: usize,
    /// Bytes read since the pages were given back last.
    touched: AtomicUsize,
}

impl CaptionDataset {
    /// Opens the named datasets' split in the folder `data_root`; every shard must be there. Reads all captions once.
    ///
    /// # Errors
    /// [`DataError::Invalid`] for a name that is unknown or not of a caption dataset, [`DataError::MissingFiles`] with all missing
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
            if registry::contents(data_root.as_ref(), name.as_ref())? != Contents::Captions {
                return Err(DataError::Invalid(format!(
                    "{} is not a dataset of captions",
                    name.as_ref()
                )));
            }
        }
        Self::of_files(names, registry::files_of_all(data_root.as_ref(), names, split, shards)?)
    }

    /// Opens files, each with the number of its dataset in `names`, in that order.
    ///
    /// # Errors
    /// What is wrong with a file.
    pub(crate) fn of_files(names: &[impl AsRef<str>], files: Vec<(usize, PathBuf)>) -> Result<Self> {
        let indices: Vec<(usize, TableIndex)> = files
            .par_iter()
            .map(|(dataset, file)| {
                let table = File::with(file, Contents::Captions)?;
                Ok((*dataset, TableIndex::new(table)?))
            })
            .collect::<Result<_>>()?;

        let mut tables: Vec<Table> = Vec::with_capacity(indices.len());
        let mut parts: Vec<Part> = Vec::with_capacity(names.len());
        let (mut items, mut images) = (0usize, 0usize);
        let mut indices = indices.into_iter().peekable();
        for (number, name) in names.iter().enumerate() {
            let first = items;
            while let Some((dataset, index)) = indices.next_if(|(dataset, _)| *dataset == number) {
                let (first_item, first_image) = (items, images);
                items += index.items;
                images += index.table.rows();
                tables.push(Table {
                    index,
                    dataset,
                    first_item,
                    first_image,
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
            images,
            touched: AtomicUsize::new(0),
        })
    }

    /// Number of items: distinct captions of every row.
    pub fn len(&self) -> usize {
        self.items
    }

    /// Whether there is no item.
    pub fn is_empty(&self) -> bool {
        self.items == 0
    }

    /// Number of pictures (rows, with or without captions).
    pub fn images(&self) -> usize {
        self.images
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
        let (row, caption) = table.index.find(index - table.first_item)?;
        self.touch(table, AROUND_BYTES);
        Ok(Location {
            dataset: table.dataset,
            table: number,
            row,
            caption,
        })
    }

    /// The caption of item `index`.
    ///
    /// # Errors
    /// No such item, or a damaged file.
    pub fn caption(&self, index: usize) -> Result<String> {
        self.caption_at(&self.locate(index)?)
    }

    /// The picture of item `index`: the bytes of its file.
    ///
    /// # Errors
    /// No such item, or a row without a picture.
    pub fn picture(&self, index: usize) -> Result<&[u8]> {
        self.picture_at(&self.locate(index)?)
    }

    /// The caption at a location that [`Self::locate`] gave.
    ///
    /// # Errors
    /// No such place, or a damaged file.
    pub fn caption_at(&self, at: &Location) -> Result<String> {
        let table = self.table(at.table)?;
        let captions = table.index.captions(at.row)?;
        let caption = captions.get(at.caption).map(|c| c.to_string());
        self.touch(table, AROUND_BYTES);
        caption.ok_or_else(|| DataError::Invalid(format!("there is no caption {} in row {}", at.caption, at.row)))
    }

    /// All distinct captions of the row at a location that [`Self::locate_image`] gave.
    ///
    /// # Errors
    /// No such place, or a damaged file.
    pub(crate) fn captions_at(&self, at: &Location) -> Result<Vec<Cow<'_, str>>> {
        let table = self.table(at.table)?;
        let captions = table.index.captions(at.row)?;
        self.touch(table, AROUND_BYTES);
        Ok(captions)
    }

    /// What the tars among the files hold, with what was left out of them.
    pub(crate) fn tar_counts(&self) -> TarCounts {
        let counts = self.tables.iter().filter_map(|table| table.index.table.tar_counts());
        counts.fold(TarCounts::default(), |sum, counts| TarCounts {
            samples: sum.samples + counts.samples,
            without_caption: sum.without_caption + counts.without_caption,
            without_picture: sum.without_picture + counts.without_picture,
            others: sum.others + counts.others,
        })
    }

    /// The picture at a location that [`Self::locate`] gave: the bytes of its file.
    ///
    /// # Errors
    /// No such place, or a row without a picture.
    pub fn picture_at(&self, at: &Location) -> Result<&[u8]> {
        let table = self.table(at.table)?;
        let picture = table.index.table.picture(at.row)?;
        self.touch(table, picture.len() + AROUND_BYTES);
        Ok(picture)
    }

    /// The name of the picture at a location: `image_id` of an Arrow file, mostly the name of the picture's file.
    ///
    /// # Errors
    /// A file without that column.
    pub fn image_id_at(&self, at: &Location) -> Result<Option<String>> {
        self.table(at.table)?.index.table.image_id(at.row)
    }

    /// A name for a row in reports: its file and what it is called there.
    pub(crate) fn row_name(&self, at: &Location) -> String {
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

    /// The location of picture `image` (its first caption).
    ///
    /// # Errors
    /// [`DataError::Invalid`] if there is no such picture.
    pub fn locate_image(&self, image: usize) -> Result<Location> {
        if image >= self.images {
            return Err(DataError::Invalid(format!(
                "there is no picture {image}; there are {}",
                self.images
            )));
        }
        let number = self.tables.partition_point(|t| t.first_image <= image) - 1;
        let table = &self.tables[number];
        Ok(Location {
            dataset: table.dataset,
            table: number,
            row: image - table.first_image,
            caption: 0,
        })
    }

    /// Number of the picture at a location, over all files.
    pub fn image_of(&self, at: &Location) -> usize {
        self.tables.get(at.table).map_or(0, |t| t.first_image) + at.row
    }

    /// The items that are captions of picture `image`. Empty for a picture without captions.
    ///
    /// # Errors
    /// [`DataError::Invalid`] if there is no such picture.
    pub fn captions_of(&self, image: usize) -> Result<Range<usize>> {
        let at = self.locate_image(image)?;
        let table = self.table(at.table)?;
        let first = table.first_item + table.index.first_item(at.row)?;
        let count = table.index.captions(at.row)?.len();
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

    fn table(&self, number: usize) -> Result<&Table> {
        self.tables
            .get(number)
            .ok_or_else(|| DataError::Invalid(format!("there is no table {number}")))
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
