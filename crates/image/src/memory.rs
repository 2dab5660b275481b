//! Memory of pixels that a thread uses again.
//!
//! Fresh memory of this size comes from the system page by page, which takes a third as long as rotating the picture that goes
//! into it.

use std::cell::RefCell;

/// Buffers kept by a thread: a picture, and what an operation makes of it.
const MOST: usize = 2;

/// Larger buffers are not kept: those of single very large pictures.
const LARGEST: usize = 16 << 20;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Memory for `len` values, whatever they are.
pub(super) fn take(len: usize) -> Vec<u8> {
    let mut buffer = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
    if buffer.capacity() < len {
        // Nothing of it is to be moved.
        buffer = Vec::new();
    }
    buffer.resize(len, 0);
    buffer
}

/// Takes memory that is no longer needed.
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
    fn memory_is_used_again_unless_it_is_large() {
        let first = take(1000);
        let place = first.as_ptr();
        give_back(first);
        let again = take(900);
        assert_eq!((again.as_ptr(), again.len()), (place, 900));
        give_back(vec![0; LARGEST + 1]);
        assert!(take(10).capacity() <= LARGEST);
    }
}
