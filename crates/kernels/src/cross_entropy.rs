//! Softmax cross-entropy of rows of logits, with one target class per row. The plain versions are
//! [`reference::cross_entropy_forward`](crate::reference::cross_entropy_forward) and
//! [`reference::cross_entropy_backward`](crate::reference::cross_entropy_backward).

use crate::parallel::SharedMut;
use rayon::prelude::*;
use vlct_simd::math::{exp, max, sum};
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
            *loss = softmax_row(row, *target as usize);
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

multiversion! {
fn softmax_row(row: &mut [f32], target: usize) -> f32 {
    let row_max = max(row);
    let logit = row[target];
    for v in row.iter_mut() {
        *v = exp(*v - row_max);
    }
    let row_sum = sum(row, |v| v);
    let factor = 1.0 / row_sum;
    for v in row.iter_mut() {
        *v *= factor;
    }
    row_sum.ln() - (logit - row_max)
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
}
