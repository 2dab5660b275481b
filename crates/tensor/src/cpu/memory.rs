//! How the CPU keeps a matrix.

use super::buffer::{Buffer, Pool};
use crate::tensor::{Storage, Tensor};
use std::borrow::Cow;
use std::sync::OnceLock;
use vlct_kernels::bf16::blocks::{self, Blocks};
use vlct_kernels::bf16::{Bf16, PackedRhs};

static POOL: Pool = Pool::new();

/// Number format and memory order of a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// 32 bits, row-major.
    F32,
    /// bfloat16 in blocks ([`vlct_kernels::bf16::blocks`]): operands of products, and tensors saved for backward passes.
    Bf16,
}

/// The memory of a matrix.
pub(super) struct Memory {
    buffer: Buffer,
    format: Format,
    /// The values packed as the rhs of products, and the shape that they were packed for: filled at the first use, emptied when
    /// the values change.
    packed: OnceLock<([usize; 2], PackedRhs)>,
    /// The values as an operand in bfloat16, if the function that wrote them has also rounded them; dropped when the values change.
    rounded: Option<Tensor>,
}

impl Memory {
    fn new(buffer: Buffer, format: Format) -> Self {
        Self {
            buffer,
            format,
            packed: OnceLock::new(),
            rounded: None,
        }
    }
}

impl Storage for Memory {
    fn to_host(&self, rows: usize, columns: usize) -> Cow<'_, [f32]> {
        match self.format {
            Format::F32 => Cow::Borrowed(&self.buffer.as_slice()[..rows * columns]),
            Format::Bf16 => {
                let mut values = vec![0f32; rows * columns];
                blocks::to_f32(Blocks::new(self.buffer.as_slice(), rows, columns), &mut values);
                Cow::Owned(values)
            }
        }
    }

    fn value_bytes(&self) -> usize {
        match self.format {
            Format::F32 => 4,
            Format::Bf16 => 2,
        }
    }
}

/// An f32 matrix whose content is arbitrary until `fill` has written all of it.
pub(super) fn build(rows: usize, columns: usize, fill: impl FnOnce(&mut [f32])) -> Tensor {
    let mut buffer = POOL.take::<f32>(rows * columns);
    fill(&mut buffer.as_mut_slice()[..rows * columns]);
    Tensor::new(Memory::new(buffer, Format::F32), rows, columns)
}

/// A matrix in blocks whose content is arbitrary until `fill` has written all of it, including the zeros of the padding.
pub(super) fn build_blocks(rows: usize, columns: usize, fill: impl FnOnce(&mut [Bf16])) -> Tensor {
    let len = blocks::len(rows, columns);
    let mut buffer = POOL.take::<Bf16>(len);
    fill(&mut buffer.as_mut_slice()[..len]);
    Tensor::new(Memory::new(buffer, Format::Bf16), rows, columns)
}

/// A matrix of zeros.
pub(super) fn zeros(rows: usize, columns: usize) -> Tensor {
    build(rows, columns, |out| out.fill(0.0))
}

/// Matrices of zeros in one buffer.
pub(super) fn zeros_together(shapes: &[[usize; 2]]) -> Vec<Tensor> {
    let lens: Vec<usize> = shapes.iter().map(|[rows, columns]| rows * columns).collect();
    let zeroed = |(mut buffer, [rows, columns]): (Buffer, &[usize; 2])| {
        buffer.as_mut_slice().fill(0f32);
        Tensor::new(Memory::new(buffer, Format::F32), *rows, *columns)
    };
    POOL.split::<f32>(&lens).into_iter().zip(shapes).map(zeroed).collect()
}

/// A scalar.
pub(super) fn scalar(value: f32) -> Tensor {
    build(1, 1, |out| out[0] = value)
}

/// Gives unused memory back to the system.
pub(super) fn release_unused() {
    POOL.release_unused();
}

/// What the functions of this backend see of a tensor.
pub(super) trait Values {
    fn format(&self) -> Format;

    /// The values in row-major order.
    ///
    /// # Panics
    /// If they are not f32.
    fn data(&self) -> &[f32];

    /// The values, to be changed; the memory is copied first if it is shared.
    ///
    /// # Panics
    /// If they are not f32.
    fn data_mut(&mut self) -> &mut [f32];

    /// The matrix in blocks.
    ///
    /// # Panics
    /// If it is not in blocks.
    fn blocks(&self) -> Blocks<'_>;

    /// The values as an operand in bfloat16, if a function has stored them.
    fn rounded(&self) -> Option<&Tensor>;

    /// Adds the values as an operand in bfloat16.
    ///
    /// # Panics
    /// If the memory is shared.
    fn set_rounded(&mut self, rounded: Tensor);

    /// The f32 weight `[n, k]` packed as the rhs of `x·wᵀ`, once; `None` if it was packed for another shape.
    fn packed(&self) -> Option<&PackedRhs>;
}

impl Values for Tensor {
    fn format(&self) -> Format {
        self.storage::<Memory>().format
    }

    fn data(&self) -> &[f32] {
        let memory = self.storage::<Memory>();
        assert_eq!(memory.format, Format::F32, "an operation on f32 values");
        &memory.buffer.as_slice()[..self.len()]
    }

    fn data_mut(&mut self) -> &mut [f32] {
        if self.is_shared() {
            *self = build(self.rows(), self.columns(), |out| out.copy_from_slice(self.data()));
        }
        let len = self.len();
        let memory = owned(self);
        assert_eq!(memory.format, Format::F32, "an operation on f32 values");
        memory.rounded = None;
        memory.packed = OnceLock::new();
        &mut memory.buffer.as_mut_slice()[..len]
    }

    fn blocks(&self) -> Blocks<'_> {
        let memory = self.storage::<Memory>();
        assert_eq!(memory.format, Format::Bf16, "an operation on blocks");
        Blocks::new(memory.buffer.as_slice(), self.rows(), self.columns())
    }

    fn rounded(&self) -> Option<&Tensor> {
        let rounded = self.storage::<Memory>().rounded.as_ref()?;
        // Another shape of the same memory has other blocks.
        (rounded.rows() == self.rows() && rounded.columns() == self.columns()).then_some(rounded)
    }

    fn set_rounded(&mut self, rounded: Tensor) {
        owned(self).rounded = Some(rounded);
    }

    fn packed(&self) -> Option<&PackedRhs> {
        let (slot, shape) = (&self.storage::<Memory>().packed, [self.rows(), self.columns()]);
        let (packed_for, packed) = slot.get().unwrap_or_else(|| {
            // Packing before the slot is locked: during packing, rayon may run another product on this thread, which would then
            // wait for the slot that its own thread holds.
            let made = PackedRhs::pack_transposed(self.data(), shape[0], shape[1]);
            slot.get_or_init(|| (shape, made))
        });
        (*packed_for == shape).then_some(packed)
    }
}

fn owned(t: &mut Tensor) -> &mut Memory {
    match t.storage_mut() {
        Some(memory) => memory,
        None => panic!("shared memory would be changed"),
    }
}
