//! A product's result divided into parts, a task each.

use std::ops::Range;

/// Rows and columns of a result in parts of the same size. All sizes are counted in blocks.
#[derive(Clone, Copy)]
pub(super) struct Grid {
    pub rows: usize,
    pub columns: usize,
    /// Rows and columns of a part, at least one; the last parts may have fewer.
    pub high: usize,
    pub wide: usize,
}

impl Grid {
    /// Number of parts.
    pub fn parts(self) -> usize {
        self.rows.div_ceil(self.high) * self.columns.div_ceil(self.wide)
    }

    /// Rows and columns of a part; those of the same rows follow each other.
    pub fn part(self, i: usize) -> (Range<usize>, Range<usize>) {
        let per_row = self.columns.div_ceil(self.wide);
        let range = |i: usize, size: usize, all: usize| i * size..((i + 1) * size).min(all);
        (
            range(i / per_row, self.high, self.rows),
            range(i % per_row, self.wide, self.columns),
        )
    }
}
