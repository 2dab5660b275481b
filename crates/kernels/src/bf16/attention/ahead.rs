//! Fetching what is worked on next while the units are busy.

use super::super::Bf16;
use super::super::blocks::{BLOCK, Blocks, SIDE};
use super::super::fetch::{LINE, fetch};
use std::arch::x86_64::_MM_HINT_T1;
use std::ops::Range;

/// What the next head will be loaded from, on its way into the second cache, a share at a time: it is read once, from memory if
/// nobody fetches it before, and that was a third of the time of short sequences on a matrix unit.
pub struct Ahead<'a, I> {
    /// Runs of blocks, and what is left of the last one.
    runs: I,
    rest: &'a [Bf16],
    /// Numbers to fetch at a time: half a block or more, so that most calls find nothing to do in long sequences.
    share: usize,
}

/// A matrix, the rows of it that a head is loaded from, and the first of the columns.
pub type Part<'a> = (Blocks<'a>, Range<usize>, usize);

/// [`Ahead`] of `parts`, `columns` columns of each, in so many shares.
pub fn ahead<'a>(parts: &'a [Part<'a>], columns: usize, shares: usize) -> Ahead<'a, impl Iterator<Item = &'a [Bf16]>> {
    /// Bytes. More would not fit into the second cache beside what is in work there, and long sequences are loaded in no
    /// time compared with their products.
    const MOST: usize = 256 << 10;
    let runs = || {
        parts.iter().flat_map(move |(from, rows, column)| {
            let blocks = column / SIDE..(column + columns).div_ceil(SIDE);
            let rows = rows.start / SIDE..rows.end.div_ceil(SIDE);
            rows.map(move |row| &from.at(row, blocks.start)[..blocks.len() * BLOCK])
        })
    };
    let len: usize = runs().map(<[_]>::len).sum();
    let most = if len * size_of::<Bf16>() > MOST { 0 } else { usize::MAX };
    Ahead {
        runs: runs().take(most),
        rest: &[],
        share: len.div_ceil(shares).next_multiple_of(BLOCK / 2),
    }
}

impl<'a, I: Iterator<Item = &'a [Bf16]>> Ahead<'a, I> {
    /// Fetches the next share.
    pub fn fetch(&mut self) {
        let mut due = self.share;
        while due > 0 {
            if self.rest.is_empty() {
                let Some(run) = self.runs.next() else {
                    self.share = 0;
                    return;
                };
                self.rest = run;
            }
            let now;
            (now, self.rest) = self.rest.split_at(due.min(self.rest.len()));
            fetch::<_MM_HINT_T1, _>(now.as_ptr(), size_of_val(now) / LINE);
            due -= now.len();
        }
    }
}
