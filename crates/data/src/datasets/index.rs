//! The texts of one table as numbered items, with one index entry per 128 texts.

use std::borrow::Cow;
use std::collections::HashSet;

use super::contents::Contents;
use super::table::Table;
use crate::{DataError, Result};

/// Texts, and rows, that one index entry covers. Finding an item reads at most that many texts (and those of one row).
const BLOCK: usize = 128;
/// Bytes that the system may map around a place that is read: since Linux 6.18 a whole large folio of its cache.
pub(super) const AROUND_BYTES: usize = 2 << 20;
/// Bytes read in a scan before pages are released.
const SCAN_BYTES: usize = 8 << 20;

/// Where a run of rows begins.
#[derive(Clone, Copy, Debug)]
struct Block {
    row: u32,
    item: u32,
}

/// A table and the numbering of its texts: rows in order, texts in order; of captions, duplicates within a row are left out.
#[derive(Debug)]
pub(super) struct TableIndex {
    pub table: Table,
    /// Number of items.
    pub items: usize,
    contents: Contents,
    blocks: Vec<Block>,
}

/// The distinct texts of a row, in the order of their first occurrence.
fn distinct(mut texts: Vec<Cow<'_, str>>) -> Vec<Cow<'_, str>> {
    if texts.len() > 1 {
        let mut seen = HashSet::with_capacity(texts.len());
        let first: Vec<bool> = texts.iter().map(|text| seen.insert(text.as_ref())).collect();
        let mut first = first.into_iter();
        texts.retain(|_| first.next().unwrap_or(true));
    }
    texts
}

/// The texts of a row that are items. A question that is asked twice is two items, as in the original.
fn items_among(texts: Vec<Cow<'_, str>>, contents: Contents) -> Vec<Cow<'_, str>> {
    match contents {
        Contents::Captions => distinct(texts),
        Contents::Questions | Contents::Pairs => texts,
    }
}

impl TableIndex {
    /// Reads all texts once.
    ///
    /// # Errors
    /// Returns [`DataError::Format`] if a text is damaged or there are more than 2³² rows or texts.
    pub fn new(table: Table, contents: Contents) -> Result<Self> {
        let too_many = || DataError::Format {
            path: table.path().to_path_buf(),
            reason: "it has more rows or texts than can be numbered; write it as several files".into(),
        };
        let mut blocks = Vec::new();
        let (mut items, mut in_block, mut since_release) = (0usize, 0usize, 0usize);
        for (row, new_part) in table.new_parts().enumerate() {
            since_release += if new_part { AROUND_BYTES } else { 0 };
            if row == 0 || in_block >= BLOCK {
                blocks.push(Block {
                    row: u32::try_from(row).map_err(|_| too_many())?,
                    item: u32::try_from(items).map_err(|_| too_many())?,
                });
                in_block = 0;
            }
            let texts = table.texts(row, contents)?;
            // Duplicates cost as much to read as others, and so does a row without texts.
            in_block += texts.len().max(1);
            since_release += texts.iter().map(|t| t.len() + 8).sum::<usize>();
            items += items_among(texts, contents).len();
            if since_release > SCAN_BYTES {
                table.release_pages();
                since_release = 0;
            }
        }
        u32::try_from(items).map_err(|_| too_many())?;
        table.release_pages();
        blocks.shrink_to_fit();
        Ok(Self {
            table,
            items,
            contents,
            blocks,
        })
    }

    /// The texts of a row that are items.
    pub fn texts(&self, row: usize) -> Result<Vec<Cow<'_, str>>> {
        Ok(items_among(self.table.texts(row, self.contents)?, self.contents))
    }

    /// Row, and position among the row's texts, of an item below [`Self::items`].
    pub fn find(&self, item: usize) -> Result<(usize, usize)> {
        let block = self
            .blocks
            .partition_point(|b| b.item as usize <= item)
            .saturating_sub(1);
        let start = self.blocks.get(block).copied().unwrap_or(Block { row: 0, item: 0 });
        let mut left = item - start.item as usize;
        for row in start.row as usize..self.table.rows() {
            let texts = self.texts(row)?.len();
            if left < texts {
                return Ok((row, left));
            }
            left -= texts;
        }
        Err(DataError::Format {
            path: self.table.path().to_path_buf(),
            reason: "it has fewer texts than when it was opened; do not change files in use".into(),
        })
    }

    /// The first item of a row.
    pub fn first_item(&self, row: usize) -> Result<usize> {
        let block = self.blocks.partition_point(|b| b.row as usize <= row).saturating_sub(1);
        let Some(start) = self.blocks.get(block) else {
            return Ok(0);
        };
        let mut item = start.item as usize;
        for earlier in start.row as usize..row {
            item += self.texts(earlier)?.len();
        }
        Ok(item)
    }

    /// Bytes of memory that the index takes.
    pub fn memory(&self) -> usize {
        self.blocks.capacity() * size_of::<Block>() + self.table.index_memory()
    }
}
