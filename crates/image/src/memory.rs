//! Reuse of pixel buffers within a thread.
//!
//! If a rotation allocates a new buffer for its result, page faults take a third of the time of the rotation.

use std::cell::RefCell;

/// Maximum number of buffers that a thread keeps: one for an image as decoded, one for its part as resized, and one for an operation on
/// either.
const MAX_BUFFERS: usize = 3;

/// Maximum size of a buffer that is kept, in bytes. Very large images are rare.
const MAX_BYTES: usize = 16 << 20;

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
        if spare.len() < MAX_BUFFERS && buffer.capacity() <= MAX_BYTES {
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
        let address = first.as_ptr();
        give_back(first);
        let again = take(900);
        assert_eq!((again.as_ptr(), again.len()), (address, 900));
        give_back(vec![0; MAX_BYTES + 1]);
        assert!(take(10).capacity() <= MAX_BYTES);
    }
}
