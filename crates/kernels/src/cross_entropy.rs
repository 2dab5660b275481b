//! Softmax cross-entropy of rows of logits, with one target class per row, or with a weight for each class (*soft* targets: label
//! smoothing, mixup). The plain versions are [`reference::cross_entropy_forward`](crate::reference::cross_entropy_forward),
//! [`reference::cross_entropy_backward`](crate::reference::cross_entropy_backward),
//! [`reference::soft_cross_entropy_forward`](crate::reference::soft_cross_entropy_forward) and
//! [`reference::soft_cross_entropy_backward`](crate::reference::soft_cross_entropy_backward).

use crate::parallel::SharedMut;
use rayon::prelude::*;
use vlct_simd::math::{exp, max, sum, sum2};
use vlct_simd::multiversion;

/// Writes `loss[r] = −log softmax(logits[r])[target[r]]`, and replaces the logits by the probabilities.
pub fn forward_in_place(logits: &mut [f32], targets: &[u32], loss: &mut [f32]) {
    let classes = if targets.is_empty() {
        return;
    } else {
        logits.len() / targets.len()
    };
    assert!(logits.len() == classes * targets.len() && loss.len() == targets.len());
    logits
        .par_chunks_exact_mut(classes)
        .zip(targets)
        .zip(loss)
        .for_each(|((row, target), loss)| {
            let logit = row[*target as usize];
            let (log_sum, row_max) = softmax_row(row);
            *loss = log_sum - (logit - row_max);
        });
}

/// Replaces the probabilities `p` by the gradient of the logits, `(p[r] − onehot(target[r])) · scale`.
pub fn backward_in_place(probabilities: &mut [f32], targets: &[u32], scale: f32) {
    let classes = if targets.is_empty() {
        return;
    } else {
        probabilities.len() / targets.len()
    };
    let shared = SharedMut::new(probabilities);
    targets.par_iter().enumerate().for_each(|(r, target)| {
        assert!((*target as usize) < classes, "class {target} is not below {classes}");
        // SAFETY: each task accesses a different row, and the slice has `classes` values per target.
        let row = unsafe { std::slice::from_raw_parts_mut(shared.ptr_at(r * classes), classes) };
        row[*target as usize] -= 1.0;
        for v in row {
            *v *= scale;
        }
    });
}

/// Writes `loss[r] = −Σ targets[r, c] · log softmax(logits[r])[c]`, and replaces the logits `[rows, classes]` by the probabilities. The
/// weights of a row need not add up to 1.
pub fn soft_forward_in_place(logits: &mut [f32], targets: &[f32], classes: usize, loss: &mut [f32]) {
    assert_eq!(logits.len(), targets.len());
    assert_eq!(logits.len(), classes * loss.len());
    logits
        .par_chunks_exact_mut(classes)
        .zip(targets.par_chunks_exact(classes))
        .zip(loss)
        .for_each(|((row, targets), loss)| {
            let total = sum(targets, |t| t);
            let weighted = sum2(row, targets, |x, t| x * t);
            let (log_sum, row_max) = softmax_row(row);
            *loss = log_sum * total - (weighted - row_max * total);
        });
}

/// Replaces the probabilities `p` by the gradient of the logits, `(p[r, c] · Σ targets[r] − targets[r, c]) · scale`.
pub fn soft_backward_in_place(probabilities: &mut [f32], targets: &[f32], classes: usize, scale: f32) {
    assert_eq!(probabilities.len(), targets.len());
    probabilities
        .par_chunks_exact_mut(classes)
        .zip(targets.par_chunks_exact(classes))
        .for_each(|(row, targets)| {
            let total = sum(targets, |t| t);
            for (p, t) in row.iter_mut().zip(targets) {
                *p = (*p * total - t) * scale;
            }
        });
}

multiversion! {
/// Replaces a row of logits by the probabilities. Returns `ln Σ exp(logit − max)` and the largest logit.
fn softmax_row(row: &mut [f32]) -> (f32, f32) {
    let row_max = max(row);
    for v in row.iter_mut() {
        *v = exp(*v - row_max);
    }
    let row_sum = sum(row, |v| v);
    let factor = 1.0 / row_sum;
    for v in row.iter_mut() {
        *v *= factor;
    }
    (row_sum.ln(), row_max)
}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference;

    #[test]
    fn forward_and_backward_equal_the_reference() {
        let (rows, classes) = (5, 33);
        let logits: Vec<f32> = (0..rows * classes)
            .map(|i| ((i * 7919) % 101) as f32 / 9.0 - 5.0)
            .collect();
        let targets = [2, 0, 32, 7, 7];
        let [mut loss, mut want_loss] = [[0f32; 5]; 2];
        let (mut p, mut want) = (logits.clone(), vec![0f32; logits.len()]);
        forward_in_place(&mut p, &targets, &mut loss);
        reference::cross_entropy_forward(&mut want_loss, &mut want, &logits, &targets);
        let assert_close = |got: &[f32], want: &[f32]| {
            for (got, want) in got.iter().zip(want) {
                assert!((got - want).abs() < 5e-6, "{got} instead of {want}");
            }
        };
        assert_close(&loss, &want_loss);
        assert_close(&p, &want);
        reference::cross_entropy_backward(&mut want, &p, &targets, 0.5);
        backward_in_place(&mut p, &targets, 0.5);
        assert_close(&p, &want);
    }

    #[test]
    fn soft_targets_equal_the_reference_and_one_hot_rows_equal_classes() {
        let (rows, classes) = (4, 37);
        let logits: Vec<f32> = (0..rows * classes)
            .map(|i| ((i * 7919) % 101) as f32 / 9.0 - 5.0)
            .collect();
        // The weights of a row add up to 1, 0.3 or 0.
        let mut targets = vec![0f32; logits.len()];
        targets[..classes].fill(0.1 / classes as f32);
        targets[5] += 0.9;
        (targets[classes + 3], targets[classes + 36]) = (0.25, 0.75);
        targets[2 * classes + 1] = 0.3;
        let [mut loss, mut want_loss] = [[0f32; 4]; 2];
        let (mut p, mut want) = (logits.clone(), vec![0f32; logits.len()]);
        soft_forward_in_place(&mut p, &targets, classes, &mut loss);
        reference::soft_cross_entropy_forward(&mut want_loss, &mut want, &logits, &targets, classes);
        let assert_close = |got: &[f32], want: &[f32]| {
            for (got, want) in got.iter().zip(want) {
                assert!((got - want).abs() < 5e-6, "{got} instead of {want}");
            }
        };
        assert_close(&loss, &want_loss);
        assert_close(&p, &want);
        assert_eq!(loss[3], 0.0, "no target");
        reference::soft_cross_entropy_backward(&mut want, &p, &targets, classes, 0.5);
        soft_backward_in_place(&mut p, &targets, classes, 0.5);
        assert_close(&p, &want);

        let mut one_hot = vec![0f32; classes];
        one_hot[7] = 1.0;
        let (mut soft, mut hard) = (logits[..classes].to_vec(), logits[..classes].to_vec());
        let [mut soft_loss, mut hard_loss] = [[0f32; 1]; 2];
        soft_forward_in_place(&mut soft, &one_hot, classes, &mut soft_loss);
        forward_in_place(&mut hard, &[7], &mut hard_loss);
        assert_close(&soft_loss, &hard_loss);
        assert_eq!(soft, hard);
    }
}
