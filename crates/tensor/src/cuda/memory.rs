//! The memory of matrices on a CUDA device.

use super::complete;
use crate::tensor::{Storage, Tensor};
use std::borrow::Cow;
use std::sync::OnceLock;
use vlct_cuda::context::{Buffer, Context};
use vlct_cuda::driver::Element;
use vlct_cuda::elementwise;
use vlct_cuda::matrix::{Matrix, MatrixMut};

/// The memory of a matrix, row-major.
pub(super) struct Memory {
    context: Context,
    buffer: Buffer,
    element: Element,
    /// The f32 values, rounded to bfloat16: an operand of products. Set by the function that wrote the values or at the first use, cleared
    /// when the values change.
    rounded: OnceLock<Tensor>,
}

impl Storage for Memory {
    fn to_host(&self, rows: usize, columns: usize) -> Cow<'_, [f32]> {
        let len = rows * columns;
        match self.element {
            Element::F32 => {
                let mut values = vec![0f32; len];
                complete(self.context.download(&self.buffer, &mut values));
                Cow::Owned(values)
            }
            Element::Bf16 => {
                let mut values = vec![0u16; len];
                complete(self.context.download(&self.buffer, &mut values));
                Cow::Owned(
                    values
                        .iter()
                        .map(|bits| f32::from_bits(u32::from(*bits) << 16))
                        .collect(),
                )
            }
        }
    }

    fn value_bytes(&self) -> usize {
        self.element.bytes()
    }
}

/// Makes a matrix of the memory of a buffer.
pub(super) fn tensor(context: &Context, buffer: Buffer, rows: usize, columns: usize, element: Element) -> Tensor {
    let memory = Memory {
        context: context.clone(),
        buffer,
        element,
        rounded: OnceLock::new(),
    };
    Tensor::new(memory, rows, columns)
}

/// Allocates a matrix with arbitrary content.
pub(super) fn empty(context: &Context, rows: usize, columns: usize, element: Element) -> Tensor {
    let buffer = complete(context.allocate(rows * columns * element.bytes()));
    tensor(context, buffer, rows, columns, element)
}

/// Allocates f32 matrices with arbitrary content in one piece of memory.
pub(super) fn empty_together(context: &Context, shapes: &[[usize; 2]]) -> Vec<Tensor> {
    let bytes = |[rows, columns]: &[usize; 2]| rows * columns * Element::F32.bytes();
    let sizes: Vec<usize> = shapes.iter().map(bytes).collect();
    let total = sizes.iter().map(|bytes| Buffer::part_bytes(*bytes)).sum();
    let parts = complete(context.allocate(total)).split(&sizes);
    let parts = parts.into_iter().zip(shapes);
    parts
        .map(|(part, [rows, columns])| tensor(context, part, *rows, *columns, Element::F32))
        .collect()
}

/// Access to the memory of a tensor of this backend.
pub(super) trait CudaTensor {
    /// The type of the values.
    fn element(&self) -> Element;

    /// The values.
    fn matrix(&self) -> Matrix<'_>;

    /// The values, mutable. Shared memory is copied first.
    fn matrix_mut(&mut self) -> MatrixMut<'_>;

    /// The values, which will all be overwritten. Shared memory is left to its other owners.
    fn overwritten(&mut self) -> MatrixMut<'_>;

    /// The values as a bfloat16 operand. f32 values are rounded at the first call.
    fn bf16(&self) -> Tensor;

    /// Stores the values as a bfloat16 operand.
    ///
    /// # Panics
    /// If the memory is shared.
    fn set_rounded(&mut self, rounded: Tensor);

    /// Removes the bfloat16 operand, if there is one.
    ///
    /// # Panics
    /// If the memory is shared.
    fn take_rounded(&mut self) -> Option<Tensor>;
}

impl CudaTensor for Tensor {
    fn element(&self) -> Element {
        self.storage::<Memory>().element
    }

    fn matrix(&self) -> Matrix<'_> {
        let memory = self.storage::<Memory>();
        memory.buffer.matrix(self.rows(), self.columns(), memory.element)
    }

    fn matrix_mut(&mut self) -> MatrixMut<'_> {
        if self.is_shared() {
            let memory = self.storage::<Memory>();
            let copy = empty(&memory.context, self.rows(), self.columns(), memory.element);
            let (from, to) = (self.matrix().address(), copy.matrix().address());
            let bytes = self.len() * memory.element.bytes();
            let (driver, stream) = (memory.context.driver(), memory.context.stream());
            complete(driver.copy(to, from, bytes, stream));
            *self = copy;
        }
        unshared(self)
    }

    fn overwritten(&mut self) -> MatrixMut<'_> {
        if self.is_shared() {
            let memory = self.storage::<Memory>();
            *self = empty(&memory.context, self.rows(), self.columns(), memory.element);
        }
        unshared(self)
    }

    fn bf16(&self) -> Tensor {
        let memory = self.storage::<Memory>();
        if memory.element == Element::Bf16 {
            return self.clone();
        }
        let rounded = memory.rounded.get_or_init(|| {
            let mut rounded = empty(&memory.context, self.rows(), self.columns(), Element::Bf16);
            complete(elementwise::round(&memory.context, self.matrix(), rounded.matrix_mut()));
            rounded
        });
        // A reshaped tensor has the same values in the same order.
        match (rounded.rows(), rounded.columns()) == (self.rows(), self.columns()) {
            true => rounded.clone(),
            false => rounded.reshaped(self.rows(), self.columns()),
        }
    }

    fn set_rounded(&mut self, rounded: Tensor) {
        memory_mut(self).rounded = OnceLock::from(rounded);
    }

    fn take_rounded(&mut self) -> Option<Tensor> {
        memory_mut(self).rounded.take()
    }
}

/// The values of memory with one owner, which change.
fn unshared(tensor: &mut Tensor) -> MatrixMut<'_> {
    let (rows, columns) = (tensor.rows(), tensor.columns());
    let memory = memory_mut(tensor);
    memory.rounded = OnceLock::new();
    memory.buffer.matrix_mut(rows, columns, memory.element)
}

fn memory_mut(tensor: &mut Tensor) -> &mut Memory {
    match tensor.storage_mut() {
        Some(memory) => memory,
        None => panic!("write to shared memory"),
    }
}
