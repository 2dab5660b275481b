//! Fetching what is worked on next while the units are busy.

use super::super::Bf16;
use super::super::blocks::{BLOCK, Blocks, SIDE};
use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
use std::ops::Range;

/// Bytes of a cache line.
const LINE: usize = 64;

/// What the next head will be loaded from, on its way into the second cache, a share at a time: it is read once, and from memory
/// if nobody fetches it, which takes as long as a third of a short sequence's products on a matrix unit.
pub struct Ahead<I> {
    lines: I,
    share: usize,
}

/// Columns of some rows of a matrix; the first one's number.
pub type Part<'a> = (Blocks<'a>, Range<usize>, usize);

/// [`Ahead`] of `parts`, `columns` columns of each, in so many shares.
pub fn ahead<'a>(parts: &'a [Part<'a>], columns: usize, shares: usize) -> Ahead<impl Iterator<Item = &'a [Bf16]>> {
    /// More would not fit into the second cache beside what is in work there, and long sequences are loaded in no time
    /// compared with their products.
    const MOST: usize = 256 << 10;
    let runs = || {
        parts.iter().flat_map(move |(from, rows, column)| {
            let blocks = column / SIDE..(column + columns).div_ceil(SIDE);
            let rows = rows.start / SIDE..rows.end.div_ceil(SIDE);
            rows.map(move |row| &from.at(row, blocks.start)[..blocks.len() * BLOCK])
        })
    };
    let len: usize = runs().map(size_of_val).sum();
    let lines = runs().flat_map(|run| run.chunks(LINE / size_of::<Bf16>()));
    Ahead {
        lines: lines.take(if len > MOST { 0 } else { len / LINE }),
        share: (len / LINE).div_ceil(shares),
    }
}

impl<'a, I: Iterator<Item = &'a [Bf16]>> Ahead<I> {
    /// Fetches the next share.
    pub fn fetch(&mut self) {
        self.lines.by_ref().take(self.share).for_each(fetch::<_MM_HINT_T1>);
    }
}

/// Brings memory into a cache.
pub fn fetch<const HINT: i32>(memory: &[Bf16]) {
    for line in (0..size_of_val(memory)).step_by(LINE) {
        #[allow(unused_unsafe, reason = "it was unsafe before Rust 1.95")]
        // SAFETY: a prefetch has no effect that can be seen.
        unsafe {
            _mm_prefetch::<HINT>(memory.as_ptr().cast::<i8>().wrapping_add(line));
        }
    }
}
