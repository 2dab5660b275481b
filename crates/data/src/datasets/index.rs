//! The texts of one table as numbered items, with one index entry per 128 texts.

use std::borrow::Cow;
use std::collections::HashSet;

use xxhash_rust::xxh3::Xxh3;

use super::contents::Contents;
use super::held_out::RowView;
use super::table::Table;
use crate::{DataError, Result};

/// Number of texts after which the next row begins a new index entry; a row without texts counts as one text. Finding an item reads
/// at most this many texts and the texts of one row.
const TEXTS_PER_ENTRY: usize = 128;
/// Bytes that the system may map around an address that is read: since Linux 6.18, a large folio of the page cache.
pub(super) const READ_AROUND_BYTES: usize = 2 << 20;
/// Bytes that a scan reads before it releases pages.
const SCAN_BYTES: usize = 8 << 20;

/// An index entry: the position of its first row among the rows in use, and its first item.
#[derive(Clone, Copy, Debug)]
struct Entry {
    position: u32,
    item: u32,
}

/// Which texts of a row are items.
#[derive(Clone, Copy, Debug)]
pub(super) struct Selection {
    pub contents: Contents,
    /// Whether captions without any characters but white space are items, as in the original.
    pub keeps_blank: bool,
}

/// Counts of texts that are not items.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TextsLeftOut {
    /// Rows without an item.
    pub rows: usize,
    /// Blank captions of other rows.
    pub blank: usize,
}

/// A table whose items are numbered row by row, over the rows in use. The items of a row are its texts that the [`Selection`] keeps. A
/// row with labels is one item, with or without text.
#[derive(Debug)]
pub(super) struct TableIndex {
    pub table: Table,
    /// Number of items.
    pub items: usize,
    /// The rows in use.
    pub rows: RowView,
    /// What is left out.
    pub left_out: TextsLeftOut,
    selection: Selection,
    entries: Vec<Entry>,
    /// A hash of the texts of the rows in use, in order; with labels, of no text.
    digest: u64,
}

/// Returns the distinct texts of a row, in the order of their first occurrence.
fn distinct(mut texts: Vec<Cow<'_, str>>) -> Vec<Cow<'_, str>> {
    if texts.len() > 1 {
        let mut seen = HashSet::with_capacity(texts.len());
        let is_first: Vec<bool> = texts.iter().map(|text| seen.insert(text.as_ref())).collect();
        let mut is_first = is_first.into_iter();
        texts.retain(|_| is_first.next().unwrap_or(true));
    }
    texts
}

fn is_blank(text: &str) -> bool {
    text.chars().all(char::is_whitespace)
}

impl Selection {
    /// Returns the texts of a row that are items. Equal captions of a row are one item; a repeated question is several items, as in the
    /// original.
    fn items_among<'a>(&self, mut texts: Vec<Cow<'a, str>>) -> Vec<Cow<'a, str>> {
        match self.contents {
            Contents::Captions => {
                if !self.keeps_blank {
                    texts.retain(|text| !is_blank(text));
                }
                distinct(texts)
            }
            Contents::Questions | Contents::Pairs | Contents::Labels => texts,
        }
    }

    /// Returns the number of captions that are not items because they are blank.
    fn count_blank(&self, texts: &[Cow<'_, str>]) -> usize {
        match self.contents {
            Contents::Captions if !self.keeps_blank => texts.iter().filter(|text| is_blank(text)).count(),
            _ => 0,
        }
    }
}

/// Adds the texts or labels of a row to a hash, so that other divisions into texts and rows give other hashes.
fn hash_row<'t>(hash: &mut Xxh3, texts: impl ExactSizeIterator<Item = &'t str>) {
    hash.update(&(texts.len() as u64).to_le_bytes());
    for text in texts {
        hash.update(&(text.len() as u64).to_le_bytes());
        hash.update(text.as_bytes());
    }
}

impl TableIndex {
    /// Builds the index, which reads all texts once, except in a table of labels.
    ///
    /// # Errors
    /// Returns [`DataError::Format`] if a text is damaged or there are more than 2³² rows or texts.
    pub fn new(table: Table, rows: RowView, selection: Selection) -> Result<Self> {
        let too_many = || DataError::Format {
            path: table.path().to_path_buf(),
            reason: "it has more rows or texts than can be numbered; write it as several files".into(),
        };
        if selection.contents == Contents::Labels {
            let items = rows.len();
            u32::try_from(items).map_err(|_| too_many())?;
            return Ok(Self {
                table,
                items,
                rows,
                left_out: TextsLeftOut::default(),
                selection,
                entries: Vec::new(),
                digest: Xxh3::new().digest(),
            });
        }
        let mut hash = Xxh3::new();
        let mut entries = Vec::new();
        let (mut items, mut entry_texts, mut unreleased_bytes) = (0usize, 0usize, 0usize);
        let mut left_out = TextsLeftOut::default();
        let in_use = table.part_starts().enumerate().filter(|(row, _)| rows.contains(*row));
        for (position, (row, starts_part)) in in_use.enumerate() {
            unreleased_bytes += if starts_part { READ_AROUND_BYTES } else { 0 };
            if position == 0 || entry_texts >= TEXTS_PER_ENTRY {
                entries.push(Entry {
                    position: u32::try_from(position).map_err(|_| too_many())?,
                    item: u32::try_from(items).map_err(|_| too_many())?,
                });
                entry_texts = 0;
            }
            let texts = table.texts(row, selection.contents)?;
            match selection.count_blank(&texts) {
                blank if blank == texts.len() => left_out.rows += 1,
                blank => left_out.blank += blank,
            }
            // Duplicates and rows without texts take time to read, too.
            entry_texts += texts.len().max(1);
            hash_row(&mut hash, texts.iter().map(AsRef::as_ref));
            unreleased_bytes += texts.iter().map(|t| t.len() + 8).sum::<usize>();
            items += selection.items_among(texts).len();
            if unreleased_bytes > SCAN_BYTES {
                table.release_pages();
                unreleased_bytes = 0;
            }
        }
        u32::try_from(items).map_err(|_| too_many())?;
        table.release_pages();
        entries.shrink_to_fit();
        Ok(Self {
            table,
            items,
            rows,
            left_out,
            selection,
            entries,
            digest: hash.digest(),
        })
    }

    /// Returns a hash of the texts of the rows in use, in order; with labels, of the labels of all rows, which are read.
    ///
    /// # Errors
    /// Returns [`DataError::Format`] if labels are damaged.
    pub fn digest(&self) -> Result<u64> {
        if self.selection.contents != Contents::Labels {
            return Ok(self.digest);
        }
        let mut hash = Xxh3::new();
        match &self.table {
            Table::Tar(tar) => tar.for_each_class(|class| hash_row(&mut hash, class.as_slice().iter().copied()))?,
            Table::Arrow(table) => {
                let Some(kind) = table.label_kind()? else {
                    return Ok(self.digest);
                };
                table.for_each_row(|row| {
                    hash_row(&mut hash, table.labels(row, kind)?.unwrap_or_default().into_iter());
                    Ok(())
                })?;
            }
        }
        Ok(hash.digest())
    }

    /// The texts of a row that are items; with labels, the text of the row if it has one.
    pub fn texts(&self, row: usize) -> Result<Vec<Cow<'_, str>>> {
        Ok(self
            .selection
            .items_among(self.table.texts(row, self.selection.contents)?))
    }

    /// Returns the number of items of a row.
    pub fn items_in(&self, row: usize) -> Result<usize> {
        match self.selection.contents {
            Contents::Labels => Ok(1),
            Contents::Captions | Contents::Questions | Contents::Pairs => Ok(self.texts(row)?.len()),
        }
    }

    /// Returns the row of an item, and its position among the texts of the row. `item` is less than [`Self::items`].
    pub fn find(&self, item: usize) -> Result<(usize, usize)> {
        if self.selection.contents == Contents::Labels {
            return Ok((self.rows.row_at(item), 0));
        }
        let index = self
            .entries
            .partition_point(|e| e.item as usize <= item)
            .saturating_sub(1);
        let start = self
            .entries
            .get(index)
            .copied()
            .unwrap_or(Entry { position: 0, item: 0 });
        let mut remaining = item - start.item as usize;
        for position in start.position as usize..self.rows.len() {
            let row = self.rows.row_at(position);
            let texts = self.texts(row)?.len();
            if remaining < texts {
                return Ok((row, remaining));
            }
            remaining -= texts;
        }
        Err(DataError::Format {
            path: self.table.path().to_path_buf(),
            reason: "it has fewer texts than when it was opened; do not change files in use".into(),
        })
    }

    /// Returns the first item of the row at a position among the rows in use.
    pub fn first_item(&self, position: usize) -> Result<usize> {
        if self.selection.contents == Contents::Labels {
            return Ok(position);
        }
        let index = self
            .entries
            .partition_point(|e| e.position as usize <= position)
            .saturating_sub(1);
        let Some(start) = self.entries.get(index) else {
            return Ok(0);
        };
        let mut item = start.item as usize;
        for earlier in start.position as usize..position {
            item += self.texts(self.rows.row_at(earlier))?.len();
        }
        Ok(item)
    }

    /// Bytes of memory that the index takes.
    pub fn memory(&self) -> usize {
        self.entries.capacity() * size_of::<Entry>() + self.rows.memory() + self.table.index_memory()
    }
}
