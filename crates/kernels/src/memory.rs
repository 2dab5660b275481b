//! An arena allocator over large memory mappings.
//!
//! A training step needs the same memory as the one before, in pieces of a few sizes whose order changes little. Freed pieces are
//! merged with their free neighbours, so that the memory of saved activations can become gradients. Mappings request huge pages,
//! which avoid most TLB misses.

use bytemuck::Pod;
use memmap2::MmapMut;
use std::collections::BTreeMap;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

/// The payload with which [`Arena::take`] panics when the system has no more memory: the one panic that is not a bug. Programs catch it.
#[derive(Clone, Copy, Debug)]
pub struct OutOfMemory {
    /// Bytes of the failed request.
    pub bytes: usize,
}

/// Pieces of at least 1/96 of a region count as large. The value was found by replaying the requests of recorded steps.
const LARGE: usize = 96;

/// Bytes of a huge page on x86-64 and (with 4 KiB pages) AArch64.
const HUGE: usize = 2 << 20;

/// Exclusive memory within one region, of arbitrary content.
///
/// [`Arena::free`] returns it to its arena. The region stays mapped as long as one of its pieces exists.
#[derive(Debug)]
pub struct Piece {
    start: NonNull<u8>,
    len: usize,
    region: Arc<MmapMut>,
}

// SAFETY: a piece is exclusive memory, and its `Arc` only keeps the mapping alive.
unsafe impl Send for Piece {}
// SAFETY: a shared piece only gives shared slices.
unsafe impl Sync for Piece {}

impl Piece {
    /// The memory as values of `T`; bytes that are not a whole value are left out.
    pub fn as_slice<T: Pod>(&self) -> &[T] {
        // SAFETY: the memory is initialised (mappings begin as zeros), of this length, 64-byte aligned and exclusive to this piece; any
        // bits are a valid `T: Pod`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast(), self.len / size_of::<T>()) }
    }

    /// The memory as mutable values of `T`; bytes that are not a whole value are left out.
    pub fn as_mut_slice<T: Pod>(&mut self) -> &mut [T] {
        // SAFETY: the memory is initialised, of this length, 64-byte aligned and exclusive to this piece, which is borrowed mutably; any
        // bits are a valid `T: Pod`.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().cast(), self.len / size_of::<T>()) }
    }

    /// Cuts the piece in two, the first of `bytes`; `None` in place of an empty one. Each goes back to the arena by itself.
    ///
    /// # Panics
    /// If the piece is smaller, or `bytes` is not a multiple of 64, to which pieces are aligned.
    pub fn split_at(self, bytes: usize) -> (Option<Self>, Option<Self>) {
        assert!(bytes <= self.len && bytes.is_multiple_of(64), "a cut inside the piece");
        let part = |start: usize, len: usize| {
            (len > 0).then(|| Self {
                // SAFETY: `start` is at most the length of this piece, so the address is within its region or one past the end.
                start: unsafe { self.start.add(start) },
                len,
                region: Arc::clone(&self.region),
            })
        };
        (part(0, bytes), part(bytes, self.len - bytes))
    }
}

/// An allocator of pieces.
///
/// Regions that were mapped first are used first, so that later ones stay untouched as long as possible: a page costs memory once it
/// is written, even if it is free again. Within a region, large pieces come from the lowest free range and small ones from the upper
/// end of the highest, so that small pieces with a long life do not fragment the ranges of large ones.
pub struct Arena {
    granularity: usize,
    region: usize,
    /// In the order of their mapping.
    regions: Vec<Region>,
}

/// A memory mapping and its free ranges.
struct Region {
    map: Arc<MmapMut>,
    /// Addresses that pieces are cut from: whole huge pages.
    range: Range<usize>,
    /// Address and length of each free range.
    free: BTreeMap<usize, usize>,
}

impl Region {
    /// Takes `len` bytes from the lowest free range that has them, or from the upper end of the highest. Returns the address.
    fn take(&mut self, len: usize, lowest: bool) -> Option<usize> {
        let mut free = self.free.iter().map(|(start, len)| (*start, *len));
        let fits = |(_, found): &(usize, usize)| *found >= len;
        let (start, found) = if lowest { free.find(fits)? } else { free.rfind(fits)? };
        self.free.remove(&start);
        let (place, rest) = if lowest {
            (start, start + len)
        } else {
            (start + found - len, start)
        };
        if found > len {
            self.free.insert(rest, found - len);
        }
        Some(place)
    }

    fn is_unused(&self) -> bool {
        self.free.get(&self.range.start) == Some(&self.range.len())
    }
}

impl Arena {
    /// An empty arena. Pieces are multiples of `granularity` bytes, itself a multiple of 64. Regions have `region` bytes; a piece of more
    /// than half of that gets a region of its own, since it would leave little usable space.
    pub const fn new(granularity: usize, region: usize) -> Self {
        assert!(granularity > 0 && granularity.is_multiple_of(64) && region > 0);
        Self {
            granularity,
            region,
            regions: Vec::new(),
        }
    }

    /// A piece of at least `bytes` from the first region with enough space, or from a new region.
    ///
    /// # Panics
    /// With [`OutOfMemory`] if the system has no more memory.
    pub fn take(&mut self, bytes: usize) -> Piece {
        if bytes > isize::MAX as usize / 2 {
            std::panic::panic_any(OutOfMemory { bytes });
        }
        let len = bytes.max(1).next_multiple_of(self.granularity);
        let lowest = len >= self.region / LARGE;
        let take = |regions: &mut [Region]| {
            regions.iter_mut().find_map(|region| {
                let start = region.take(len, lowest)?;
                Some((start, Arc::clone(&region.map)))
            })
        };
        let (start, region) = take(&mut self.regions).unwrap_or_else(|| {
            self.grow(len);
            take(&mut self.regions).unwrap_or_else(|| unreachable!("just grown"))
        });
        let start =
            NonNull::new(std::ptr::with_exposed_provenance_mut(start)).unwrap_or_else(|| unreachable!("mapped"));
        Piece { start, len, region }
    }

    /// Frees a piece of this arena.
    ///
    /// # Panics
    /// If the piece belongs to another arena.
    pub fn free(&mut self, piece: Piece) {
        let own = self.regions.iter_mut().find(|own| Arc::ptr_eq(&own.map, &piece.region));
        let Some(region) = own else {
            panic!("a piece of another arena");
        };
        let (mut start, mut len) = (piece.start.as_ptr().expose_provenance(), piece.len);
        if let Some(next) = region.free.remove(&(start + len)) {
            len += next;
        }
        if let Some((&before, &before_len)) = region.free.range(..start).next_back()
            && before + before_len == start
        {
            (start, len) = (before, before_len + len);
        }
        region.free.insert(start, len);
    }

    /// Unmaps regions without pieces in use.
    pub fn release(&mut self) {
        self.regions.retain(|region| !region.is_unused());
    }

    fn grow(&mut self, len: usize) {
        let map = |len: usize| MmapMut::map_anon(len.next_multiple_of(HUGE) + HUGE);
        let wanted = if len > self.region / 2 { len } else { self.region };
        // Untouched pages cost no memory; if even addresses are scarce, map as little as possible.
        let map = match map(wanted).or_else(|_| map(len)) {
            Ok(map) => map,
            Err(_) => std::panic::panic_any(OutOfMemory { bytes: len }),
        };
        #[cfg(target_os = "linux")]
        // If huge pages are disabled, small ones are used.
        map.advise(memmap2::Advice::HugePage).ok();
        let range = usable(&map);
        self.regions.push(Region {
            map: Arc::new(map),
            free: BTreeMap::from([(range.start, range.len())]),
            range,
        });
    }
}

/// A buffer for intermediate results of one thread, kept from one use to the next.
pub struct Scratch {
    arena: Arena,
    piece: Option<Piece>,
}

impl Scratch {
    /// An empty buffer.
    pub const fn new() -> Self {
        Self {
            arena: Arena::new(HUGE, HUGE),
            piece: None,
        }
    }

    /// The first `len` values of the buffer, which grows if needed. Their content is arbitrary.
    pub fn take<T: Pod>(&mut self, len: usize) -> &mut [T] {
        if self.piece.as_ref().is_none_or(|p| p.len < len * size_of::<T>())
            && let Some(old) = self.piece.take()
        {
            self.arena.free(old);
            self.arena.release();
        }
        let piece = self.piece.get_or_insert_with(|| self.arena.take(len * size_of::<T>()));
        &mut piece.as_mut_slice()[..len]
    }

    /// All values of the buffer: at least those that were taken last.
    pub fn taken<T: Pod>(&self) -> &[T] {
        self.piece.as_ref().map_or(&[], Piece::as_slice)
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

/// Splits one buffer into consecutive slices.
pub(crate) struct Take<'a, T>(&'a mut [T]);

impl<'a, T: Pod> Take<'a, T> {
    pub fn new(memory: &'a mut Scratch, len: usize) -> Self {
        Self(memory.take(len))
    }

    pub fn next(&mut self, len: usize) -> &'a mut [T] {
        let (head, tail) = std::mem::take(&mut self.0).split_at_mut(len);
        self.0 = tail;
        head
    }
}

/// The addresses of the whole huge pages of a mapping.
fn usable(region: &MmapMut) -> Range<usize> {
    let address = region.as_ptr().expose_provenance();
    let start = address.next_multiple_of(HUGE);
    start..start + (address + region.len() - start) / HUGE * HUGE
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
            for (i, (bytes, give_back)) in requests.into_iter().enumerate() {
                let mut piece = arena.take(bytes);
                prop_assert!(piece.as_slice::<f32>().len() * 4 >= bytes);
                prop_assert_eq!(piece.start.as_ptr() as usize % 64, 0);
                piece.as_mut_slice::<u8>().fill(i as u8);
                held.push((piece, i as u8));
                if give_back < held.len() {
                    let (piece, mark) = held.swap_remove(give_back);
                    prop_assert!(piece.as_slice::<u8>().iter().all(|v| *v == mark));
                    arena.free(piece);
                }
            }
            for (piece, mark) in held {
                prop_assert!(piece.as_slice::<u8>().iter().all(|v| *v == mark));
                arena.free(piece);
            }
            prop_assert!(arena.regions.iter().all(Region::is_unused));
            arena.release();
            prop_assert!(arena.regions.is_empty());
        }
    }

    #[test]
    fn a_piece_outlives_its_arena_and_cannot_be_freed_elsewhere() {
        let (mut arena, mut other) = (Arena::new(64, HUGE), Arena::new(64, HUGE));
        let mut piece = arena.take(100);
        drop(arena);
        piece.as_mut_slice::<u8>().fill(7);
        assert!(piece.as_slice::<u8>().iter().all(|v| *v == 7));
        let taken = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| other.free(piece)));
        assert!(taken.is_err());
    }

    #[test]
    fn parts_of_a_piece_come_back_one_by_one() {
        let mut arena = Arena::new(64, HUGE);
        let piece = arena.take(1000);
        let (start, len) = (piece.start, piece.len);
        let (none, piece) = piece.split_at(0);
        assert!(none.is_none());
        let (first, rest) = piece.expect("all of it").split_at(128);
        let (second, none) = rest.expect("the rest").split_at(len - 128);
        assert!(none.is_none());
        let (mut first, mut second) = (first.expect("not empty"), second.expect("not empty"));
        assert!(first.start == start && first.len == 128 && second.len == len - 128);
        first.as_mut_slice::<u8>().fill(1);
        second.as_mut_slice::<u8>().fill(2);
        assert!(first.as_slice::<u8>().iter().all(|v| *v == 1));
        arena.free(second);
        arena.free(first);
        assert!(arena.regions.iter().all(Region::is_unused));
    }

    #[test]
    fn large_pieces_come_from_low_addresses_and_small_ones_from_high() {
        let mut arena = Arena::new(64, HUGE);
        let large = HUGE / LARGE + 64;
        let low = [large, large].map(|bytes| arena.take(bytes));
        let high = [640, 64].map(|bytes| arena.take(bytes));
        let begin = low[0].start.addr().get();
        assert_eq!(low[1].start.addr().get(), begin + low[0].len);
        let end = arena.regions[0].range.end;
        assert_eq!(high[0].start.addr().get(), end - 640);
        assert_eq!(high[1].start.addr().get(), end - 704);
        // The lowest free range that is large enough, not the first.
        let [first, second] = low;
        arena.free(first);
        let larger = arena.take(large + 64);
        assert_eq!(larger.start.addr().get(), second.start.addr().get() + second.len);
        let again = arena.take(large);
        assert_eq!(again.start.addr().get(), begin);
        for piece in [second, larger, again].into_iter().chain(high) {
            arena.free(piece);
        }
        assert!(arena.regions.iter().all(Region::is_unused));
    }

    #[test]
    fn earlier_regions_are_used_first_and_large_pieces_get_their_own() {
        let mut arena = Arena::new(64, 4 * HUGE);
        let first = arena.take(HUGE);
        let rest = arena.take(arena.regions[0].free.values().sum());
        let large = arena.take(3 * HUGE);
        // At most one huge page more than needed, for alignment.
        assert!(arena.regions[1].range.len() <= 4 * HUGE);
        let second = arena.take(2 * HUGE);
        assert_eq!(arena.regions.len(), 3);
        let place = first.start;
        for piece in [first, second] {
            arena.free(piece);
        }
        // The last region has room as well.
        let again = arena.take(HUGE / 2);
        assert_eq!(again.start, place);
        for piece in [again, large, rest] {
            arena.free(piece);
        }
        arena.release();
        assert!(arena.regions.is_empty());
    }
}
