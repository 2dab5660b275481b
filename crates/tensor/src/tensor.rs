//! Matrices in f32 or bfloat16.

use crate::buffer::Buffer;
use std::borrow::Cow;
use std::sync::{Arc, OnceLock};
use vlct_kernels::bf16::blocks::{self, Blocks};
use vlct_kernels::bf16::{Bf16, PackedRhs};
pub use vlct_kernels::patches::Order;
use vlct_kernels::patches::extract;

/// The number format and memory order of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// 32 bits, row-major.
    F32,
    /// bfloat16 in blocks ([`vlct_kernels::bf16::blocks`]): operands of products, and tensors saved for backward passes.
    Bf16,
}

/// A weight packed for products, filled at its first use.
pub(crate) type PackedSlot = Arc<OnceLock<PackedRhs>>;

/// A matrix `[rows, columns]`. Cloning shares the memory; values do not change while they are shared.
#[derive(Clone)]
pub struct Tensor {
    buffer: Arc<Buffer>,
    start: usize,
    rows: usize,
    columns: usize,
    format: Format,
    packed: Option<PackedSlot>,
    /// The values as an operand of products, if the operation that wrote them has also rounded them.
    rounded: Option<Arc<Tensor>>,
}

impl Tensor {
    /// A matrix whose content is arbitrary until `fill` has written all of it.
    pub fn build(rows: usize, columns: usize, fill: impl FnOnce(&mut [f32])) -> Self {
        let mut buffer = Buffer::new::<f32>(rows * columns);
        fill(&mut buffer.as_mut_slice()[..rows * columns]);
        Self {
            buffer: Arc::new(buffer),
            start: 0,
            rows,
            columns,
            format: Format::F32,
            packed: None,
            rounded: None,
        }
    }

    /// A matrix in blocks, whose content is arbitrary until `fill` has written all of it, including the zeros of the padding.
    pub(crate) fn build_blocks(rows: usize, columns: usize, fill: impl FnOnce(&mut [Bf16])) -> Self {
        let len = blocks::len(rows, columns);
        let mut buffer = Buffer::new::<Bf16>(len);
        fill(&mut buffer.as_mut_slice()[..len]);
        Self {
            buffer: Arc::new(buffer),
            start: 0,
            rows,
            columns,
            format: Format::Bf16,
            packed: None,
            rounded: None,
        }
    }

    /// A matrix of zeros.
    pub fn zeros(rows: usize, columns: usize) -> Self {
        Self::build(rows, columns, |out| out.fill(0.0))
    }

    /// Copies row-major values from host memory.
    ///
    /// # Panics
    /// If there are not `rows · columns` of them.
    pub fn from_slice(rows: usize, columns: usize, values: &[f32]) -> Self {
        Self::build(rows, columns, |out| out.copy_from_slice(values))
    }

    /// Patches of images `[3, size, size]` in host memory, one row each: the listed patches of the first image, then those of the second,
    /// and so on.
    ///
    /// # Panics
    /// If an image has another size or a patch lies outside it.
    pub fn patches(images: &[(&[f32], &[u32])], size: usize, side: usize, order: Order) -> Self {
        let (rows, width) = (images.iter().map(|(_, p)| p.len()).sum(), 3 * side * side);
        let _span = crate::profile::pass("cut patches", (2 * rows * width * 4) as f64);
        Self::build(rows, width, |mut out| {
            for (image, patches) in images {
                let (head, rest) = out.split_at_mut(patches.len() * width);
                extract(image, size, side, patches, order, head);
                out = rest;
            }
        })
    }

    /// A row-major f32 matrix in shared memory.
    pub(crate) fn window(buffer: &Arc<Buffer>, start: usize, rows: usize, columns: usize) -> Self {
        Self {
            buffer: Arc::clone(buffer),
            start,
            rows,
            columns,
            format: Format::F32,
            packed: None,
            rounded: None,
        }
    }

    /// The same f32 values, row by row, under another shape.
    ///
    /// # Panics
    /// If their number differs, or they are not f32.
    pub(crate) fn reshaped(&self, rows: usize, columns: usize) -> Self {
        assert_eq!(self.data().len(), rows * columns, "another number of values");
        Self::window(&self.buffer, self.start, rows, columns)
    }

    /// The same matrix with a slot for its packed form.
    pub(crate) fn with_packed(mut self, slot: PackedSlot) -> Self {
        self.packed = Some(slot);
        self
    }

    /// The slot for the packed form, if the tensor has one.
    pub(crate) fn packed(&self) -> Option<&PackedSlot> {
        self.packed.as_ref()
    }

    /// The same matrix together with its values as an operand, which are dropped when the matrix is changed.
    pub(crate) fn with_rounded(mut self, rounded: Tensor) -> Self {
        self.rounded = Some(Arc::new(rounded));
        self
    }

    /// The values as an operand, if an operation has stored them.
    pub(crate) fn rounded(&self) -> Option<&Tensor> {
        self.rounded.as_deref()
    }

    /// Number format and memory order.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The values in host memory, row-major; borrowed if they are stored so.
    pub fn to_host(&self) -> Cow<'_, [f32]> {
        match self.format {
            Format::F32 => Cow::Borrowed(self.data()),
            Format::Bf16 => {
                let mut values = vec![0f32; self.rows * self.columns];
                blocks::to_f32(self.blocks(), &mut values);
                Cow::Owned(values)
            }
        }
    }

    /// The only value of a `[1, 1]` matrix.
    ///
    /// # Panics
    /// If there are several.
    pub fn item(&self) -> f32 {
        assert!(self.rows * self.columns == 1, "not a scalar");
        self.data()[0]
    }

    /// The row-major f32 values.
    ///
    /// # Panics
    /// If they are not f32.
    pub(crate) fn data(&self) -> &[f32] {
        assert_eq!(self.format, Format::F32, "an operation on f32 values");
        &self.buffer.as_slice()[self.start..][..self.rows * self.columns]
    }

    /// The matrix in blocks.
    ///
    /// # Panics
    /// If it is not in blocks.
    pub(crate) fn blocks(&self) -> Blocks<'_> {
        assert_eq!(self.format, Format::Bf16, "an operation on blocks");
        Blocks::new(self.buffer.as_slice(), self.rows, self.columns)
    }

    /// The mutable row-major f32 values; the memory is copied first if it is shared.
    ///
    /// # Panics
    /// If they are not f32.
    pub(crate) fn make_mut(&mut self) -> &mut [f32] {
        assert_eq!(self.format, Format::F32, "an operation on f32 values");
        self.rounded = None;
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

/// Bytes of the values of a tensor.
pub(crate) fn bytes(t: &Tensor) -> f64 {
    let size = match t.format() {
        Format::F32 => 4,
        Format::Bf16 => 2,
    };
    (t.rows() * t.columns() * size) as f64
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tensor[{}, {}]", self.rows, self.columns)
    }
}
