//! The memory of matrices on the CPU.

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
    /// f32, row-major.
    F32,
    /// bfloat16 in blocks ([`vlct_kernels::bf16::blocks`]): operands of products, and tensors saved for backward passes.
    Bf16,
}

/// The memory of a matrix.
pub(super) struct Memory {
    buffer: Buffer,
    format: Format,
    /// The values packed as the rhs of products, with the shape that they were packed for. Set at the first use, cleared when the values
    /// change.
    packed: OnceLock<([usize; 2], PackedRhs)>,
    /// The values as a bfloat16 operand, if the function that wrote them also rounded them. Cleared when the values change.
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

/// Makes an f32 matrix. `fill` must write all values.
pub(super) fn build(rows: usize, columns: usize, fill: impl FnOnce(&mut [f32])) -> Tensor {
    let mut buffer = POOL.allocate::<f32>(rows * columns);
    fill(&mut buffer.as_mut_slice()[..rows * columns]);
    Tensor::new(Memory::new(buffer, Format::F32), rows, columns)
}

/// Makes a bfloat16 matrix in blocks. `fill` must write all values, and zeros to the padding.
pub(super) fn build_blocks(rows: usize, columns: usize, fill: impl FnOnce(&mut [Bf16])) -> Tensor {
    let len = blocks::len(rows, columns);
    let mut buffer = POOL.allocate::<Bf16>(len);
    fill(&mut buffer.as_mut_slice()[..len]);
    Tensor::new(Memory::new(buffer, Format::Bf16), rows, columns)
}

/// Makes a matrix of zeros.
pub(super) fn zeros(rows: usize, columns: usize) -> Tensor {
    build(rows, columns, |out| out.fill(0.0))
}

/// Makes matrices with arbitrary content in one piece of memory.
pub(super) fn empty_together(shapes: &[[usize; 2]]) -> Vec<Tensor> {
    let lens: Vec<usize> = shapes.iter().map(|[rows, columns]| rows * columns).collect();
    let buffers = POOL.allocate_together::<f32>(&lens).into_iter().zip(shapes);
    let tensor = |(buffer, [rows, columns]): (Buffer, &[usize; 2])| {
        Tensor::new(Memory::new(buffer, Format::F32), *rows, *columns)
    };
    buffers.map(tensor).collect()
}

/// Makes a `[1, 1]` matrix.
pub(super) fn scalar(value: f32) -> Tensor {
    build(1, 1, |out| out[0] = value)
}

/// Returns unused memory to the operating system.
pub(super) fn release_unused() {
    POOL.release_unused();
}

/// Access to the memory of a tensor of this backend.
pub(super) trait CpuTensor {
    fn format(&self) -> Format;

    /// The values in row-major order.
    ///
    /// # Panics
    /// If the values are not f32.
    fn data(&self) -> &[f32];

    /// The values, mutable. Shared memory is copied first.
    ///
    /// # Panics
    /// If the values are not f32.
    fn data_mut(&mut self) -> &mut [f32];

    /// The matrix in blocks.
    ///
    /// # Panics
    /// If the matrix is not in blocks.
    fn blocks(&self) -> Blocks<'_>;

    /// The bfloat16 operand that [`CpuTensor::set_rounded`] stored, if any.
    fn rounded(&self) -> Option<&Tensor>;

    /// Stores the values as a bfloat16 operand.
    ///
    /// # Panics
    /// If the memory is shared.
    fn set_rounded(&mut self, rounded: Tensor);

    /// The f32 weight `[n, k]`, packed as the rhs of `x·wᵀ` at the first call; `None` if it was packed for another shape.
    fn packed(&self) -> Option<&PackedRhs>;
}

impl CpuTensor for Tensor {
    fn format(&self) -> Format {
        self.storage::<Memory>().format
    }

    fn data(&self) -> &[f32] {
        let memory = self.storage::<Memory>();
        assert_eq!(memory.format, Format::F32, "expected f32 values");
        &memory.buffer.as_slice()[..self.len()]
    }

    fn data_mut(&mut self) -> &mut [f32] {
        if self.is_shared() {
            *self = build(self.rows(), self.columns(), |out| out.copy_from_slice(self.data()));
        }
        let len = self.len();
        let memory = memory_mut(self);
        assert_eq!(memory.format, Format::F32, "expected f32 values");
        memory.rounded = None;
        memory.packed = OnceLock::new();
        &mut memory.buffer.as_mut_slice()[..len]
    }

    fn blocks(&self) -> Blocks<'_> {
        let memory = self.storage::<Memory>();
        assert_eq!(memory.format, Format::Bf16, "expected blocks");
        Blocks::new(memory.buffer.as_slice(), self.rows(), self.columns())
    }

    fn rounded(&self) -> Option<&Tensor> {
        let rounded = self.storage::<Memory>().rounded.as_ref()?;
        // A reshaped tensor has different blocks.
        (rounded.rows() == self.rows() && rounded.columns() == self.columns()).then_some(rounded)
    }

    fn set_rounded(&mut self, rounded: Tensor) {
        memory_mut(self).rounded = Some(rounded);
    }

    fn packed(&self) -> Option<&PackedRhs> {
        let (slot, shape) = (&self.storage::<Memory>().packed, [self.rows(), self.columns()]);
        let (packed_for, packed) = slot.get().unwrap_or_else(|| {
            // The weight is packed before `get_or_init` locks the slot. While this thread waits for the threads that pack, rayon may give
            // it another product with the same weight; under the lock, that product would wait forever.
            let packed = PackedRhs::pack_transposed(self.data(), shape[0], shape[1]);
            slot.get_or_init(|| (shape, packed))
        });
        (*packed_for == shape).then_some(packed)
    }
}

fn memory_mut(t: &mut Tensor) -> &mut Memory {
    match t.storage_mut() {
        Some(memory) => memory,
        None => panic!("write to shared memory"),
    }
}
