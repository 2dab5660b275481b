//! Memory in large regions of the system, handed out in pieces and joined again when they come back.
//!
//! A step needs the same memory as the one before, in pieces of a few sizes whose order changes little: pieces that come
//! back are joined with their free neighbours, so that what the forward pass kept can become gradients. Regions ask for
//! huge pages, which spare most of the address translation.

use bytemuck::Pod;
use memmap2::MmapMut;
use std::collections::BTreeMap;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

/// What [`Arena::take`] panics with when the system has no more memory: the one panic that is no bug, for programs to catch.
#[derive(Clone, Copy, Debug)]
pub struct OutOfMemory {
    /// How much more was needed.
    pub bytes: usize,
}

/// What part of a region makes a piece large: 1 of so many. Found by running the pieces of recorded steps through several
/// rules.
const LARGE: usize = 96;

/// A huge page of the processors this runs on.
const HUGE: usize = 2 << 20;

/// Memory of one region, or part of it. Its content is arbitrary.
///
/// Whoever holds one may use its memory and no other; it goes back to its arena by [`Arena::free`]. The region stays mapped as
/// long as there is a piece of it.
#[derive(Debug)]
pub struct Piece {
    start: NonNull<u8>,
    len: usize,
    region: Arc<MmapMut>,
}

// SAFETY: a piece is exclusive memory, and what it keeps of the mapping is its life.
unsafe impl Send for Piece {}
// SAFETY: shared use is reading.
unsafe impl Sync for Piece {}

impl Piece {
    /// The values.
    pub fn as_slice<T: Pod>(&self) -> &[T] {
        // SAFETY: initialised memory of this length (regions begin as zeros), 64-byte aligned, any bits are a `T`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast(), self.len / size_of::<T>()) }
    }

    /// The values, to be changed.
    pub fn as_mut_slice<T: Pod>(&mut self) -> &mut [T] {
        // SAFETY: as above, and the piece is exclusive.
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

/// Regions and what is free in them.
///
/// Regions mapped first are used first, so that the later ones stay untouched as long as possible: pages cost memory once
/// they are written, whether or not they are free again. Within a region, large pieces come from the lowest free place and
/// small ones from the upper end of the highest, so that small ones that are kept do not lie where large ones are needed.
pub struct Arena {
    granularity: usize,
    region: usize,
    /// In the order of mapping.
    regions: Vec<Region>,
}

/// Memory of the system, and what of it is free.
struct Region {
    map: Arc<MmapMut>,
    /// Where the part of it begins and ends that pieces are cut from.
    range: Range<usize>,
    /// Address of each free piece, and its length.
    free: BTreeMap<usize, usize>,
}

impl Region {
    /// Takes `len` bytes from the lowest free piece that has them, or from the upper end of the highest. Gives the address.
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
    /// An empty one. Pieces are multiples of `granularity` bytes, itself a multiple of 64. Regions have `region` bytes; a piece of
    /// more than half of that has one of its own, since it would leave a rest that is of little use.
    pub const fn new(granularity: usize, region: usize) -> Self {
        assert!(granularity > 0 && granularity.is_multiple_of(64) && region > 0);
        Self {
            granularity,
            region,
            regions: Vec::new(),
        }
    }

    /// A piece of at least `bytes`, of the first region that has one, or of a new one.
    ///
    /// # Panics
    /// With [`OutOfMemory`], if the system has no more to give.
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

    /// Takes a piece of this arena back.
    ///
    /// # Panics
    /// If it is another arena's.
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

    /// Gives regions of which nothing is in use back to the system.
    pub fn release(&mut self) {
        self.regions.retain(|region| !region.is_unused());
    }

    fn grow(&mut self, len: usize) {
        let map = |len: usize| MmapMut::map_anon(len.next_multiple_of(HUGE) + HUGE);
        let wanted = if len > self.region / 2 { len } else { self.region };
        // Pages cost memory only once they are used; where even addresses are scarce, take as little as will do.
        let map = match map(wanted).or_else(|_| map(len)) {
            Ok(map) => map,
            Err(_) => std::panic::panic_any(OutOfMemory { bytes: len }),
        };
        #[cfg(target_os = "linux")]
        // Where huge pages are switched off, small ones do.
        map.advise(memmap2::Advice::HugePage).ok();
        let range = usable(&map);
        self.regions.push(Region {
            map: Arc::new(map),
            free: BTreeMap::from([(range.start, range.len())]),
            range,
        });
    }
}

/// Memory of one thread for intermediate results, kept from one use to the next.
pub struct Scratch {
    arena: Arena,
    piece: Option<Piece>,
}

impl Scratch {
    /// None yet.
    pub const fn new() -> Self {
        Self {
            arena: Arena::new(HUGE, HUGE),
            piece: None,
        }
    }

    /// Memory for `len` values, of arbitrary content.
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

    /// What was taken last, perhaps with more behind it.
    pub fn taken<T: Pod>(&self) -> &[T] {
        self.piece.as_ref().map_or(&[], Piece::as_slice)
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

/// Pieces of one memory, one after the other.
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

/// The part of a mapping that begins and ends at huge pages.
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
        fn pieces_do_not_overlap_and_are_joined_again(requests in proptest::collection::vec((1usize..300_000, 0usize..8), 1..200)) {
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
    fn a_piece_outlives_its_arena_and_is_not_taken_by_another() {
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
    fn large_pieces_lie_low_and_small_ones_high() {
        let mut arena = Arena::new(64, HUGE);
        let large = HUGE / LARGE + 64;
        let low = [large, large].map(|bytes| arena.take(bytes));
        let high = [640, 64].map(|bytes| arena.take(bytes));
        let begin = low[0].start.addr().get();
        assert_eq!(low[1].start.addr().get(), begin + low[0].len);
        let end = arena.regions[0].range.end;
        assert_eq!(high[0].start.addr().get(), end - 640);
        assert_eq!(high[1].start.addr().get(), end - 704);
        // The lowest free place that is large enough, not the first.
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
    fn earlier_regions_come_first_and_large_pieces_have_their_own() {
        let mut arena = Arena::new(64, 4 * HUGE);
        let first = arena.take(HUGE);
        let rest = arena.take(arena.regions[0].free.values().sum());
        let large = arena.take(3 * HUGE);
        // At most a huge page more than it needs, for the sake of alignment.
        assert!(arena.regions[1].range.len() <= 4 * HUGE);
        let second = arena.take(2 * HUGE);
        assert_eq!(arena.regions.len(), 3);
        let place = first.start;
        for piece in [first, second] {
            arena.free(piece);
        }
        // There is room in the last region too.
        let again = arena.take(HUGE / 2);
        assert_eq!(again.start, place);
        for piece in [again, large, rest] {
            arena.free(piece);
        }
        arena.release();
        assert!(arena.regions.is_empty());
    }
}
