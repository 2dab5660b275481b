//! Image memory that is used again.
//!
//! Fresh memory of this size comes from the system page by page, which takes about a quarter of the time that it takes to
//! decode the images that go into it.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A bounded number of buffers that wait to be used again.
#[derive(Debug)]
pub struct Buffers {
    waiting: Mutex<Vec<Vec<f32>>>,
    most: usize,
}

impl Buffers {
    /// Keeps at most `most` buffers.
    pub fn new(most: usize) -> Self {
        Self {
            waiting: Mutex::new(Vec::new()),
            most,
        }
    }

    /// A buffer of `len` values, which are arbitrary.
    pub fn take(self: &Arc<Self>, len: usize) -> Pixels {
        let mut values = self.lock().pop().unwrap_or_default();
        values.resize(len, 0.0);
        Pixels {
            values,
            home: Some(Arc::clone(self)),
        }
    }

    fn give_back(&self, values: Vec<f32>) {
        let mut waiting = self.lock();
        if waiting.len() < self.most && values.capacity() > 0 {
            waiting.push(values);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Vec<f32>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Values of an image, `[3, size, size]`. When dropped, their memory returns to the [`Buffers`] that it was taken from.
#[derive(Debug)]
pub struct Pixels {
    values: Vec<f32>,
    home: Option<Arc<Buffers>>,
}

impl From<Vec<f32>> for Pixels {
    /// Values whose memory is freed when they are dropped.
    fn from(values: Vec<f32>) -> Self {
        Self { values, home: None }
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
        if let Some(home) = &self.home {
            home.give_back(std::mem::take(&mut self.values));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_buffers_are_used_again_at_the_size_that_is_asked_for() {
        let buffers = Arc::new(Buffers::new(1));
        let mut first = buffers.take(4);
        first.fill(7.0);
        let place = first.as_ptr();
        let second = buffers.take(9);
        drop(first);
        drop(second);
        let again = buffers.take(3);
        assert_eq!((again.as_ptr(), again.len()), (place, 3));
        drop(again);
        assert_eq!(*buffers.take(3), [7.0; 3]);
        let _only_one_was_kept = buffers.take(3);
        assert_eq!(*buffers.take(2), [0.0; 2]);
    }
}
