//! Products of a sparse matrix with a dense one. The plain version is [`reference::sparse_product`](crate::reference::sparse_product).

use crate::elementwise::add_scaled;
use crate::parallel::over_rows;

/// A sparse matrix, row by row.
#[derive(Clone, Debug, PartialEq)]
pub struct SparseMatrix {
    columns: usize,
    /// The first entry of each row in `entries`, followed by the number of entries.
    offsets: Vec<usize>,
    /// Column and value of each entry.
    entries: Vec<(u32, f32)>,
}

impl SparseMatrix {
    /// Makes a matrix with `columns` columns. `rows` are the entries of each row, column and value; entries of the same column are added.
    ///
    /// # Panics
    /// Panics if an entry is in a column that the matrix does not have.
    pub fn from_rows<R: IntoIterator<Item = (u32, f32)>>(columns: usize, rows: impl IntoIterator<Item = R>) -> Self {
        let (mut offsets, mut entries) = (vec![0], Vec::new());
        for row in rows {
            entries.extend(row);
            offsets.push(entries.len());
        }
        assert!(
            entries.iter().all(|(column, _)| (*column as usize) < columns),
            "entry outside the matrix"
        );
        Self {
            columns,
            offsets,
            entries,
        }
    }

    /// Returns the number of rows.
    pub fn rows(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Returns the number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Returns the number of entries.
    pub fn entries(&self) -> usize {
        self.entries.len()
    }

    /// Returns column and value of each entry of a row.
    pub fn row(&self, row: usize) -> &[(u32, f32)] {
        &self.entries[self.offsets[row]..self.offsets[row + 1]]
    }

    /// Returns the transposed matrix. The entries of its rows are in the order of their columns.
    pub fn transpose(&self) -> Self {
        let mut rows = vec![Vec::new(); self.columns];
        for row in 0..self.rows() {
            for (column, value) in self.row(row) {
                rows[*column as usize].push((row as u32, *value));
            }
        }
        Self::from_rows(self.rows(), rows)
    }
}

/// Adds the product of a sparse matrix and `x [columns, width]` to `out [rows, width]`. The terms of a sum are added in the order of the
/// entries.
///
/// # Panics
/// Panics if the sizes do not fit.
pub fn add_product(matrix: &SparseMatrix, x: &[f32], width: usize, out: &mut [f32]) {
    assert!(x.len() == matrix.columns * width && out.len() == matrix.rows() * width);
    over_rows(out, width, |first, block| {
        for (i, out) in block.chunks_exact_mut(width).enumerate() {
            for (column, value) in matrix.row(first + i) {
                add_scaled(&x[*column as usize * width..][..width], *value, out);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn products_with_a_matrix_and_its_transpose_equal_the_reference(
            columns in 1usize..6,
            width in 1usize..5,
            rows in prop::collection::vec(prop::collection::vec((0u32..100, -2f32..2.0), 0..5), 0..8),
        ) {
            let entries = |row: Vec<(u32, f32)>| row.into_iter().map(move |(c, v)| (c % columns as u32, v));
            let matrix = SparseMatrix::from_rows(columns, rows.into_iter().map(entries));
            for matrix in [matrix.transpose(), matrix] {
                let x: Vec<f32> = (0..matrix.columns() * width).map(|i| (i as f32).sin()).collect();
                let mut out = vec![0.5; matrix.rows() * width];
                let mut want = out.clone();
                add_product(&matrix, &x, width, &mut out);
                reference::sparse_product(&mut want, &matrix, &x, width);
                for (got, want) in out.iter().zip(want) {
                    prop_assert!((got - want).abs() <= 1e-5);
                }
            }
        }
    }
}
