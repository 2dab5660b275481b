//! Asking the processor for memory before it is needed.

use std::arch::x86_64::_mm_prefetch;

/// Bytes of a cache line.
pub(super) const LINE: usize = 64;

/// Brings `lines` lines of memory from `start` on into the cache that `HINT` (`_MM_HINT_…`) names. They need not be in any
/// object.
#[inline(always)]
pub(super) fn fetch<const HINT: i32, T>(start: *const T, lines: usize) {
    for line in 0..lines {
        #[allow(unused_unsafe, reason = "it was unsafe before Rust 1.95")]
        // SAFETY: a prefetch has no effect that can be seen.
        unsafe {
            _mm_prefetch::<HINT>(start.cast::<i8>().wrapping_add(line * LINE));
        }
    }
}
