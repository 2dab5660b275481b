//! Operations on lists of matrices.

use crate::support::{Device, compare, expect_fault, random};
use crate::{Outcome, Test};
use vlct_cuda::context::Buffer;
use vlct_cuda::driver::Element::F32;
use vlct_cuda::driver::Error;
use vlct_cuda::driver::emulator::{Schedule, Source};
use vlct_cuda::lists::{first_non_finite, interpolate, l2_norm};
use vlct_cuda::matrix::{Matrix, MatrixMut};
use vlct_kernels::optimizer;

/// Shapes of the matrices of a list: several chunks, a whole chunk, empty, single, and smaller than a warp's vectors.
pub const LIST: [[usize; 2]; 9] = [
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

/// The source of a `.cu` file with `lists.cuh` in its place, so that it can be changed too.
pub fn source_with_lists(name: &str) -> Result<Source, String> {
    let read = |name: &str| Source::kernel_file(name).map_err(|e| e.to_string());
    Ok(read(name)?.with_fault("#include \"lists.cuh\"", &read("lists.cuh")?.text))
}

/// Runs a check in every schedule.
pub fn in_all_schedules(device: &Device, check: impl Fn(&Device) -> Outcome) -> Outcome {
    for schedule in Schedule::ALL {
        device.emulator.set_schedule(schedule);
        check(device).map_err(|e| format!("{schedule:?}: {e}"))?;
    }
    Ok(())
}

pub fn tests() -> Vec<Test> {
    let fault = |name: &str, from: &'static str, to: &'static str| {
        Test::new(format!("lists::finds_{name}"), move || {
            let source = source_with_lists("lists.cu")?.with_fault(from, to);
            let device = Device::with_sources(&[source])?;
            expect_fault(in_all_schedules(&device, check))
        })
    };
    vec![
        Test::new("lists::norms_interpolation_and_non_finite_values", || {
            in_all_schedules(&Device::new()?, check)
        }),
        fault(
            "a_missing_barrier",
            "    __syncthreads();  // all warps have stored their sums\n",
            "",
        ),
        fault(
            "a_wrong_matrix",
            "first_chunks[middle] <= chunk",
            "first_chunks[middle] < chunk",
        ),
        fault(
            "a_wrong_chunk",
            "(blockIdx.x - first_chunk) * CHUNK",
            "(blockIdx.x - first_chunk) * (CHUNK - 4)",
        ),
        fault(
            "a_lost_end",
            "end = min(length, first + CHUNK)",
            "end = min(length - 1, first + CHUNK)",
        ),
        fault(
            "a_lost_value",
            " + ((double)v.z * v.z + (double)v.w * v.w)",
            " + (double)v.z * v.z",
        ),
        fault(
            "a_lost_sum",
            "i < chunks; i += blockDim.x",
            "i < chunks - 1; i += blockDim.x",
        ),
        fault("an_unchecked_value", " && is_finite(v.y)", ""),
        fault(
            "infinity_as_finite",
            "& 0x7f800000u) != 0x7f800000u",
            "& 0x7fffffffu) <= 0x7f800000u",
        ),
    ]
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
    Ok(compare("norm", &device.read_f32(&norm)?, &[want], |_| {
        f32::EPSILON * want
    }))
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
        outcome = outcome.and(compare("interpolated values", &device.read_f32(buffer)?, &y, |_| 0.0));
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
