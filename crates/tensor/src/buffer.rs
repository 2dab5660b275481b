//! Memory for tensors, recycled: a freed buffer is kept and handed out again, so that the steps after the first do not
//! fault in fresh pages.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use vlct_kernels::aligned::AlignedVec;

/// Free buffers by length.
struct Pool {
    free: BTreeMap<usize, Vec<AlignedVec<f32>>>,
}

static POOL: Mutex<Pool> = Mutex::new(Pool { free: BTreeMap::new() });

fn pool() -> MutexGuard<'static, Pool> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The length that a request is rounded up to: sixteen classes for every power of two, so that packed batches of slightly
/// different lengths share buffers and at most a sixteenth is wasted.
fn class(len: usize) -> usize {
    let step = (len.max(256).next_power_of_two() / 32).max(16);
    len.max(16).next_multiple_of(step)
}

/// A piece of memory that returns to the pool when dropped. The content of a fresh one is arbitrary.
pub struct Buffer {
    memory: Option<AlignedVec<f32>>,
}

impl Buffer {
    /// Memory for at least `len` values, of arbitrary content.
    pub fn new(len: usize) -> Self {
        let class = class(len);
        // A somewhat larger one will do: sizes change a little from step to step.
        let recycled = pool()
            .free
            .range_mut(class..=class + class / 4)
            .find_map(|(_, free)| free.pop());
        Self {
            memory: Some(recycled.unwrap_or_else(|| AlignedVec::zeroed(class))),
        }
    }

    /// The values, more of them than asked for.
    pub fn as_slice(&self) -> &[f32] {
        self.memory.as_ref().map_or(&[], AlignedVec::as_slice)
    }

    /// The values, to be changed.
    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        self.memory.as_mut().map_or(&mut [], AlignedVec::as_mut_slice)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            let mut pool = pool();
            pool.free.entry(memory.len()).or_default().push(memory);
        }
    }
}

/// Gives the unused memory back to the system: between phases of very different sizes, training and evaluation, say.
pub fn release_unused() {
    let mut pool = pool();
    pool.free.clear();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_waste_at_most_a_sixteenth() {
        for len in [1, 16, 17, 1000, 4097, 1 << 20, (1 << 20) + 1] {
            let class = class(len);
            assert!(class >= len && class.is_multiple_of(16), "{len} → {class}");
            assert!(len < 256 || (class - len) * 16 <= len + 256, "{len} → {class}");
        }
    }

    #[test]
    fn a_dropped_buffer_is_used_again() {
        let len = 777_777; // a class that no other test uses
        let first = Buffer::new(len);
        let address = first.as_slice().as_ptr();
        drop(first);
        assert_eq!(Buffer::new(len).as_slice().as_ptr(), address);
    }
}
