//! Column sums.

use crate::device::{random, random_bf16, sum_bound};
use crate::{Device, Outcome};
use vlct_cuda::column_sums::column_sums;
use vlct_cuda::driver::Element::{Bf16, F32};
use vlct_cuda::driver::{Element, Error};
use vlct_kernels::mat::Beta;

/// Sums of the columns of f32 and bfloat16 matrices, stored and added.
///
/// # Errors
/// The first difference, or an error of the driver.
pub fn sums(device: &Device) -> Outcome {
    device.for_all(check)
}

fn check(device: &Device, shape: [usize; 2]) -> Outcome {
    for (element, beta) in [(F32, Beta::Zero), (F32, Beta::One), (Bf16, Beta::Zero)] {
        run(device, shape, element, beta).map_err(|e| e.to_string()).flatten()?;
    }
    Ok(())
}

fn run(device: &Device, [rows, width]: [usize; 2], element: Element, beta: Beta) -> Result<Outcome, Error> {
    let (x, before) = (random_bf16(rows * width, 1), random(width, 2));
    let matrix = device.upload(&x, element)?;
    let mut out = match beta {
        Beta::Zero => device.empty(width, F32)?,
        Beta::One => device.f32(&before)?,
    };
    let mut want = if beta == Beta::One { before } else { vec![0.0; width] };
    let mut magnitude: Vec<f32> = want.iter().map(|v| v.abs()).collect();
    for (i, v) in x.iter().enumerate() {
        want[i % width] += v;
        magnitude[i % width] += v.abs();
    }
    column_sums(
        &device.context,
        matrix.matrix(rows, width, element),
        out.matrix_mut(1, width, F32),
        beta,
    )?;
    let out = device.read_f32(&out)?;
    Ok(device.compare("sums", &out, &want, |c| sum_bound(rows) * magnitude[c]))
}
