//! Rows of training files that are held out for validation.

use rand::seq::index;

use crate::random::{Purpose, stream};

/// The rows of a file that belong to a split.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Part {
    /// All rows.
    Whole,
    /// All rows but those held out; the number is the fraction of the dataset's rows that is held out.
    WithoutHeldOut(f64),
    /// The rows held out, with the same fraction.
    HeldOut(f64),
}

/// The rows of a file that are in use. A *position* counts these rows only.
#[derive(Debug)]
pub enum RowView {
    /// All rows of a file with this many rows.
    All(usize),
    /// All of this many rows but these, which are sorted.
    Except(usize, Vec<u32>),
    /// Only these rows, sorted.
    Only(Vec<u32>),
}

impl RowView {
    /// Returns the rows of `part` in a file of `rows` rows. `earlier` is the number of rows in earlier files of the dataset, and `file` the
    /// index of the file among them.
    ///
    /// Which rows are held out depends on these numbers alone, not on the seed of a run, so that runs with other seeds are validated on the
    /// same rows. At least one row of a dataset of two rows or more is held out.
    pub fn new(part: Part, rows: usize, earlier: usize, file: usize) -> Self {
        let (Part::WithoutHeldOut(fraction) | Part::HeldOut(fraction)) = part else {
            return Self::All(rows);
        };
        // The first row held out of a dataset counts from its second row on.
        let until = |end: usize| ((end as f64 * fraction) as usize).max(usize::from(end > 1 && fraction > 0.0));
        let count = (until(earlier + rows) - until(earlier)).min(rows);
        let mut rng = stream(0, Purpose::HeldOut, file as u64, rows as u64);
        let mut held_out: Vec<u32> = index::sample(&mut rng, rows, count)
            .iter()
            .map(|row| row as u32)
            .collect();
        held_out.sort_unstable();
        match part {
            Part::HeldOut(_) => Self::Only(held_out),
            _ => Self::Except(rows, held_out),
        }
    }

    /// Number of rows in use.
    pub fn len(&self) -> usize {
        match self {
            Self::All(rows) => *rows,
            Self::Except(rows, excluded) => rows - excluded.len(),
            Self::Only(rows) => rows.len(),
        }
    }

    /// Whether no row is in use.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns whether a row of the file is in use.
    pub fn contains(&self, row: usize) -> bool {
        let is_in = |rows: &[u32]| rows.binary_search_by(|r| (*r as usize).cmp(&row)).is_ok();
        match self {
            Self::All(_) => true,
            Self::Except(_, excluded) => !is_in(excluded),
            Self::Only(rows) => is_in(rows),
        }
    }

    /// Returns the row of the file at a position less than [`Self::len`].
    pub fn row_at(&self, position: usize) -> usize {
        match self {
            Self::All(_) => position,
            // Before the excluded row `i` there are `excluded[i] - i` rows in use.
            Self::Except(_, excluded) => {
                let (mut low, mut high) = (0, excluded.len());
                while low < high {
                    let middle = (low + high) / 2;
                    match excluded[middle] as usize - middle <= position {
                        true => low = middle + 1,
                        false => high = middle,
                    }
                }
                position + low
            }
            Self::Only(rows) => rows[position] as usize,
        }
    }

    /// Bytes of memory that the list of rows takes.
    pub fn memory(&self) -> usize {
        match self {
            Self::All(_) => 0,
            Self::Except(_, rows) | Self::Only(rows) => rows.capacity() * size_of::<u32>(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rows_of(view: &RowView) -> Vec<usize> {
        (0..view.len()).map(|position| view.row_at(position)).collect()
    }

    proptest! {
        /// Training and validation divide the rows, whatever the division into files, and the fraction holds for the dataset.
        #[test]
        fn the_parts_divide_the_rows(files in prop::collection::vec(0usize..60, 1..8), fraction in 0.0f64..1.0) {
            let (mut earlier, mut held_out) = (0, 0);
            for (file, rows) in files.iter().enumerate() {
                let validation = RowView::new(Part::HeldOut(fraction), *rows, earlier, file);
                let training = RowView::new(Part::WithoutHeldOut(fraction), *rows, earlier, file);
                let mut all = [rows_of(&validation), rows_of(&training)].concat();
                all.sort_unstable();
                prop_assert_eq!(all, (0..*rows).collect::<Vec<_>>());
                for row in 0..*rows {
                    prop_assert_eq!(validation.contains(row), !training.contains(row));
                    prop_assert_eq!(validation.contains(row), rows_of(&validation).contains(&row));
                }
                prop_assert!(rows_of(&training).is_sorted());
                earlier += rows;
                held_out += validation.len();
            }
            let expected = (earlier as f64 * fraction) as usize;
            prop_assert!(held_out == expected || (expected == 0 && held_out <= 1), "{} of {}", held_out, earlier);
        }
    }

    #[test]
    fn rows_are_drawn_from_the_whole_file_and_the_same_each_time() {
        let view = RowView::new(Part::HeldOut(0.1), 1000, 0, 0);
        let rows = rows_of(&view);
        assert_eq!(rows.len(), 100);
        assert!(rows[0] < 50 && rows[99] > 950, "{rows:?}");
        assert_eq!(rows, rows_of(&RowView::new(Part::HeldOut(0.1), 1000, 0, 0)));
        assert_ne!(rows, rows_of(&RowView::new(Part::HeldOut(0.1), 1000, 1000, 1)));
        assert_eq!(RowView::new(Part::HeldOut(0.1), 2, 0, 0).len(), 1, "at least one");
        assert_eq!(RowView::new(Part::HeldOut(0.1), 1, 0, 0).len(), 0);
        assert_eq!(RowView::new(Part::Whole, 7, 0, 0).len(), 7);
    }
}
