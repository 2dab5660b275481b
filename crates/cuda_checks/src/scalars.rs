//! Weighted sums. The sums of the values of rows are tested with the losses.

use crate::device::{random, sum_bound};
use crate::{Device, Outcome};
use vlct_cuda::driver::Element::F32;
use vlct_cuda::driver::Error;
use vlct_cuda::scalars::weighted_sum;

/// Weighted sums of up to 70 scalars.
///
/// # Errors
/// The first difference, or an error of the driver.
pub fn weighted_sums(device: &Device) -> Outcome {
    device.in_all_schedules(|device| {
        for count in [0, 1, 2, 7, 31, 32, 33, 70] {
            run(device, count)
                .map_err(|e| e.to_string())
                .flatten()
                .map_err(|e| format!("{count} terms: {e}"))?;
        }
        Ok(())
    })
}

fn run(device: &Device, count: usize) -> Result<Outcome, Error> {
    let (values, factors) = (random(count, 1), random(count, 2));
    // Scalars in separate allocations, as the losses of a step.
    let buffers = values
        .iter()
        .map(|v| device.f32(&[*v]))
        .collect::<Result<Vec<_>, _>>()?;
    let terms: Vec<_> = buffers
        .iter()
        .map(|b| b.matrix(1, 1, F32))
        .zip(factors.clone())
        .collect();
    let mut out = device.empty(1, F32)?;
    weighted_sum(&device.context, &terms, out.matrix_mut(1, 1, F32))?;
    let products: Vec<f32> = values.iter().zip(&factors).map(|(v, f)| v * f).collect();
    let magnitude: f32 = products.iter().map(|p| p.abs()).sum();
    let out = device.read_f32(&out)?;
    Ok(device.compare("sum", &out, &[products.iter().sum()], |_| sum_bound(count) * magnitude))
}
