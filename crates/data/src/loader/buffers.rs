//! Picture memory that is used again.
//!
//! Fresh memory of this size comes from the system page by page, which takes about a quarter of the time that it takes to
//! decode the pictures that go into it.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Buffers that wait to be used again: a bounded number.
#[derive(Debug)]
pub(super) struct Buffers {
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

    /// A buffer of `len` numbers, whatever they are.
    pub fn take(&self, len: usize) -> Vec<f32> {
        let mut buffer = self.lock().pop().unwrap_or_default();
        buffer.resize(len, 0.0);
        buffer
    }

    /// Takes a buffer that is no longer needed.
    pub fn give_back(&self, buffer: Vec<f32>) {
        let mut waiting = self.lock();
        if waiting.len() < self.most && buffer.capacity() > 0 {
            waiting.push(buffer);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Vec<f32>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_in_the_size_that_is_asked_for() {
        let buffers = Buffers::new(1);
        let mut first = buffers.take(4);
        first.fill(7.0);
        let place = first.as_ptr();
        buffers.give_back(first);
        buffers.give_back(vec![1.0; 9]);
        let again = buffers.take(3);
        assert_eq!((again.as_ptr(), again.len()), (place, 3));
        buffers.give_back(again);
        assert_eq!(buffers.take(3), [7.0; 3]);
        assert_eq!(buffers.take(2), [0.0; 2], "only one was kept");
    }
}
