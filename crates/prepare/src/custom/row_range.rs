//! A range of the rows of a split, which becomes one file.

use std::ops::Range;
use std::sync::Arc;

/// A range of the rows of a split. Files of the same split share the rows.
pub(super) struct RowRange<R> {
    rows: Arc<Vec<R>>,
    range: Range<usize>,
}

impl<R> RowRange<R> {
    /// Makes the range `range` of `rows`, which contains it.
    pub fn new(rows: &Arc<Vec<R>>, range: Range<usize>) -> Self {
        Self {
            rows: Arc::clone(rows),
            range,
        }
    }

    /// Number of rows of the range.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Returns a row by its index in the range.
    pub fn get(&self, row: usize) -> &R {
        &self.rows[self.range.start + row]
    }
}
