//! Views of row-major matrices in the memory of a device.
//!
//! A view borrows its [`Buffer`](crate::context::Buffer), so the memory cannot be freed or changed elsewhere while a launcher submits work.

use crate::driver::{Address, Element, Error, Operand, Result};
use std::marker::PhantomData;

/// A matrix that a kernel reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrix<'a> {
    address: Address,
    rows: usize,
    columns: usize,
    element: Element,
    buffer: PhantomData<&'a u8>,
}

/// A matrix that a kernel writes.
#[derive(Debug, PartialEq, Eq)]
pub struct MatrixMut<'a> {
    view: Matrix<'a>,
    buffer: PhantomData<&'a mut u8>,
}

impl<'a> Matrix<'a> {
    pub(crate) fn new(address: Address, rows: usize, columns: usize, element: Element) -> Self {
        Self {
            address,
            rows,
            columns,
            element,
            buffer: PhantomData,
        }
    }

    /// The first element.
    pub fn address(&self) -> Address {
        self.address
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns, which is the number of elements from one row to the next.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.rows * self.columns
    }

    /// Whether the matrix has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The type of the elements.
    pub fn element(&self) -> Element {
        self.element
    }

    /// The matrix as an operand of a product; with `transposed`, the product reads its transpose.
    pub fn operand(&self, transposed: bool) -> Operand {
        Operand {
            address: self.address,
            stride: self.columns,
            transposed,
            element: self.element,
        }
    }

    /// Fails unless the matrix has this shape and type; `name` names it in the message.
    pub(crate) fn expect(
        &self,
        operation: &'static str,
        name: &str,
        shape: [usize; 2],
        element: Element,
    ) -> Result<()> {
        let [rows, columns] = shape;
        if [self.rows, self.columns] == shape && self.element == element {
            return Ok(());
        }
        Err(Error::InvalidArgument {
            operation,
            reason: format!(
                "`{name}` is [{}, {}] of {:?} instead of [{rows}, {columns}] of {element:?}",
                self.rows, self.columns, self.element
            ),
        })
    }
}

impl<'a> MatrixMut<'a> {
    pub(crate) fn new(address: Address, rows: usize, columns: usize, element: Element) -> Self {
        Self {
            view: Matrix::new(address, rows, columns, element),
            buffer: PhantomData,
        }
    }

    /// The matrix, to read it.
    pub fn as_ref(&self) -> Matrix<'_> {
        self.view
    }
}

impl<'a> std::ops::Deref for MatrixMut<'a> {
    type Target = Matrix<'a>;

    fn deref(&self) -> &Matrix<'a> {
        &self.view
    }
}
