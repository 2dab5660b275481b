//! Operations on lists of matrices.

use crate::device::random;
use crate::{Device, Outcome};
use vlct_cuda::context::Buffer;
use vlct_cuda::driver::Element::F32;
use vlct_cuda::driver::Error;
use vlct_cuda::lists::{first_non_finite, interpolate, l2_norm};
use vlct_cuda::matrix::{Matrix, MatrixMut};
use vlct_kernels::optimizer;

/// Shapes of the matrices of a list: several chunks, a whole chunk, empty, single, and smaller than a warp's vectors.
pub(crate) const LIST: [[usize; 2]; 9] = [
    [0, 8],
    [1, 1],
    [67, 770],
    [1, 7],
    [0, 1],
    [64, 256],
    [1, 64],
    [9, 17],
    [0, 768],
];

/// Norms, interpolations, and searches for values that are not finite, in lists of matrices of all sizes.
///
/// # Errors
/// The first difference, or an error of the driver.
pub fn norms_interpolation_and_non_finite_values(device: &Device) -> Outcome {
    device.in_all_schedules(check)
}

fn check(device: &Device) -> Outcome {
    let lists: [&[[usize; 2]]; 4] = [&LIST, &[], &[[0, 8]], &[[1, 768]]];
    for list in lists {
        norms(device, list)
            .and_then(|outcome| Ok(outcome.and(interpolations(device, list)?)))
            .map_err(|e| e.to_string())
            .flatten()
            .map_err(|e| format!("{list:?}: {e}"))?;
    }
    non_finite_values(device).map_err(|e| e.to_string())?
}

/// Random matrices of these shapes.
fn values(list: &[[usize; 2]], seed: u64) -> Vec<Vec<f32>> {
    let matrices = list.iter().enumerate();
    matrices
        .map(|(i, [rows, width])| random(rows * width, seed + i as u64))
        .collect()
}

fn upload(device: &Device, values: &[Vec<f32>]) -> Result<Vec<Buffer>, Error> {
    values.iter().map(|values| device.f32(values)).collect()
}

fn views<'a>(buffers: &'a [Buffer], list: &[[usize; 2]]) -> Vec<Matrix<'a>> {
    let matrices = buffers.iter().zip(list);
    matrices
        .map(|(buffer, [rows, width])| buffer.matrix(*rows, *width, F32))
        .collect()
}

fn norms(device: &Device, list: &[[usize; 2]]) -> Result<Outcome, Error> {
    let values = values(list, 1);
    let buffers = upload(device, &values)?;
    let mut norm = device.empty(1, F32)?;
    l2_norm(&device.context, &views(&buffers, list), norm.matrix_mut(1, 1, F32))?;
    let slices: Vec<&[f32]> = values.iter().map(Vec::as_slice).collect();
    let want = optimizer::l2_norm(&slices) as f32;
    // Sums in double precision have errors far below those of f32, but may round to the next number.
    Ok(device.compare("norm", &device.read_f32(&norm)?, &[want], |_| f32::EPSILON * want))
}

fn interpolations(device: &Device, list: &[[usize; 2]]) -> Result<Outcome, Error> {
    const RATE: f32 = 0.3;
    let (x, y) = (values(list, 1), values(list, 100));
    let [x_buffers, mut y_buffers] = [upload(device, &x)?, upload(device, &y)?];
    let y_views = y_buffers.iter_mut().zip(list);
    let mut pairs: Vec<(MatrixMut, Matrix)> = y_views
        .map(|(y, [rows, width])| y.matrix_mut(*rows, *width, F32))
        .zip(views(&x_buffers, list))
        .collect();
    interpolate(&device.context, &mut pairs, RATE)?;
    let mut outcome = Ok(());
    for ((x, mut y), buffer) in x.iter().zip(y).zip(&y_buffers) {
        vlct_kernels::elementwise::interpolate(x, RATE, &mut y);
        outcome = outcome.and(device.compare("interpolated values", &device.read_f32(buffer)?, &y, |_| 0.0));
    }
    Ok(outcome)
}

/// A new value: its matrix, its index, and the value.
type Change = (usize, usize, f32);

/// Searches for values in lists without any, and with one or two at the ends and inside of matrices.
fn non_finite_values(device: &Device) -> Result<Outcome, Error> {
    let finite = values(&LIST, 1);
    let find = |changes: &[Change]| {
        let mut values = finite.clone();
        for (matrix, index, value) in changes {
            values[*matrix][*index] = *value;
        }
        let buffers = upload(device, &values)?;
        first_non_finite(&device.context, &views(&buffers, &LIST))
    };
    let none = first_non_finite(&device.context, &[])?;
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    let last = 67 * 770 - 1;
    let cases: [(&[Change], Option<usize>); 8] = [
        (&[], None),
        (&[(2, 1, f32::MAX), (3, 6, -1e-45)], None),
        (&[(1, 0, nan)], Some(1)),
        (&[(2, last, -inf)], Some(2)),
        (&[(2, 16385, inf)], Some(2)),
        (&[(3, 6, nan)], Some(3)),
        (&[(5, 16383, inf)], Some(5)),
        (&[(7, 30, inf), (6, 63, nan)], Some(6)),
    ];
    let mut outcome = if none.is_none() {
        Ok(())
    } else {
        Err("a value in an empty list".into())
    };
    for (changes, want) in cases {
        let got = find(changes)?;
        if got != want {
            outcome = outcome.and(Err(format!("{changes:?}: {got:?} instead of {want:?}")));
        }
    }
    Ok(outcome)
}
