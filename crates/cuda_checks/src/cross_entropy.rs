//! Cross-entropy, soft cross-entropy and accuracies.

use crate::device::{random, sum_bound};
use crate::{Device, Outcome};
use vlct_cuda::cross_entropy::{self, hits, score_at_argmax};
use vlct_cuda::driver::Element::F32;
use vlct_cuda::driver::Error;
use vlct_kernels::argmax::argmax_rows;
use vlct_kernels::reference;

/// Numbers of rows and classes: none, single, smaller and larger than the groups of a warp, VQA's answers, BERT's vocabulary.
const SHAPES: [[usize; 2]; 12] = [
    [0, 8],
    [1, 1],
    [5, 1],
    [40, 2],
    [3, 7],
    [4, 8],
    [2, 17],
    [9, 100],
    [3, 131],
    [5, 258],
    [2, 3129],
    [2, 30522],
];

/// Losses, probabilities and gradients, with target classes and with weights of classes.
///
/// # Errors
/// The first difference, or an error of the driver.
pub fn losses_and_gradients(device: &Device) -> Outcome {
    for_all(device, losses)
}

/// Numbers of correct predictions, and scores of predictions.
///
/// # Errors
/// The first difference, or an error of the driver.
pub fn accuracies(device: &Device) -> Outcome {
    for_all(device, hits_and_scores)
}

/// Masked logits, and NaNs in the argmax.
///
/// # Errors
/// The first difference, or an error of the driver.
pub fn special_values(device: &Device) -> Outcome {
    check_special_values(device).map_err(|e| e.to_string())?
}

/// A comparison for a shape and logits.
type Check = fn(&Device, [usize; 2], &[f32]) -> Result<Outcome, Error>;

fn for_all(device: &Device, check: Check) -> Outcome {
    device.in_all_schedules(|device| {
        for [rows, classes] in SHAPES {
            let count = rows * classes;
            // The logits of a model, logits whose exponentials overflow, many equal logits, and all equal logits.
            let scaled = |factor: f32| random(count, 1).iter().map(|v| factor * v).collect::<Vec<_>>();
            let whole = scaled(3.0).iter().map(|v| v.round()).collect();
            for logits in [scaled(8.0), scaled(1e4), whole, vec![-7.5; count]] {
                check(device, [rows, classes], &logits)
                    .map_err(|e| e.to_string())
                    .flatten()
                    .map_err(|e| format!("[{rows}, {classes}], logits {:?} …: {e}", logits.first()))?;
            }
        }
        Ok(())
    })
}

/// Returns target classes, the first and the last included.
fn classes_of_rows(rows: usize, classes: usize) -> Vec<u32> {
    (0..rows)
        .map(|r| match r % 3 {
            0 => classes - 1,
            1 => 0,
            _ => (r * 7919) % classes,
        } as u32)
        .collect()
}

/// Returns weights of classes: rows whose weights add up to about 1, to 0, and to less than 1.
fn weights(rows: usize, classes: usize) -> Vec<f32> {
    let mut weights = vec![0f32; rows * classes];
    for (r, row) in weights.chunks_exact_mut(classes).enumerate() {
        if r % 3 != 1 {
            row.fill(0.1 / classes as f32);
            row[(r * 31 + classes - 1) % classes] += if r % 3 == 0 { 0.9 } else { 0.2 };
        }
    }
    weights
}

fn losses(device: &Device, [rows, classes]: [usize; 2], logits: &[f32]) -> Result<Outcome, Error> {
    let context = &device.context;
    let (targets, soft_targets) = (classes_of_rows(rows, classes), weights(rows, classes));
    let [mut row_losses, mut soft_row_losses] = [vec![0f32; rows], vec![0f32; rows]];
    let [mut want_p, mut want_d, mut want_soft_d] = [(); 3].map(|()| vec![0f32; logits.len()]);
    let d = 0.7;
    if rows > 0 {
        reference::soft_cross_entropy_forward(&mut soft_row_losses, &mut want_p, logits, &soft_targets, classes);
        reference::cross_entropy_forward(&mut row_losses, &mut want_p, logits, &targets);
        let scale = d / rows as f32;
        reference::cross_entropy_backward(&mut want_d, &want_p, &targets, scale);
        reference::soft_cross_entropy_backward(&mut want_soft_d, &want_p, &soft_targets, classes, scale);
    }
    let mean = |losses: &[f32]| losses.iter().sum::<f32>() / rows.max(1) as f32;

    let [x, t] = [device.f32(logits)?, device.f32(&soft_targets)?];
    let [mut p, mut soft_p] = [(); 2].map(|()| device.empty(logits.len(), F32));
    let (p, soft_p) = (
        p.as_mut().map_err(|e| e.clone())?,
        soft_p.as_mut().map_err(|e| e.clone())?,
    );
    let [mut loss, mut soft_loss] = [device.empty(1, F32)?, device.empty(1, F32)?];
    let (x, t) = (x.matrix(rows, classes, F32), t.matrix(rows, classes, F32));
    cross_entropy::forward(
        context,
        x,
        &targets,
        p.matrix_mut(rows, classes, F32),
        loss.matrix_mut(1, 1, F32),
    )?;
    cross_entropy::soft_forward(
        context,
        x,
        t,
        soft_p.matrix_mut(rows, classes, F32),
        soft_loss.matrix_mut(1, 1, F32),
    )?;
    let [got_p, got_soft_p] = [device.read_f32(p)?, device.read_f32(soft_p)?];
    cross_entropy::backward(context, p.matrix_mut(rows, classes, F32), &targets, d)?;
    cross_entropy::soft_backward(context, soft_p.matrix_mut(rows, classes, F32), t, d)?;
    let [got_d, got_soft_d] = [device.read_f32(p)?, device.read_f32(soft_p)?];
    let [loss, soft_loss] = [device.read_f32(&loss)?, device.read_f32(&soft_loss)?];

    // The relative error of a probability and of the sum of a row: that of a sum, and that of arguments of exponentials, which are the
    // difference to the maximum. Differences above 104 give 0.
    let bound = sum_bound(classes) + 104.0 * f32::EPSILON;
    let max = |row: usize| {
        logits[row * classes..][..classes]
            .iter()
            .copied()
            .fold(f32::MIN, f32::max)
    };
    let maxima: Vec<f32> = (0..rows).map(max).collect();
    // The loss of a row is the weighted sum of differences and of the logarithm of the sum, whose error is the relative error of the sum.
    let loss_bound = |weight: &dyn Fn(usize) -> f32| {
        let terms = |r: usize, i: usize| weight(i) * (maxima[r] - logits[i] + (classes as f32).ln() + 1.0);
        let row = |r: usize| (r * classes..(r + 1) * classes).map(|i| terms(r, i)).sum::<f32>();
        (0..rows).map(row).sum::<f32>() * (bound + sum_bound(rows)) / rows.max(1) as f32
    };
    let one_hot = |i: usize| f32::from(targets[i / classes] as usize == i % classes);
    let totals: Vec<f32> = soft_targets.chunks(classes).map(|row| row.iter().sum()).collect();
    let scale = d / rows.max(1) as f32;
    let check = || {
        device.compare("loss", &loss, &[mean(&row_losses)], |_| loss_bound(&one_hot))?;
        device.compare("soft loss", &soft_loss, &[mean(&soft_row_losses)], |_| {
            loss_bound(&|i| soft_targets[i])
        })?;
        device.compare("probabilities", &got_p, &want_p, |i| {
            bound * want_p[i] + f32::MIN_POSITIVE
        })?;
        device.compare("soft probabilities", &got_soft_p, &got_p, |_| 0.0)?;
        device.compare("gradient", &got_d, &want_d, |i| {
            scale * (bound * want_p[i] + sum_bound(0) * one_hot(i)) + f32::MIN_POSITIVE
        })?;
        device.compare("soft gradient", &got_soft_d, &want_soft_d, |i| {
            let total = totals[i / classes];
            scale * (2.0 * bound * want_p[i] * total + sum_bound(0) * soft_targets[i]) + f32::MIN_POSITIVE
        })
    };
    Ok(check())
}

fn hits_and_scores(device: &Device, [rows, classes]: [usize; 2], logits: &[f32]) -> Result<Outcome, Error> {
    let context = &device.context;
    let predictions = argmax_rows(logits, classes);
    // Every third row is wrong.
    let wrong = |p: u32| if p == 0 { classes as u32 - 1 } else { p - 1 };
    let targets: Vec<u32> = (0..rows)
        .map(|r| {
            if r % 3 == 2 {
                wrong(predictions[r])
            } else {
                predictions[r]
            }
        })
        .collect();
    let want = targets.iter().zip(&predictions).filter(|(t, p)| t == p).count() as f32;
    let scores = random(logits.len(), 2);
    let chosen: Vec<f32> = (0..rows)
        .map(|r| scores[r * classes + predictions[r] as usize])
        .collect();
    let [x, s] = [device.f32(logits)?, device.f32(&scores)?];
    let [mut hit, mut score] = [device.empty(1, F32)?, device.empty(1, F32)?];
    let x = x.matrix(rows, classes, F32);
    hits(context, x, &targets, hit.matrix_mut(1, 1, F32))?;
    score_at_argmax(context, x, s.matrix(rows, classes, F32), score.matrix_mut(1, 1, F32))?;
    let [hit, score] = [device.read_f32(&hit)?, device.read_f32(&score)?];
    let magnitude: f32 = chosen.iter().map(|v| v.abs()).sum();
    Ok(device
        .compare("hits", &hit, &[want], |_| 0.0)
        .and_then(|()| device.compare("score", &score, &[chosen.iter().sum()], |_| sum_bound(rows) * magnitude)))
}

fn check_special_values(device: &Device) -> Result<Outcome, Error> {
    const MASKED: f32 = f32::NEG_INFINITY;
    let logits = [
        [MASKED, MASKED, MASKED, MASKED, MASKED, 1.0, 1.0],
        [0.0, MASKED, f32::MAX, 0.0, 0.0, 0.0, MASKED],
    ]
    .concat();
    let x = device.f32(&logits)?;
    let [mut p, mut loss] = [device.empty(14, F32)?, device.empty(1, F32)?];
    let (p_view, loss_view) = (p.matrix_mut(2, 7, F32), loss.matrix_mut(1, 1, F32));
    cross_entropy::forward(&device.context, x.matrix(2, 7, F32), &[5, 2], p_view, loss_view)?;
    let want = [[0.0, 0.0, 0.0, 0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]].concat();
    let [p, loss] = [device.read_f32(&p)?, device.read_f32(&loss)?];

    let logits = [
        [f32::NAN, 3.0, 1.0],
        [1.0, f32::NAN, 2.0],
        [MASKED, MASKED, MASKED],
        [MASKED, f32::NAN, MASKED],
        [f32::NAN, f32::NAN, f32::NAN],
    ]
    .concat();
    let predictions = argmax_rows(&logits, 3);
    let (x, mut hit) = (device.f32(&logits)?, device.empty(1, F32)?);
    hits(
        &device.context,
        x.matrix(5, 3, F32),
        &predictions,
        hit.matrix_mut(1, 1, F32),
    )?;
    let hit = device.read_f32(&hit)?;
    let check = || {
        device.compare("probabilities of masked logits", &p, &want, |_| 0.0)?;
        device.compare("loss of masked logits", &loss, &[0.5 * 2f32.ln()], |_| sum_bound(0))?;
        device.compare("hits with NaNs", &hit, &[5.0], |_| 0.0)
    };
    Ok(check())
}
