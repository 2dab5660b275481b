//! Binary cross-entropy, and the loss of masked autoencoding.

use crate::support::{Device, SHAPES, compare, expect_fault, random, sum_bound};
use crate::{Outcome, Test};
use vlct_cuda::driver::Element::F32;
use vlct_cuda::driver::Error;
use vlct_cuda::driver::emulator::{Schedule, Source};
use vlct_cuda::{binary_cross_entropy, patch_loss};
use vlct_kernels::reference;

type Check = fn(&Device, [usize; 2], f32) -> Result<Outcome, Error>;

pub fn tests() -> Vec<Test> {
    let fault = |name: &str, file: &'static str, check: Check, from: &'static str, to: &'static str| {
        Test::new(format!("losses::finds_{name}"), move || {
            let read = |name: &str| Source::kernel_file(name).map_err(|e| e.to_string());
            let device = Device::with_sources(&[read(file)?.with_fault(from, to), read("scalars.cu")?])?;
            expect_fault(for_all(&device, check))
        })
    };
    vec![
        Test::new("losses::binary_cross_entropy", || for_all(&Device::new()?, answers)),
        Test::new("losses::patches", || for_all(&Device::new()?, patches)),
        fault(
            "an_overflow",
            "binary_cross_entropy.cu",
            answers,
            "log1pf(expf(-fabsf(x)))",
            "log1pf(expf(-x))",
        ),
        fault(
            "a_missing_target",
            "binary_cross_entropy.cu",
            answers,
            "fmaxf(x, 0.f) - x * targets[first + c]",
            "fmaxf(x, 0.f) - x * targets[c]",
        ),
        fault(
            "a_biased_variance",
            "patch_loss.cu",
            patches,
            "(float)(width - 1)",
            "(float)width",
        ),
        fault(
            "a_missing_column",
            "patch_loss.cu",
            patches,
            "load4(prediction + first + c, width - c) - load4(target + first + c, width - c)",
            "load4(prediction + first + c, width - c - 1) - load4(target + first + c, width - c - 1)",
        ),
    ]
}

fn for_all(device: &Device, check: Check) -> Outcome {
    for schedule in Schedule::ALL {
        device.emulator.set_schedule(schedule);
        // Usual values, and values whose exponentials overflow.
        for (shape, factor) in SHAPES.into_iter().flat_map(|shape| [(shape, 4.0), (shape, 300.0)]) {
            check(device, shape, factor)
                .map_err(|e| e.to_string())
                .flatten()
                .map_err(|e| format!("{schedule:?}, {shape:?}, factor {factor}: {e}"))?;
        }
    }
    Ok(())
}

fn answers(device: &Device, [rows, classes]: [usize; 2], factor: f32) -> Result<Outcome, Error> {
    let context = &device.context;
    let count = rows * classes;
    let logits: Vec<f32> = random(count, 1).iter().map(|v| factor * v).collect();
    let targets: Vec<f32> = random(count, 2).iter().map(|v| v.abs()).collect();
    let [mut x, t, mut loss] = [device.f32(&logits)?, device.f32(&targets)?, device.empty(1, F32)?];
    let t_view = t.matrix(rows, classes, F32);
    let loss_view = loss.matrix_mut(1, 1, F32);
    binary_cross_entropy::forward(context, x.matrix(rows, classes, F32), t_view, loss_view)?;
    let d = 0.7;
    binary_cross_entropy::backward(context, x.matrix_mut(rows, classes, F32), t_view, d)?;
    let [loss, gradient] = [device.read_f32(&loss)?, device.read_f32(&x)?];
    let (mut want, mut want_loss) = (vec![0f32; count], 0.0);
    if count > 0 {
        want_loss = reference::binary_cross_entropy_forward(&logits, &targets, classes);
        reference::binary_cross_entropy_backward(&mut want, &logits, &targets, classes, d);
    }
    // Every term is at most |x| + ln 2.
    let magnitude: f32 = logits.iter().map(|x| x.abs() + 1.0).sum::<f32>() / rows.max(1) as f32;
    let scale = d / rows.max(1) as f32;
    Ok(compare("loss", &loss, &[want_loss], |_| sum_bound(count) * magnitude)
        // The sigmoid is at most 1.
        .and_then(|()| compare("gradient", &gradient, &want, |_| sum_bound(0) * scale)))
}

fn patches(device: &Device, [rows, width]: [usize; 2], factor: f32) -> Result<Outcome, Error> {
    // The unbiased variance of one value does not exist.
    if width == 1 {
        return Ok(Ok(()));
    }
    let context = &device.context;
    let count = rows * width;
    let (prediction, target) = (random(count, 1), random(count, 2));
    let pixels: Vec<f32> = target.iter().map(|v| 2.0 + v * factor).collect();
    let [mut p, mut t, mut loss] = [device.f32(&prediction)?, device.f32(&pixels)?, device.empty(1, F32)?];
    patch_loss::normalise_rows(context, t.matrix_mut(rows, width, F32))?;
    let normalised = device.read_f32(&t)?;
    let mut want = pixels.clone();
    reference::normalise_patches(&mut want, width);
    let t_view = t.matrix(rows, width, F32);
    patch_loss::forward(context, p.matrix(rows, width, F32), t_view, loss.matrix_mut(1, 1, F32))?;
    let d = 0.7;
    patch_loss::backward(context, p.matrix_mut(rows, width, F32), t_view, d)?;
    let [loss, gradient] = [device.read_f32(&loss)?, device.read_f32(&p)?];
    let (mut want_gradient, mut want_loss) = (vec![0f32; count], 0.0);
    if count > 0 {
        want_loss = reference::patch_loss_forward(&prediction, &normalised);
        reference::patch_loss_backward(&mut want_gradient, &prediction, &normalised, d);
    }
    let scale = 2.0 * d / count.max(1) as f32;
    let check = || {
        compare("normalised", &normalised, &want, |i| {
            // The mean has an error of `sum_bound` times the largest value, which the division by the deviation scales.
            let row = &pixels[i / width * width..][..width];
            let mean = row.iter().sum::<f32>() / width as f32;
            let variance = row.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>() / (width - 1) as f32;
            sum_bound(width) * ((2.0 + factor) / variance.sqrt().max(1e-3) + want[i].abs())
        })?;
        let magnitude: f32 = prediction.iter().zip(&normalised).map(|(p, t)| (p - t) * (p - t)).sum();
        compare("loss", &loss, &[want_loss], |_| {
            sum_bound(count) * magnitude / count.max(1) as f32
        })?;
        compare("gradient", &gradient, &want_gradient, |i| {
            sum_bound(0) * scale * (prediction[i].abs() + normalised[i].abs())
        })
    };
    Ok(check())
}
