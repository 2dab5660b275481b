//! The captions of one table as numbered items, with an index that is small beside them.

use std::borrow::Cow;
use std::collections::HashSet;

use super::captions::AROUND_BYTES;
use super::table::Table;
use crate::{DataError, Result};

/// Captions, and rows, that one index entry covers. Finding an item reads at most that many captions (and those of one row).
const BLOCK: usize = 128;
/// Bytes read in a scan before the pages are given back.
const SCAN_BYTES: usize = 8 << 20;

/// Where a run of rows begins.
#[derive(Clone, Copy, Debug)]
struct Block {
    row: u32,
    item: u32,
}

/// A table and the numbering of its captions: rows in order, captions in order, duplicates within a row left out.
#[derive(Debug)]
pub(super) struct TableIndex {
    pub table: Table,
    /// Number of items.
    pub items: usize,
    blocks: Vec<Block>,
}

/// The distinct captions of a row, in the order of their first occurrence.
fn distinct(mut texts: Vec<Cow<'_, str>>) -> Vec<Cow<'_, str>> {
    if texts.len() > 1 {
        let mut seen = HashSet::with_capacity(texts.len());
        let first: Vec<bool> = texts.iter().map(|text| seen.insert(text.as_ref())).collect();
        let mut first = first.into_iter();
        texts.retain(|_| first.next().unwrap_or(true));
    }
    texts
}

impl TableIndex {
    /// Reads all captions once.
    ///
    /// # Errors
    /// A damaged caption; more than 4 billion rows or captions.
    pub fn new(table: Table) -> Result<Self> {
        let too_many = || DataError::Format {
            path: table.path().to_path_buf(),
            reason: "it has more rows or captions than can be numbered; write it as several files".into(),
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
            let texts = table.captions(row)?;
            // Duplicates cost as much to read as others, and so does a row without captions.
            in_block += texts.len().max(1);
            since_release += texts.iter().map(|t| t.len() + 8).sum::<usize>();
            items += distinct(texts).len();
            if since_release > SCAN_BYTES {
                table.release_pages();
                since_release = 0;
            }
        }
        u32::try_from(items).map_err(|_| too_many())?;
        table.release_pages();
        blocks.shrink_to_fit();
        Ok(Self { table, items, blocks })
    }

    /// The distinct captions of a row.
    pub fn captions(&self, row: usize) -> Result<Vec<Cow<'_, str>>> {
        Ok(distinct(self.table.captions(row)?))
    }

    /// Row, and position among the row's captions, of an item below [`Self::items`].
    pub fn find(&self, item: usize) -> Result<(usize, usize)> {
        let block = self
            .blocks
            .partition_point(|b| b.item as usize <= item)
            .saturating_sub(1);
        let start = self.blocks.get(block).copied().unwrap_or(Block { row: 0, item: 0 });
        let mut left = item - start.item as usize;
        for row in start.row as usize..self.table.rows() {
            let captions = self.captions(row)?.len();
            if left < captions {
                return Ok((row, left));
            }
            left -= captions;
        }
        Err(DataError::Format {
            path: self.table.path().to_path_buf(),
            reason: "it has fewer captions than when it was opened; do not change files in use".into(),
        })
    }

    /// Number of the first item of a row.
    pub fn first_item(&self, row: usize) -> Result<usize> {
        let block = self.blocks.partition_point(|b| b.row as usize <= row).saturating_sub(1);
        let Some(start) = self.blocks.get(block) else {
            return Ok(0);
        };
        let mut item = start.item as usize;
        for earlier in start.row as usize..row {
            item += self.captions(earlier)?.len();
        }
        Ok(item)
    }

    /// Bytes of memory that the index takes.
    pub fn memory(&self) -> usize {
        self.blocks.capacity() * size_of::<Block>() + self.table.index_memory()
    }
}
