//! Column sums.

use crate::support::{Device, compare, expect_fault, random, random_bf16, sum_bound};
use crate::{Outcome, Test};
use vlct_cuda::column_sums::column_sums;
use vlct_cuda::driver::Element::{Bf16, F32};
use vlct_cuda::driver::emulator::Source;
use vlct_cuda::driver::{Element, Error};
use vlct_kernels::mat::Beta;

pub fn tests() -> Vec<Test> {
    let fault = |name: &str, from: &'static str, to: &'static str| {
        Test::new(format!("column_sums::finds_{name}"), move || {
            let source = Source::kernel_file("column_sums.cu").map_err(|e| e.to_string())?;
            expect_fault(Device::with_sources(&[source.with_fault(from, to)])?.for_all(check))
        })
    };
    vec![
        Test::new("column_sums::sums", || Device::new()?.for_all(check)),
        fault(
            "a_missing_barrier",
            "    __syncthreads();  // all warps have stored their sums\n",
            "",
        ),
        fault(
            "a_write_behind_the_matrix",
            "if (warp != 0 || c >= width) return;",
            "if (warp != 0 || c > width) return;",
        ),
        fault(
            "a_missing_chunk",
            "first + rows_per_chunk);",
            "first + rows_per_chunk - 1);",
        ),
    ]
}

fn check(device: &Device, shape: [usize; 2]) -> Outcome {
    for (element, beta) in [(F32, Beta::Zero), (F32, Beta::One), (Bf16, Beta::Zero)] {
        run(device, shape, element, beta).map_err(|e| e.to_string()).flatten()?;
    }
    Ok(())
}

fn run(device: &Device, [rows, width]: [usize; 2], element: Element, beta: Beta) -> Result<Outcome, Error> {
    let (x, before) = (random_bf16(rows * width, 1), random(width, 2));
    let matrix = match element {
        F32 => device.f32(&x)?,
        Bf16 => device.bf16(&x)?,
    };
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
    Ok(compare("sums", &out, &want, |c| sum_bound(rows) * magnitude[c]))
}
