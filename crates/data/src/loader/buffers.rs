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

    /// Returns a buffer `[3, height, width]` of arbitrary values.
    pub fn take(self: &Arc<Self>, [height, width]: [usize; 2]) -> Pixels {
        let mut values = self.lock().pop().unwrap_or_default();
        values.resize(3 * height * width, 0.0);
        Pixels {
            values,
            height,
            width,
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

/// Values of an image, `[3, height, width]`. Dropping them returns their memory to the [`Buffers`] that provided it.
#[derive(Debug)]
pub struct Pixels {
    values: Vec<f32>,
    height: usize,
    width: usize,
    pool: Option<Arc<Buffers>>,
}

impl Pixels {
    /// Wraps values whose memory does not come from [`Buffers`]. Dropping them frees it.
    ///
    /// # Panics
    /// Panics if the number of values is not `3 · height · width`.
    pub fn new(values: Vec<f32>, [height, width]: [usize; 2]) -> Self {
        assert_eq!(values.len(), 3 * height * width, "number of values of an image");
        Self {
            values,
            height,
            width,
            pool: None,
        }
    }

    /// Wraps the values of a square image; see [`Pixels::new`].
    ///
    /// # Panics
    /// Panics if the number of values is not three times a square.
    pub fn square(values: Vec<f32>) -> Self {
        let side = (values.len() / 3).isqrt();
        Self::new(values, [side, side])
    }

    /// Allocates an image of zeros, whose memory does not come from [`Buffers`].
    pub fn zeros([height, width]: [usize; 2]) -> Self {
        Self::new(vec![0.0; 3 * height * width], [height, width])
    }

    /// Returns height and width.
    pub fn size(&self) -> [usize; 2] {
        [self.height, self.width]
    }
}

impl Clone for Pixels {
    fn clone(&self) -> Self {
        Self::new(self.values.clone(), self.size())
    }
}

impl PartialEq for Pixels {
    fn eq(&self, other: &Self) -> bool {
        self.size() == other.size() && self.values == other.values
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
        let mut first = buffers.take([1, 2]);
        first.fill(7.0);
        let address = first.as_ptr();
        let second = buffers.take([1, 3]);
        drop(first);
        drop(second);
        let reused = buffers.take([1, 1]);
        assert_eq!((reused.as_ptr(), reused.len(), reused.size()), (address, 3, [1, 1]));
        drop(reused);
        assert_eq!(*buffers.take([1, 1]), [7.0; 3]);
        // The pool kept only one buffer, so the next one is new.
        let _kept = buffers.take([1, 1]);
        assert_eq!(*buffers.take([2, 1]), [0.0; 6]);
    }
}
