//! Recycled memory for tensors. Freed buffers are used again, so that only the first step of training causes page faults.

use bytemuck::Pod;
use std::sync::{Mutex, MutexGuard, PoisonError};
use vlct_kernels::memory::{Arena, Piece};

/// Largest size of a small buffer in bytes. Small buffers have separate regions, so that they do not fragment the regions of large buffers.
const MAX_SMALL: usize = 64 << 10;

/// Alignment of the buffers that [`Pool::allocate_together`] makes, in bytes: a cache line.
const ALIGNMENT: usize = 64;

/// The memory of a device. Regions for large buffers have 1 GiB, so that the largest gradients fit into memory that later layers have
/// freed.
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

    /// Allocates a buffer for at least `len` values, with arbitrary content.
    pub fn allocate<T: Pod>(&'static self, len: usize) -> Buffer {
        let bytes = len.saturating_mul(size_of::<T>());
        let arena = if bytes > MAX_SMALL { &self.large } else { &self.small };
        Buffer {
            piece: Some(lock(arena).allocate(bytes)),
            arena,
        }
    }

    /// Allocates one piece of memory and splits it into a buffer for each of the given numbers of values.
    pub fn allocate_together<T: Pod>(&'static self, lens: &[usize]) -> Vec<Buffer> {
        let bytes = |len: &usize| (len * size_of::<T>()).max(1).next_multiple_of(ALIGNMENT);
        let mut rest = self.allocate::<u8>(lens.iter().map(bytes).sum());
        lens.iter().map(|len| rest.split_off(bytes(len))).collect()
    }

    /// Returns unused regions to the operating system.
    pub fn release_unused(&self) {
        lock(&self.small).release();
        lock(&self.large).release();
    }
}

fn lock(arena: &Mutex<Arena>) -> MutexGuard<'_, Arena> {
    arena.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A buffer that returns its memory to the pool when it is dropped. The content of a new buffer is arbitrary.
pub(super) struct Buffer {
    piece: Option<Piece>,
    arena: &'static Mutex<Arena>,
}

impl Buffer {
    /// The values, at least as many as requested.
    pub fn as_slice<T: Pod>(&self) -> &[T] {
        self.piece.as_ref().map_or(&[], Piece::as_slice)
    }

    /// The values, mutable.
    pub fn as_mut_slice<T: Pod>(&mut self) -> &mut [T] {
        self.piece.as_mut().map_or(&mut [], Piece::as_mut_slice)
    }

    /// Splits off the first `bytes` bytes as a separate buffer.
    fn split_off(&mut self, bytes: usize) -> Self {
        let (first, rest) = match self.piece.take() {
            Some(piece) => piece.split_at(bytes),
            None => (None, None),
        };
        self.piece = rest;
        Self {
            piece: first,
            arena: self.arena,
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(piece) = self.piece.take() {
            lock(self.arena).free(piece);
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
        assert_disjoint(lens.map(|len| POOL.allocate::<f32>(len)).into(), &lens);
    }

    #[test]
    fn parts_of_a_buffer_are_large_enough_and_disjoint() {
        let lens = [1, 0, 15, 16, 17, 40_000];
        assert_disjoint(POOL.allocate_together::<f32>(&lens), &lens);
        assert!(POOL.allocate_together::<f32>(&[]).is_empty());
    }
}
