//! Memory for tensors, recycled: a freed buffer is handed out again, so that the steps after the first do not fault in
//! fresh pages.

use bytemuck::Pod;
use std::sync::{Mutex, MutexGuard, PoisonError};
pub use vlct_kernels::memory::OutOfMemory;
use vlct_kernels::memory::{Arena, Piece};

/// Bytes up to which a buffer counts as small. Small ones have regions of their own, so that they do not cut large ones up.
const SMALL: usize = 64 << 10;

/// Small buffers, then large ones. Regions for these are so large that the largest gradients find room in what the forward
/// pass has left.
static ARENAS: [Mutex<Arena>; 2] = [
    Mutex::new(Arena::new(64, 2 << 20)),
    Mutex::new(Arena::new(4 << 10, 1 << 30)),
];

fn arena(large: bool) -> MutexGuard<'static, Arena> {
    ARENAS[large as usize].lock().unwrap_or_else(PoisonError::into_inner)
}

/// A piece of memory that can be used again when dropped. The content of a fresh one is arbitrary.
pub struct Buffer {
    piece: Option<Piece>,
    large: bool,
}

impl Buffer {
    /// Memory for at least `len` values, of arbitrary content.
    pub fn new<T: Pod>(len: usize) -> Self {
        let bytes = len.saturating_mul(size_of::<T>());
        let large = bytes > SMALL;
        Self {
            piece: Some(arena(large).take(bytes)),
            large,
        }
    }

    /// The values, perhaps more of them than asked for.
    pub fn as_slice<T: Pod>(&self) -> &[T] {
        self.piece.as_ref().map_or(&[], Piece::as_slice)
    }

    /// The values, to be changed.
    pub fn as_mut_slice<T: Pod>(&mut self) -> &mut [T] {
        self.piece.as_mut().map_or(&mut [], Piece::as_mut_slice)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(piece) = self.piece.take() {
            arena(self.large).free(piece);
        }
    }
}

/// Gives the unused memory back to the system: between phases of very different sizes, training and evaluation, say.
pub fn release_unused() {
    for large in [false, true] {
        arena(large).release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_as_long_as_asked_for_and_apart() {
        let mut buffers: Vec<Buffer> = [1, 100, 16_384, 16_385, 1 << 20].map(Buffer::new::<f32>).into();
        for (i, buffer) in buffers.iter_mut().enumerate() {
            buffer.as_mut_slice::<f32>().fill(i as f32);
        }
        for (i, (buffer, len)) in buffers.iter().zip([1, 100, 16_384, 16_385, 1 << 20]).enumerate() {
            let values = buffer.as_slice::<f32>();
            assert!(values.len() >= len && values.iter().all(|v| *v == i as f32));
        }
    }
}
