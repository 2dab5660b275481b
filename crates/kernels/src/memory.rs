//! An arena allocator over large memory mappings, or over regions of a device.
//!
//! Every training step allocates pieces of the same few sizes in nearly the same order. Freed pieces are merged with their free neighbours,
//! so that gradients can reuse the memory of saved activations. Mappings request huge pages, which avoid most TLB misses.

use bytemuck::Pod;
use memmap2::MmapMut;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// The payload with which [`Arena::allocate`] panics if the system has no more memory. This panic is not a bug; programs catch it.
#[derive(Clone, Copy, Debug)]
pub struct OutOfMemory {
    /// Size of the failed request in bytes.
    pub bytes: usize,
}

/// Pieces of at least 1/96 of a region are large. The divisor was chosen by replaying recorded allocations of training steps.
const LARGE_DIVISOR: usize = 96;

/// Size of a huge page in bytes, on x86-64 and (with 4 KiB pages) AArch64.
const HUGE_PAGE: usize = 2 << 20;

/// Consecutive addresses that an arena divides. When the last piece is gone and the arena has released the region, it is dropped.
pub trait Region {
    /// The usable addresses; the first is a multiple of the granularity of the arena.
    fn addresses(&self) -> Range<usize>;
}

/// A memory mapping of this process. Its usable addresses are complete huge pages.
#[derive(Debug)]
pub struct Mapping(MmapMut);

impl Region for Mapping {
    fn addresses(&self) -> Range<usize> {
        huge_page_range(&self.0)
    }
}

/// Memory with one owner and arbitrary content, a part of one region.
///
/// [`Arena::free`] returns a piece to its arena. A region stays allocated as long as one of its pieces exists.
#[derive(Debug)]
pub struct Piece<R = Mapping> {
    start: usize,
    len: usize,
    region: Arc<R>,
}

impl<R> Piece<R> {
    /// The first address.
    pub fn address(&self) -> usize {
        self.start
    }

    /// Splits the piece after `bytes` bytes; an empty part is `None`. The parts are freed separately.
    ///
    /// # Panics
    /// If the piece is smaller than `bytes`, or `bytes` is not a multiple of the alignment of pieces, 64.
    pub fn split_at(self, bytes: usize) -> (Option<Self>, Option<Self>) {
        assert!(
            bytes <= self.len && bytes.is_multiple_of(64),
            "cannot split a piece of {} bytes after {bytes}",
            self.len
        );
        let part = |start: usize, len: usize| {
            (len > 0).then(|| Self {
                start: self.start + start,
                len,
                region: Arc::clone(&self.region),
            })
        };
        (part(0, bytes), part(bytes, self.len - bytes))
    }
}

impl Piece {
    /// The memory as values of `T`, without trailing bytes that are not a complete value.
    pub fn as_slice<T: Pod>(&self) -> &[T] {
        let start = std::ptr::with_exposed_provenance(self.start);
        // SAFETY: the memory is initialised (mappings begin as zeros), of this length, 64-byte aligned and exclusive to this piece; any
        // bits are a valid `T: Pod`.
        unsafe { std::slice::from_raw_parts(start, self.len / size_of::<T>()) }
    }

    /// The memory as mutable values of `T`, without trailing bytes that are not a complete value.
    pub fn as_mut_slice<T: Pod>(&mut self) -> &mut [T] {
        let start = std::ptr::with_exposed_provenance_mut(self.start);
        // SAFETY: the memory is initialised, of this length, 64-byte aligned and exclusive to this piece, which is borrowed mutably; any
        // bits are a valid `T: Pod`.
        unsafe { std::slice::from_raw_parts_mut(start, self.len / size_of::<T>()) }
    }
}

/// An allocator of pieces.
///
/// Older regions are used first, so that new regions stay untouched as long as possible: a page that was once written keeps its physical
/// memory, even if no piece uses the page any more. Within a region, large pieces are cut from the lowest free range that fits, and small
/// pieces from the upper end of the highest free range that fits, so that long-lived small pieces do not fragment the ranges of large
/// pieces.
#[derive(Debug)]
pub struct Arena<R = Mapping> {
    granularity: usize,
    region_bytes: usize,
    /// The regions, oldest first.
    regions: Vec<FreeRanges<R>>,
}

/// A region and its free ranges.
#[derive(Debug)]
struct FreeRanges<R> {
    region: Arc<R>,
    /// The usable addresses.
    range: Range<usize>,
    /// Address and length of each free range.
    free: BTreeMap<usize, usize>,
}

impl<R> FreeRanges<R> {
    /// Allocates `len` bytes and returns their address: from the lowest free range that fits if `lowest`, else from the upper end of the
    /// highest free range that fits.
    fn allocate(&mut self, len: usize, lowest: bool) -> Option<usize> {
        let mut free = self.free.iter().map(|(start, len)| (*start, *len));
        let fits = |(_, available): &(usize, usize)| *available >= len;
        let (start, available) = if lowest { free.find(fits)? } else { free.rfind(fits)? };
        self.free.remove(&start);
        let (address, rest) = if lowest {
            (start, start + len)
        } else {
            (start + available - len, start)
        };
        if available > len {
            self.free.insert(rest, available - len);
        }
        Some(address)
    }

    fn is_unused(&self) -> bool {
        self.free.get(&self.range.start) == Some(&self.range.len())
    }
}

impl<R: Region> Arena<R> {
    /// Makes an empty arena. The sizes of pieces are multiples of `granularity`, which must be a multiple of 64. Regions have
    /// `region_bytes` bytes. A piece larger than half a region gets a separate region, because the rest of a shared region would be hard
    /// to use.
    pub const fn new(granularity: usize, region_bytes: usize) -> Self {
        assert!(granularity > 0 && granularity.is_multiple_of(64) && region_bytes > 0);
        Self {
            granularity,
            region_bytes,
            regions: Vec::new(),
        }
    }

    /// Allocates a piece of at least `bytes` bytes from the first region with enough space; `None` if there is none.
    pub fn allocate_free(&mut self, bytes: usize) -> Option<Piece<R>> {
        let len = self.piece_len(bytes);
        let lowest = len >= self.region_bytes / LARGE_DIVISOR;
        self.regions.iter_mut().find_map(|ranges| {
            let start = ranges.allocate(len, lowest)?;
            let region = Arc::clone(&ranges.region);
            Some(Piece { start, len, region })
        })
    }

    /// Returns the size of a new region for a piece of `bytes` bytes, and the size of the smallest region that has it.
    pub fn region_lens(&self, bytes: usize) -> [usize; 2] {
        let len = self.piece_len(bytes);
        let region = if len > self.region_bytes / 2 {
            len
        } else {
            self.region_bytes
        };
        [region, len]
    }

    /// Adds a region, whose memory is free.
    pub fn add(&mut self, region: R) {
        let range = region.addresses();
        self.regions.push(FreeRanges {
            region: Arc::new(region),
            free: BTreeMap::from([(range.start, range.len())]),
            range,
        });
    }

    /// The size of a piece of at least `bytes` bytes. Sizes that cannot exist are returned unchanged, so that making a region for them fails.
    fn piece_len(&self, bytes: usize) -> usize {
        bytes.max(1).checked_next_multiple_of(self.granularity).unwrap_or(bytes)
    }

    /// Frees a piece of this arena.
    ///
    /// # Panics
    /// If the piece is from another arena.
    pub fn free(&mut self, piece: Piece<R>) {
        let ranges = self
            .regions
            .iter_mut()
            .find(|ranges| Arc::ptr_eq(&ranges.region, &piece.region));
        let Some(ranges) = ranges else {
            panic!("the piece is from another arena");
        };
        let (mut start, mut len) = (piece.start, piece.len);
        if let Some(next) = ranges.free.remove(&(start + len)) {
            len += next;
        }
        if let Some((&before, &before_len)) = ranges.free.range(..start).next_back()
            && before + before_len == start
        {
            (start, len) = (before, before_len + len);
        }
        ranges.free.insert(start, len);
    }

    /// Drops regions without pieces in use.
    pub fn release(&mut self) {
        self.regions.retain(|ranges| !ranges.is_unused());
    }
}

impl Arena {
    /// Allocates a piece of at least `bytes` bytes from the first region with enough space, or from a new mapping.
    ///
    /// # Panics
    /// With the payload [`OutOfMemory`] if the system has no more memory.
    pub fn allocate(&mut self, bytes: usize) -> Piece {
        if bytes > isize::MAX as usize / 2 {
            std::panic::panic_any(OutOfMemory { bytes });
        }
        let map = |len: usize| {
            // A failure is reported with the size of the piece.
            let map = MmapMut::map_anon(len.next_multiple_of(HUGE_PAGE) + HUGE_PAGE).map_err(|_| len)?;
            #[cfg(target_os = "linux")]
            // A failure is harmless: without huge pages, small pages are used.
            map.advise(memmap2::Advice::HugePage).ok();
            Ok(Mapping(map))
        };
        if let Some(piece) = self.allocate_free(bytes) {
            return piece;
        }
        let [full, least] = self.region_lens(bytes);
        match map(full).or_else(|_| map(least)) {
            Ok(region) => self.add(region),
            Err(bytes) => std::panic::panic_any(OutOfMemory { bytes }),
        }
        self.allocate_free(bytes)
            .unwrap_or_else(|| panic!("a new region has no {bytes} bytes"))
    }
}

/// A buffer for intermediate results of one thread, which keeps its memory between uses.
pub struct Scratch {
    arena: Arena,
    piece: Option<Piece>,
}

impl Scratch {
    /// Makes an empty buffer.
    pub const fn new() -> Self {
        Self {
            arena: Arena::new(HUGE_PAGE, HUGE_PAGE),
            piece: None,
        }
    }

    /// Returns the first `len` values of the buffer, with arbitrary content. Reallocates the buffer if it is too short.
    pub fn slice_mut<T: Pod>(&mut self, len: usize) -> &mut [T] {
        if self.piece.as_ref().is_none_or(|p| p.len < len * size_of::<T>())
            && let Some(old) = self.piece.take()
        {
            self.arena.free(old);
            self.arena.release();
        }
        let piece = self
            .piece
            .get_or_insert_with(|| self.arena.allocate(len * size_of::<T>()));
        &mut piece.as_mut_slice()[..len]
    }

    /// All values of the buffer, at least as many as the last call of [`Scratch::slice_mut`] returned.
    pub fn as_slice<T: Pod>(&self) -> &[T] {
        self.piece.as_ref().map_or(&[], Piece::as_slice)
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

/// Allocates consecutive slices from a scratch buffer.
pub(crate) struct BumpAllocator<'a, T>(&'a mut [T]);

impl<'a, T: Pod> BumpAllocator<'a, T> {
    pub fn new(scratch: &'a mut Scratch, len: usize) -> Self {
        Self(scratch.slice_mut(len))
    }

    pub fn allocate(&mut self, len: usize) -> &'a mut [T] {
        let (head, tail) = std::mem::take(&mut self.0).split_at_mut(len);
        self.0 = tail;
        head
    }
}

/// Returns the addresses of the complete huge pages of a mapping.
fn huge_page_range(map: &MmapMut) -> Range<usize> {
    let address = map.as_ptr().expose_provenance();
    let start = address.next_multiple_of(HUGE_PAGE);
    start..start + (address + map.len() - start) / HUGE_PAGE * HUGE_PAGE
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pieces_do_not_overlap_and_are_merged_when_freed(requests in proptest::collection::vec((1usize..300_000, 0usize..8), 1..200)) {
            let mut arena = Arena::new(4096, 1 << 20);
            let mut held: Vec<(Piece, u8)> = Vec::new();
            for (i, (bytes, free_index)) in requests.into_iter().enumerate() {
                let mut piece = arena.allocate(bytes);
                prop_assert!(piece.as_slice::<f32>().len() * 4 >= bytes);
                prop_assert_eq!(piece.start % 64, 0);
                piece.as_mut_slice::<u8>().fill(i as u8);
                held.push((piece, i as u8));
                if free_index < held.len() {
                    let (piece, mark) = held.swap_remove(free_index);
                    prop_assert!(piece.as_slice::<u8>().iter().all(|v| *v == mark));
                    arena.free(piece);
                }
            }
            for (piece, mark) in held {
                prop_assert!(piece.as_slice::<u8>().iter().all(|v| *v == mark));
                arena.free(piece);
            }
            prop_assert!(arena.regions.iter().all(FreeRanges::is_unused));
            arena.release();
            prop_assert!(arena.regions.is_empty());
        }
    }

    #[test]
    fn pieces_outlive_their_arena_and_cannot_be_freed_in_another() {
        let (mut arena, mut other) = (Arena::new(64, HUGE_PAGE), Arena::new(64, HUGE_PAGE));
        let mut piece = arena.allocate(100);
        drop(arena);
        piece.as_mut_slice::<u8>().fill(7);
        assert!(piece.as_slice::<u8>().iter().all(|v| *v == 7));
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| other.free(piece)));
        assert!(result.is_err());
    }

    #[test]
    fn parts_of_a_piece_are_freed_separately() {
        let mut arena = Arena::new(64, HUGE_PAGE);
        let piece = arena.allocate(1000);
        let (start, len) = (piece.start, piece.len);
        let (none, piece) = piece.split_at(0);
        assert!(none.is_none());
        let (first, rest) = piece.expect("the whole piece").split_at(128);
        let (second, none) = rest.expect("the rest").split_at(len - 128);
        assert!(none.is_none());
        let (mut first, mut second) = (first.expect("not empty"), second.expect("not empty"));
        assert!(first.start == start && first.len == 128 && second.len == len - 128);
        first.as_mut_slice::<u8>().fill(1);
        second.as_mut_slice::<u8>().fill(2);
        assert!(first.as_slice::<u8>().iter().all(|v| *v == 1));
        arena.free(second);
        arena.free(first);
        assert!(arena.regions.iter().all(FreeRanges::is_unused));
    }

    #[test]
    fn large_pieces_come_from_low_addresses_and_small_ones_from_high() {
        let mut arena = Arena::new(64, HUGE_PAGE);
        let large = HUGE_PAGE / LARGE_DIVISOR + 64;
        let low = [large, large].map(|bytes| arena.allocate(bytes));
        let high = [640, 64].map(|bytes| arena.allocate(bytes));
        let start = low[0].start;
        assert_eq!(low[1].start, start + low[0].len);
        let end = arena.regions[0].range.end;
        assert_eq!(high[0].start, end - 640);
        assert_eq!(high[1].start, end - 704);
        // The lowest free range is too small for `larger`.
        let [first, second] = low;
        arena.free(first);
        let larger = arena.allocate(large + 64);
        assert_eq!(larger.start, second.start + second.len);
        let reused = arena.allocate(large);
        assert_eq!(reused.start, start);
        for piece in [second, larger, reused].into_iter().chain(high) {
            arena.free(piece);
        }
        assert!(arena.regions.iter().all(FreeRanges::is_unused));
    }

    #[test]
    fn older_regions_are_used_first_and_large_pieces_get_separate_regions() {
        let mut arena = Arena::new(64, 4 * HUGE_PAGE);
        let first = arena.allocate(HUGE_PAGE);
        let rest = arena.allocate(arena.regions[0].free.values().sum());
        let large = arena.allocate(3 * HUGE_PAGE);
        // At most one huge page more than needed, for alignment.
        assert!(arena.regions[1].range.len() <= 4 * HUGE_PAGE);
        let second = arena.allocate(2 * HUGE_PAGE);
        assert_eq!(arena.regions.len(), 3);
        let address = first.start;
        for piece in [first, second] {
            arena.free(piece);
        }
        // Both the first and the last region have enough space.
        let reused = arena.allocate(HUGE_PAGE / 2);
        assert_eq!(reused.start, address);
        for piece in [reused, large, rest] {
            arena.free(piece);
        }
        arena.release();
        assert!(arena.regions.is_empty());
    }
}
