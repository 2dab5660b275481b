//! Reuse of pixel buffers within a thread.
//!
//! The system maps a fresh buffer of this size page by page, which takes a third of the time of rotating the image in it.

use std::cell::RefCell;

/// Buffers kept by a thread: for an image, and for the result of an operation on it.
const MOST: usize = 2;

/// Largest buffer that is kept, in bytes. Very large images are rare.
const LARGEST: usize = 16 << 20;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Returns a buffer of `len` bytes with arbitrary content.
pub(super) fn take(len: usize) -> Vec<u8> {
    let mut buffer = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
    if buffer.capacity() < len {
        // Growing the old buffer would copy its content.
        buffer = Vec::new();
    }
    buffer.resize(len, 0);
    buffer
}

/// Keeps a buffer for the next call of [`take`].
pub(super) fn give_back(buffer: Vec<u8>) {
    SPARE.with_borrow_mut(|spare| {
        if spare.len() < MOST && buffer.capacity() <= LARGEST {
            spare.push(buffer);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reuses_buffers_unless_they_are_large() {
        let first = take(1000);
        let place = first.as_ptr();
        give_back(first);
        let again = take(900);
        assert_eq!((again.as_ptr(), again.len()), (place, 900));
        give_back(vec![0; LARGEST + 1]);
        assert!(take(10).capacity() <= LARGEST);
    }
}
