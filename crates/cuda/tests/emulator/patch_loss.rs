//! The loss of masked autoencoding: the normalisation of patches, and the squared error, forward and backward.

use crate::support::{Device, compare, expect_error, expect_fault, random, sum_bound};
use crate::{Outcome, Test};
use vlct_cuda::driver::Element::F32;
use vlct_cuda::driver::Error;
use vlct_cuda::driver::emulator::{Schedule, Source};
use vlct_cuda::patch_loss::{backward, forward, normalise_rows};
use vlct_kernels::reference;

/// Numbers of rows and widths: none, single, smaller and larger than the groups of a warp, patches of 16 × 16 pixels, a wide row.
const SHAPES: [[usize; 2]; 12] = [
    [0, 8],
    [0, 768],
    [1, 1],
    [7, 1],
    [5, 2],
    [3, 7],
    [4, 8],
    [2, 17],
    [9, 131],
    [33, 258],
    [67, 768],
    [2, 30522],
];

pub fn tests() -> Vec<Test> {
    const LOSS: &str = "patch_loss.cu";
    let fault = |name: &str, file: &'static str, from: &'static str, to: &'static str| {
        Test::new(format!("patch_loss::finds_{name}"), move || {
            let read = |name: &str| Source::kernel_file(name).map_err(|e| e.to_string());
            let other = if file == LOSS { "scalars.cu" } else { LOSS };
            let device = Device::with_sources(&[read(file)?.with_fault(from, to), read(other)?])?;
            expect_fault(for_all(&device))
        })
    };
    vec![
        Test::new("patch_loss::normalised_rows_losses_and_gradients", || {
            for_all(&Device::new()?)
        }),
        Test::new("patch_loss::names_a_wrong_shape", names_a_wrong_shape),
        fault("a_biased_variance", LOSS, "(float)(width - 1)", "(float)width"),
        fault(
            "a_value_behind_the_row",
            LOSS,
            "left > 3 ? d.w * d.w : 0.f",
            "d.w * d.w",
        ),
        fault("a_missing_row", LOSS, "if (row >= rows)", "if (row + 1 >= rows)"),
        fault(
            "a_missing_column",
            LOSS,
            "load4(target + first + c, width - c)",
            "load4(target + first + c, width - c - 1)",
        ),
        fault(
            "missing_barriers_of_a_reduction",
            LOSS,
            "#include \"block_reduce.cuh\"",
            "#include \"device.cuh\"\n#define __syncthreads() (void)0\n#include \"block_reduce.cuh\"",
        ),
        fault(
            "a_wrong_sign",
            LOSS,
            "load4(prediction + i, left) - load4",
            "load4(prediction + i, left) + load4",
        ),
        fault(
            "a_missing_sum_of_a_row",
            "scalars.cu",
            "i < n; i += blockDim.x",
            "i + 1 < n; i += blockDim.x",
        ),
    ]
}

fn for_all(device: &Device) -> Outcome {
    for schedule in Schedule::ALL {
        device.emulator.set_schedule(schedule);
        for [rows, width] in SHAPES {
            let count = rows * width;
            let scaled = |factor: f32| random(count, 1).iter().map(|v| 2.0 + factor * v).collect::<Vec<_>>();
            // Pixels, large values, values whose variance is below the constant that is added to it, and equal values.
            for pixels in [scaled(1.0), scaled(1e4), scaled(1e-4), vec![-7.5; count]] {
                let check = || {
                    normalisation(device, [rows, width], &pixels)
                        .map_err(|e| e.to_string())
                        .flatten()?;
                    squared_error(device, [rows, width], &pixels)
                        .map_err(|e| e.to_string())
                        .flatten()
                };
                check().map_err(|e| format!("{schedule:?}, [{rows}, {width}], values {:?} …: {e}", pixels.first()))?;
            }
        }
    }
    Ok(())
}

fn normalisation(device: &Device, [rows, width]: [usize; 2], pixels: &[f32]) -> Result<Outcome, Error> {
    let mut x = device.f32(pixels)?;
    normalise_rows(&device.context, x.matrix_mut(rows, width, F32))?;
    let got = device.read_f32(&x)?;
    if width == 1 {
        // A single value has no unbiased variance: 0 / 0.
        let is_nan = got.iter().all(|v| v.is_nan());
        return Ok(is_nan.then_some(()).ok_or_else(|| format!("{got:?} instead of NaNs")));
    }
    let mut want = pixels.to_vec();
    reference::normalise_patches(&mut want, width);
    // The mean has an error of `sum_bound` times the largest value, which the scale multiplies. In the variance, it appears as its square.
    let bounds = pixels
        .chunks_exact(width)
        .zip(want.chunks_exact(width))
        .map(|(pixels, want)| {
            let largest = pixels.iter().fold(0f32, |largest, v| largest.max(v.abs()));
            let mean = pixels.iter().sum::<f32>() / width as f32;
            let variance = pixels.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>() / (width - 1) as f32;
            let shift = sum_bound(width) * largest / (variance + 1e-6).sqrt();
            let normalised = want.iter().fold(0f32, |largest, v| largest.max(v.abs()));
            shift + (sum_bound(width) + shift * shift) * normalised
        });
    let bounds: Vec<f32> = bounds.collect();
    Ok(compare("normalised", &got, &want, |i| bounds[i / width]))
}

fn squared_error(device: &Device, [rows, width]: [usize; 2], target: &[f32]) -> Result<Outcome, Error> {
    let count = rows * width;
    let prediction = random(count, 3);
    let [mut p, t, mut loss] = [device.f32(&prediction)?, device.f32(target)?, device.empty(1, F32)?];
    let t = t.matrix(rows, width, F32);
    let d = 0.7;
    forward(
        &device.context,
        p.matrix(rows, width, F32),
        t,
        loss.matrix_mut(1, 1, F32),
    )?;
    backward(&device.context, p.matrix_mut(rows, width, F32), t, d)?;
    let [loss, gradient] = [device.read_f32(&loss)?, device.read_f32(&p)?];
    let mean_of_rows = |errors: &mut dyn Iterator<Item = f32>| errors.sum::<f32>() / rows.max(1) as f32;
    let mut errors = prediction
        .chunks_exact(width)
        .zip(target.chunks_exact(width))
        .map(|(p, t)| reference::patch_loss_forward(p, t));
    let want_loss = mean_of_rows(&mut errors);
    let mut want = vec![0f32; count];
    reference::patch_loss_backward(&mut want, &prediction, target, d);
    let check = || {
        // All terms are positive.
        compare("loss", &loss, &[want_loss], |_| {
            (sum_bound(width) + sum_bound(rows)) * want_loss
        })?;
        compare("gradient", &gradient, &want, |i| sum_bound(0) * want[i].abs())
    };
    Ok(check())
}

fn names_a_wrong_shape() -> Outcome {
    let device = Device::new()?;
    let run = || -> Result<(), Error> {
        let (mut x, t) = (device.f32(&random(16, 1))?, device.f32(&random(16, 2))?);
        backward(&device.context, x.matrix_mut(2, 8, F32), t.matrix(1, 8, F32), 1.0)
    };
    expect_error(
        run().map_err(|e| e.to_string()),
        &["gradient of squared error: `target` is [1, 8] of F32 instead of [2, 8] of F32"],
    )
}
