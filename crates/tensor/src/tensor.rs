//! A row-major matrix of f32.

use crate::buffer::Buffer;
use std::borrow::Cow;
use std::sync::Arc;
pub use vlct_kernels::patches::Order;
use vlct_kernels::patches::extract;

/// A matrix `[rows, columns]`. Cloning shares the memory; values do not change while they are shared.
#[derive(Clone)]
pub struct Tensor {
    buffer: Arc<Buffer>,
    start: usize,
    rows: usize,
    columns: usize,
}

impl Tensor {
    /// A matrix whose content is arbitrary until `fill` has written all of it.
    pub fn build(rows: usize, columns: usize, fill: impl FnOnce(&mut [f32])) -> Self {
        let mut buffer = Buffer::new(rows * columns);
        fill(&mut buffer.as_mut_slice()[..rows * columns]);
        Self {
            buffer: Arc::new(buffer),
            start: 0,
            rows,
            columns,
        }
    }

    /// Zeros.
    pub fn zeros(rows: usize, columns: usize) -> Self {
        Self::build(rows, columns, |out| out.fill(0.0))
    }

    /// Values from host memory.
    ///
    /// # Panics
    /// If there are not `rows · columns` of them.
    pub fn from_slice(rows: usize, columns: usize, values: &[f32]) -> Self {
        Self::build(rows, columns, |out| out.copy_from_slice(values))
    }

    /// Patches of pictures `[3, size, size]` in host memory, one row each: the named ones of the first picture, then those
    /// of the second, …
    ///
    /// # Panics
    /// If a picture has another size or a patch lies outside it.
    pub fn patches(pictures: &[(&[f32], &[u32])], size: usize, side: usize, order: Order) -> Self {
        let (rows, width) = (pictures.iter().map(|(_, p)| p.len()).sum(), 3 * side * side);
        Self::build(rows, width, |mut out| {
            for (picture, patches) in pictures {
                let (head, rest) = out.split_at_mut(patches.len() * width);
                extract(picture, size, side, patches, order, head);
                out = rest;
            }
        })
    }

    /// A window into shared memory.
    pub(crate) fn window(buffer: &Arc<Buffer>, start: usize, rows: usize, columns: usize) -> Self {
        Self {
            buffer: Arc::clone(buffer),
            start,
            rows,
            columns,
        }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The values in host memory, row by row; a copy only where they lie elsewhere.
    pub fn to_host(&self) -> Cow<'_, [f32]> {
        Cow::Borrowed(self.data())
    }

    /// The only value of a `[1, 1]` matrix.
    ///
    /// # Panics
    /// If there are several.
    pub fn item(&self) -> f32 {
        assert!(self.rows * self.columns == 1, "not a scalar");
        self.data()[0]
    }

    /// The values, for this crate's operations.
    pub(crate) fn data(&self) -> &[f32] {
        &self.buffer.as_slice()[self.start..][..self.rows * self.columns]
    }

    /// The values, to be changed; the memory is copied first if it is shared.
    pub(crate) fn make_mut(&mut self) -> &mut [f32] {
        if Arc::get_mut(&mut self.buffer).is_none() {
            *self = Self::from_slice(self.rows, self.columns, self.data());
        }
        let (start, len) = (self.start, self.rows * self.columns);
        match Arc::get_mut(&mut self.buffer) {
            Some(buffer) => &mut buffer.as_mut_slice()[start..][..len],
            None => unreachable!("a fresh copy has one owner"),
        }
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tensor[{}, {}]", self.rows, self.columns)
    }
}
