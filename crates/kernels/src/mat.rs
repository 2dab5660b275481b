//! Views of row-major and transposed f32 matrices, and the BLAS parameter β.

use std::ops::Range;

/// β of `dst = β·dst + α·lhs·rhs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beta {
    /// 0: overwrites the destination without reading it.
    Zero,
    /// 1: adds to the destination.
    One,
}

impl Beta {
    /// Returns β as a number.
    pub fn factor(self) -> f32 {
        match self {
            Self::Zero => 0.0,
            Self::One => 1.0,
        }
    }

    /// Returns β for the block of the inner dimension that begins at `k_block`: the first block overwrites, later blocks add.
    pub(crate) fn of_k_block(k_block: usize) -> Self {
        if k_block == 0 { Self::Zero } else { Self::One }
    }
}

/// A view of a matrix: element (r, c) is `data[r * row_stride + c * column_stride]`.
#[derive(Clone, Copy)]
pub struct MatRef<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> MatRef<'a> {
    /// Makes a view of a row-major matrix whose rows are `stride` values apart.
    ///
    /// # Panics
    /// If the slice is too short.
    pub fn new(data: &'a [f32], rows: usize, columns: usize, stride: usize) -> Self {
        assert!(
            fits(rows, columns, stride, data.len()),
            "slice too short for the matrix"
        );
        Self {
            data,
            rows,
            columns,
            row_stride: stride,
            column_stride: 1,
        }
    }

    /// The submatrix of these rows and columns.
    pub(crate) fn submatrix(self, rows: Range<usize>, columns: Range<usize>) -> Self {
        let first = rows.start * self.row_stride + columns.start * self.column_stride;
        Self {
            data: &self.data[first.min(self.data.len())..],
            rows: rows.len(),
            columns: columns.len(),
            ..self
        }
    }

    /// The transpose, a view of the same memory.
    pub fn transposed(self) -> Self {
        let Self {
            data,
            rows,
            columns,
            row_stride,
            column_stride,
        } = self;
        Self {
            data,
            rows: columns,
            columns: rows,
            row_stride: column_stride,
            column_stride: row_stride,
        }
    }

    pub(crate) fn data(&self) -> &'a [f32] {
        self.data
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    pub(crate) fn row_stride(&self) -> usize {
        self.row_stride
    }

    pub(crate) fn column_stride(&self) -> usize {
        self.column_stride
    }

    /// Whether the elements of a row are contiguous; otherwise the elements of a column are.
    pub(crate) fn is_row_major(&self) -> bool {
        self.column_stride == 1
    }

    /// The values of a row-major matrix from (`row`, `column`) on, and the row stride.
    pub(crate) fn values_from(&self, row: usize, column: usize) -> (&'a [f32], usize) {
        (&self.data[row * self.row_stride + column..], self.row_stride)
    }
}

/// Whether a slice of `len` values holds `rows` rows of `columns` values, with rows `stride` apart.
pub(crate) fn fits(rows: usize, columns: usize, stride: usize, len: usize) -> bool {
    let end = |rows: usize| rows.checked_mul(stride)?.checked_add(columns);
    rows == 0 || end(rows - 1).is_some_and(|end| end <= len)
}
