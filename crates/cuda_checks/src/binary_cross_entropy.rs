//! Binary cross-entropy, forward and backward.

use crate::device::{random, sum_bound};
use crate::{Device, Outcome};
use vlct_cuda::binary_cross_entropy::{backward, forward};
use vlct_cuda::driver::Element::F32;
use vlct_cuda::driver::Error;
use vlct_kernels::reference;

/// Numbers of rows and classes: none, single, smaller and larger than a warp, VQA's answers, BERT's vocabulary.
const SHAPES: [[usize; 2]; 11] = [
    [0, 8],
    [1, 1],
    [5, 1],
    [3, 7],
    [4, 8],
    [2, 17],
    [9, 100],
    [3, 131],
    [300, 6],
    [2, 3129],
    [2, 30522],
];

/// Losses and gradients for logits of models, for large logits and for equal logits.
///
/// # Errors
/// The first difference, or an error of the driver.
pub fn losses_and_gradients(device: &Device) -> Outcome {
    device.in_all_schedules(|device| {
        for [rows, classes] in SHAPES {
            let count = rows * classes;
            let scaled = |factor: f32| random(count, 1).iter().map(|v| factor * v).collect::<Vec<_>>();
            // The logits of a model, logits whose exponentials overflow, and equal logits.
            for logits in [scaled(4.0), scaled(1e4), vec![-7.5; count]] {
                check(device, [rows, classes], &logits)
                    .map_err(|e| e.to_string())
                    .flatten()
                    .map_err(|e| format!("[{rows}, {classes}], logits {:?} …: {e}", logits.first()))?;
            }
        }
        Ok(())
    })
}

/// Returns the loss and the gradient of the logits.
fn run(
    device: &Device,
    [rows, classes]: [usize; 2],
    logits: &[f32],
    targets: &[f32],
    d: f32,
) -> Result<[Vec<f32>; 2], Error> {
    let [mut x, t, mut loss] = [device.f32(logits)?, device.f32(targets)?, device.empty(1, F32)?];
    let t = t.matrix(rows, classes, F32);
    forward(
        &device.context,
        x.matrix(rows, classes, F32),
        t,
        loss.matrix_mut(1, 1, F32),
    )?;
    backward(&device.context, x.matrix_mut(rows, classes, F32), t, d)?;
    Ok([device.read_f32(&loss)?, device.read_f32(&x)?])
}

fn check(device: &Device, [rows, classes]: [usize; 2], logits: &[f32]) -> Result<Outcome, Error> {
    let targets: Vec<f32> = random(logits.len(), 2).iter().map(|v| v.abs()).collect();
    let d = 0.7;
    let [loss, gradient] = run(device, [rows, classes], logits, &targets, d)?;
    let row_losses = logits
        .chunks(classes)
        .zip(targets.chunks(classes))
        .map(|(x, t)| reference::binary_cross_entropy_forward(x, t, classes));
    let want_loss = row_losses.sum::<f32>() / rows.max(1) as f32;
    let mut want = vec![0f32; logits.len()];
    reference::binary_cross_entropy_backward(&mut want, logits, &targets, classes, d);
    // A loss is the sum of three terms; the second has another sign.
    let terms = |x: f32, t: f32| x.max(0.0) + x.abs() * t + (-x.abs()).exp().ln_1p();
    let magnitude: f32 = logits.iter().zip(&targets).map(|(x, t)| terms(*x, *t)).sum();
    let scale = d / rows.max(1) as f32;
    let check = || {
        device.compare("loss", &loss, &[want_loss], |_| {
            (sum_bound(classes) + sum_bound(rows)) * magnitude / rows.max(1) as f32
        })?;
        device.compare("gradient", &gradient, &want, |i| {
            sum_bound(0) * scale * (1.0 / (1.0 + (-logits[i]).exp()) + targets[i]) + f32::MIN_POSITIVE
        })
    };
    Ok(check())
}

/// Exponentials that overflow, and a logit whose loss is the logarithm only.
///
/// # Errors
/// The first difference, or an error of the driver.
pub fn large_logits(device: &Device) -> Outcome {
    let (logits, targets) = ([200.0, -200.0, 1e30, -1e30, 30.0], [0.0, 1.0, 1.0, 0.0, 1.0]);
    let [loss, gradient] = run(device, [1, 5], &logits, &targets, 1.0).map_err(|e| e.to_string())?;
    device.compare("loss", &loss, &[400.0], |_| 0.0)?;
    device.compare("gradient", &gradient, &[1.0, -1.0, 0.0, 0.0, 0.0], |_| 0.0)?;
    let [loss, _] = run(device, [1, 1], &[30.0], &[1.0], 1.0).map_err(|e| e.to_string())?;
    device.compare("small loss", &loss, &[(-30f32).exp()], |_| {
        sum_bound(0) * (-30f32).exp()
    })
}
