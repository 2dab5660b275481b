//! Reused memory of images.
//!
//! The system maps new memory page by page, which takes about a quarter of the time of decoding the image.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A pool with a bounded number of free buffers.
#[derive(Debug)]
pub struct Buffers {
    free: Mutex<Vec<Vec<f32>>>,
    max_free: usize,
}

impl Buffers {
    /// Creates a pool that keeps at most `max_free` free buffers.
    pub fn new(max_free: usize) -> Self {
        Self {
            free: Mutex::new(Vec::new()),
            max_free,
        }
    }

    /// Returns a buffer of `len` arbitrary values.
    pub fn take(self: &Arc<Self>, len: usize) -> Pixels {
        let mut values = self.lock().pop().unwrap_or_default();
        values.resize(len, 0.0);
        Pixels {
            values,
            pool: Some(Arc::clone(self)),
        }
    }

    fn give_back(&self, values: Vec<f32>) {
        let mut free = self.lock();
        if free.len() < self.max_free && values.capacity() > 0 {
            free.push(values);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Vec<f32>>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Values of an image, `[3, size, size]`. Dropping them returns their memory to the [`Buffers`] that provided it.
#[derive(Debug)]
pub struct Pixels {
    values: Vec<f32>,
    pool: Option<Arc<Buffers>>,
}

impl From<Vec<f32>> for Pixels {
    /// Wraps values whose memory does not come from [`Buffers`]. Dropping them frees it.
    fn from(values: Vec<f32>) -> Self {
        Self { values, pool: None }
    }
}

impl Clone for Pixels {
    fn clone(&self) -> Self {
        Self::from(self.values.clone())
    }
}

impl PartialEq for Pixels {
    fn eq(&self, other: &Self) -> bool {
        self.values == other.values
    }
}

impl Deref for Pixels {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.values
    }
}

impl DerefMut for Pixels {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }
}

impl Drop for Pixels {
    fn drop(&mut self) {
        if let Some(pool) = &self.pool {
            pool.give_back(std::mem::take(&mut self.values));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_buffers_are_reused_at_the_requested_size() {
        let buffers = Arc::new(Buffers::new(1));
        let mut first = buffers.take(4);
        first.fill(7.0);
        let address = first.as_ptr();
        let second = buffers.take(9);
        drop(first);
        drop(second);
        let reused = buffers.take(3);
        assert_eq!((reused.as_ptr(), reused.len()), (address, 3));
        drop(reused);
        assert_eq!(*buffers.take(3), [7.0; 3]);
        // The pool kept only one buffer, so the next one is new.
        let _kept = buffers.take(3);
        assert_eq!(*buffers.take(2), [0.0; 2]);
    }
}
