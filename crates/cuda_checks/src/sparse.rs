//! Products of sparse matrices.

use crate::device::random;
use crate::rows::indices;
use crate::{Device, Outcome};
use vlct_cuda::driver::Element::F32;
use vlct_cuda::driver::Error;
use vlct_cuda::sparse::sparse_product;
use vlct_kernels::mat::Beta;
use vlct_kernels::sparse::{SparseMatrix, add_product};

/// Number of columns of the sparse matrices.
const COLUMNS: usize = 7;

/// Products of a sparse matrix and its transpose with dense matrices.
///
/// # Errors
/// The first difference, or an error of the driver.
pub fn products(device: &Device) -> Outcome {
    device.for_all(check)
}

fn check(device: &Device, [rows, width]: [usize; 2]) -> Outcome {
    // Rows with up to five entries, of which some have the same column.
    let counts = indices(rows, 6, false, 1);
    let entries = counts.iter().enumerate().map(|(row, count)| {
        let columns = indices(*count as usize, COLUMNS, false, 10 + row as u64);
        columns.into_iter().zip(random(*count as usize, 1000 + row as u64))
    });
    let matrix = SparseMatrix::from_rows(COLUMNS, entries);
    for matrix in [matrix.transpose(), matrix] {
        for beta in [Beta::Zero, Beta::One] {
            run(device, &matrix, width, beta)
                .map_err(|e| e.to_string())
                .flatten()
                .map_err(|e| format!("{} columns, {beta:?}: {e}", matrix.columns()))?;
        }
    }
    Ok(())
}

fn run(device: &Device, matrix: &SparseMatrix, width: usize, beta: Beta) -> Result<Outcome, Error> {
    let (rows, columns) = (matrix.rows(), matrix.columns());
    let (x, before) = (random(columns * width, 2), random(rows * width, 3));
    let x_device = device.f32(&x)?;
    let (mut out, mut want) = match beta {
        Beta::Zero => (device.empty(before.len(), F32)?, vec![0.0; before.len()]),
        Beta::One => (device.f32(&before)?, before),
    };
    sparse_product(
        &device.context,
        matrix,
        x_device.matrix(columns, width, F32),
        out.matrix_mut(rows, width, F32),
        beta,
    )?;
    add_product(matrix, &x, width, &mut want);
    // The terms have the order of the CPU, and no operations are fused.
    Ok(device.compare("product", &device.read_f32(&out)?, &want, |_| 0.0))
}
