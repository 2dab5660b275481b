//! The loss of masked autoencoding: the normalisation of patches, and the squared error, forward and backward.

use crate::device::{random, sum_bound};
use crate::{Device, Outcome};
use vlct_cuda::driver::Element::F32;
use vlct_cuda::driver::Error;
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

/// Normalised patches, the squared error and its gradient, for pixels, large, nearly equal and equal values.
///
/// # Errors
/// The first difference, or an error of the driver.
pub fn normalised_rows_losses_and_gradients(device: &Device) -> Outcome {
    device.in_all_schedules(|device| {
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
                check().map_err(|e| format!("[{rows}, {width}], values {:?} …: {e}", pixels.first()))?;
            }
        }
        Ok(())
    })
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
    Ok(device.compare("normalised", &got, &want, |i| bounds[i / width]))
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
        device.compare("loss", &loss, &[want_loss], |_| {
            (sum_bound(width) + sum_bound(rows)) * want_loss
        })?;
        device.compare("gradient", &gradient, &want, |i| sum_bound(0) * want[i].abs())
    };
    Ok(check())
}
