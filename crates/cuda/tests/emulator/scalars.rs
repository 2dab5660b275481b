//! Weighted sums. The sums of the values of rows are tested with the losses.

use crate::support::{Device, compare, expect_error, expect_fault, random, sum_bound};
use crate::{Outcome, Test};
use vlct_cuda::driver::Element::F32;
use vlct_cuda::driver::Error;
use vlct_cuda::driver::emulator::{Schedule, Source};
use vlct_cuda::scalars::weighted_sum;

pub fn tests() -> Vec<Test> {
    let fault = |name: &str, from: &'static str, to: &'static str| {
        Test::new(format!("scalars::finds_{name}"), move || {
            let source = Source::kernel_file("scalars.cu").map_err(|e| e.to_string())?;
            expect_fault(weighted_sums(&Device::with_sources(&[source.with_fault(from, to)])?))
        })
    };
    vec![
        Test::new("scalars::weighted_sums", || weighted_sums(&Device::new()?)),
        Test::new("scalars::names_a_wrong_shape", names_a_wrong_shape),
        fault("a_missing_term", "i < n; i += WARP_SIZE", "i + 1 < n; i += WARP_SIZE"),
        fault("a_missing_sum", "    sum = warp_sum(sum);\n", ""),
    ]
}

fn weighted_sums(device: &Device) -> Outcome {
    for schedule in Schedule::ALL {
        device.emulator.set_schedule(schedule);
        for count in [0, 1, 2, 7, 31, 32, 33, 70] {
            run(device, count)
                .map_err(|e| e.to_string())
                .flatten()
                .map_err(|e| format!("{schedule:?}, {count} terms: {e}"))?;
        }
    }
    Ok(())
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
    Ok(compare("sum", &out, &[products.iter().sum()], |_| {
        sum_bound(count) * magnitude
    }))
}

fn names_a_wrong_shape() -> Outcome {
    let device = Device::new()?;
    let run = || -> Result<(), Error> {
        let (x, mut out) = (device.f32(&[1.0, 2.0])?, device.empty(1, F32)?);
        let terms = [(x.matrix(1, 1, F32), 1.0), (x.matrix(1, 2, F32), 1.0)];
        weighted_sum(&device.context, &terms, out.matrix_mut(1, 1, F32))
    };
    expect_error(
        run().map_err(|e| e.to_string()),
        &["weighted sum: `value` is [1, 2] of F32 instead of [1, 1] of F32"],
    )
}
