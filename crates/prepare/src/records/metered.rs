//! A reader that ends a row which is too long.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

/// Bytes that may still be read.
#[derive(Clone, Debug)]
pub(super) struct Allowance(Rc<Cell<usize>>);

impl Allowance {
    /// Allows this many bytes from now on.
    pub fn renew(&self, bytes: usize) {
        self.0.set(bytes);
    }
}

/// Reads until the allowance is used up; then every read is an error.
#[derive(Debug)]
pub(super) struct Metered<R> {
    inner: R,
    allowance: Allowance,
}

impl<R: Read> Metered<R> {
    /// A reader that begins with nothing allowed, and what allows more.
    pub fn new(inner: R) -> (Self, Allowance) {
        let allowance = Allowance(Rc::new(Cell::new(0)));
        let reader = Self {
            inner,
            allowance: allowance.clone(),
        };
        (reader, allowance)
    }
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.allowance.0.get();
        if left == 0 && !buffer.is_empty() {
            return Err(io::Error::other("a row is too long"));
        }
        let length = buffer.len().min(left);
        let read = self.inner.read(&mut buffer[..length])?;
        self.allowance.renew(left - read);
        Ok(read)
    }
}
