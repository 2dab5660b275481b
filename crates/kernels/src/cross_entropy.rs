//! Softmax cross-entropy of rows of logits with one right class each.

use crate::parallel::SharedMut;
use rayon::prelude::*;
use vlct_simd::math::{exp, max, sum};
use vlct_simd::multiversion;

/// Writes `loss[r] = −log softmax(logits[r])[target[r]]` and turns the logits into probabilities in place.
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

/// `d_logits[r] = (p[r] − onehot(target[r])) · scale`, in place of the probabilities `p`.
pub fn backward_in_place(probabilities: &mut [f32], targets: &[u32], scale: f32) {
    let classes = if targets.is_empty() {
        return;
    } else {
        probabilities.len() / targets.len()
    };
    let shared = SharedMut::new(probabilities);
    targets.par_iter().enumerate().for_each(|(r, target)| {
        assert!((*target as usize) < classes, "class {target} of {classes}");
        // SAFETY: one row per task, within `targets.len() · classes` values.
        let row = unsafe { std::slice::from_raw_parts_mut(shared.at(r * classes), classes) };
        row[*target as usize] -= 1.0;
        for v in row {
            *v *= scale;
        }
    });
}

multiversion! {
fn softmax_row(row: &mut [f32], target: usize) -> f32 {
    let top = max(row);
    let logit = row[target];
    for v in row.iter_mut() {
        *v = exp(*v - top);
    }
    let total = sum(row, |v| v);
    let factor = 1.0 / total;
    for v in row.iter_mut() {
        *v *= factor;
    }
    total.ln() - (logit - top)
}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_and_gradient_of_a_known_case() {
        let mut p = vec![1.0f32, 2.0, 3.0, 0.0, 0.0, 0.0];
        let mut loss = [0f32; 2];
        forward_in_place(&mut p, &[2, 0], &mut loss);
        assert!((loss[0] - 0.407_605_96).abs() < 1e-6 && (loss[1] - 3f32.ln()).abs() < 1e-6);
        backward_in_place(&mut p, &[2, 0], 0.5);
        let want = [0.045_015_3, 0.122_364_2, -0.167_379_5, -1.0 / 3.0, 1.0 / 6.0, 1.0 / 6.0];
        for (g, w) in p.iter().zip(want) {
            assert!((g - w).abs() < 1e-6, "{g} {w}");
        }
    }
}
