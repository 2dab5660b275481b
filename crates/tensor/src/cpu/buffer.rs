//! Memory for tensors, recycled: a freed buffer is handed out again, so that the steps after the first do not fault in
//! fresh pages.

use bytemuck::Pod;
use std::sync::{Mutex, MutexGuard, PoisonError};
use vlct_kernels::memory::{Arena, Piece};

/// Bytes up to which a buffer counts as small. Small ones have regions of their own, so that they do not cut large ones up.
const SMALL: usize = 64 << 10;

/// Bytes to which buffers made by [`Pool::split`] are aligned: a cache line.
const ALIGNMENT: usize = 64;

/// The memory of a device. Regions for large buffers are so large that the largest gradients find room in what the forward pass
/// has left.
pub(super) struct Pool {
    small: Mutex<Arena>,
    large: Mutex<Arena>,
}

impl Pool {
    pub const fn new() -> Self {
        Self {
            small: Mutex::new(Arena::new(64, 2 << 20)),
            large: Mutex::new(Arena::new(4 << 10, 1 << 30)),
        }
    }

    /// A buffer for at least `len` values, of arbitrary content.
    pub fn take<T: Pod>(&'static self, len: usize) -> Buffer {
        let bytes = len.saturating_mul(size_of::<T>());
        let home = if bytes > SMALL { &self.large } else { &self.small };
        Buffer {
            piece: Some(lock(home).take(bytes)),
            home,
        }
    }

    /// Consecutive buffers for the given numbers of values, out of one.
    pub fn split<T: Pod>(&'static self, lens: &[usize]) -> Vec<Buffer> {
        let bytes = |len: &usize| (len * size_of::<T>()).max(1).next_multiple_of(ALIGNMENT);
        let mut rest = self.take::<u8>(lens.iter().map(bytes).sum());
        lens.iter().map(|len| rest.split_off(bytes(len))).collect()
    }

    /// Gives regions of which nothing is in use back to the system.
    pub fn release_unused(&self) {
        lock(&self.small).release();
        lock(&self.large).release();
    }
}

fn lock(arena: &Mutex<Arena>) -> MutexGuard<'_, Arena> {
    arena.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Memory that can be used again when dropped. The content of a fresh buffer is arbitrary.
pub(super) struct Buffer {
    piece: Option<Piece>,
    home: &'static Mutex<Arena>,
}

impl Buffer {
    /// The values; there may be more of them than were asked for.
    pub fn as_slice<T: Pod>(&self) -> &[T] {
        self.piece.as_ref().map_or(&[], Piece::as_slice)
    }

    /// The values, to be changed.
    pub fn as_mut_slice<T: Pod>(&mut self) -> &mut [T] {
        self.piece.as_mut().map_or(&mut [], Piece::as_mut_slice)
    }

    /// Takes the first `bytes` away, as a buffer of their own.
    fn split_off(&mut self, bytes: usize) -> Self {
        let (first, rest) = match self.piece.take() {
            Some(piece) => piece.split_at(bytes),
            None => (None, None),
        };
        self.piece = rest;
        Self {
            piece: first,
            home: self.home,
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(piece) = self.piece.take() {
            lock(self.home).free(piece);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static POOL: Pool = Pool::new();

    fn assert_disjoint(mut buffers: Vec<Buffer>, lens: &[usize]) {
        for (i, buffer) in buffers.iter_mut().enumerate() {
            buffer.as_mut_slice::<f32>().fill(i as f32);
        }
        assert_eq!(buffers.len(), lens.len());
        for (i, (buffer, len)) in buffers.iter().zip(lens).enumerate() {
            let values = buffer.as_slice::<f32>();
            assert!(values.len() >= *len && values.iter().all(|v| *v == i as f32));
            assert_eq!(values.as_ptr() as usize % ALIGNMENT, 0);
        }
    }

    #[test]
    fn buffers_are_large_enough_and_disjoint() {
        let lens = [1, 100, 16_384, 16_385, 1 << 20];
        assert_disjoint(lens.map(|len| POOL.take::<f32>(len)).into(), &lens);
    }

    #[test]
    fn parts_of_a_buffer_are_large_enough_and_disjoint() {
        let lens = [1, 0, 15, 16, 17, 40_000];
        assert_disjoint(POOL.split::<f32>(&lens), &lens);
        assert!(POOL.split::<f32>(&[]).is_empty());
    }
}
