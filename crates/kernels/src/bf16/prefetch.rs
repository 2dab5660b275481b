//! Prefetching operands into L1 and L2 before they are needed.

use super::number::{BLOCK, Bf16};

/// Size of a cache line in bytes.
const LINE: usize = 64;

/// The cache level of a prefetch.
#[derive(Clone, Copy)]
pub enum Level {
    /// L1 and L2.
    L1,
    /// L2 only.
    L2,
}

/// Prefetches `lines` cache lines from `start` on. The addresses need not be valid. Does nothing on architectures without a stable prefetch
/// intrinsic.
#[inline(always)]
pub fn prefetch<T>(level: Level, start: *const T, lines: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in 0..lines {
        use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
        let address = start.cast::<i8>().wrapping_add(line * LINE);
        #[allow(unused_unsafe, reason = "the intrinsic was unsafe before Rust 1.95")]
        // SAFETY: a prefetch accesses no memory architecturally and cannot fault.
        unsafe {
            match level {
                Level::L1 => _mm_prefetch::<_MM_HINT_T0>(address),
                Level::L2 => _mm_prefetch::<_MM_HINT_T1>(address),
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (level, start, lines);
}

/// Prefetches the data of the next attention head into L2, one share at a time.
///
/// Without prefetching, attention on AMX spent a third of the time of short sequences on reading heads from memory.
pub struct Prefetcher<'a, I> {
    /// The remaining contiguous runs of elements.
    runs: I,
    /// The rest of the current run.
    rest: &'a [Bf16],
    /// Elements per call of [`Prefetcher::advance`]: at least half a block, so that the first calls prefetch everything if there are many
    /// calls; 0 if nothing is left to prefetch.
    share: usize,
}

impl<'a, I: Iterator<Item = &'a [Bf16]> + Clone> Prefetcher<'a, I> {
    /// Divides the runs into `shares` shares. Prefetches nothing if the runs exceed 256 KiB: they would not fit into L2 beside the operands
    /// in use, and loading a long sequence takes little time compared with its products.
    pub fn new(runs: I, shares: usize) -> Self {
        const MAX_BYTES: usize = 256 << 10;
        let len: usize = runs.clone().map(<[_]>::len).sum();
        let share = if len * size_of::<Bf16>() > MAX_BYTES {
            0
        } else {
            len.div_ceil(shares).next_multiple_of(BLOCK / 2)
        };
        Self { runs, rest: &[], share }
    }
}

impl<'a, I: Iterator<Item = &'a [Bf16]>> Prefetcher<'a, I> {
    /// Prefetches the next share.
    pub fn advance(&mut self) {
        let mut remaining = self.share;
        while remaining > 0 {
            if self.rest.is_empty() {
                let Some(run) = self.runs.next() else {
                    self.share = 0;
                    return;
                };
                self.rest = run;
            }
            let head;
            (head, self.rest) = self.rest.split_at(remaining.min(self.rest.len()));
            prefetch(Level::L2, head.as_ptr(), size_of_val(head) / LINE);
            remaining -= head.len();
        }
    }
}
