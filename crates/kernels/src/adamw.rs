//! AdamW as in the transformers library (Loshchilov & Hutter 2019): ε outside the bias correction, decay after the step.

use crate::simd::multiversion;
use rayon::prelude::*;

/// The numbers of one update of one parameter.
#[derive(Clone, Copy, Debug)]
pub struct Update {
    /// Learning rate.
    pub learning_rate: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// Decay of the gradient's running mean.
    pub beta1: f64,
    /// Decay of the squared gradient's running mean.
    pub beta2: f64,
    /// Added to the root of the (uncorrected) second moment.
    pub epsilon: f32,
    /// Which update of this parameter this is, from 1.
    pub step: u64,
}

/// `m ← β1·m + (1−β1)·g`, `v ← β2·v + (1−β2)·g²`, `p ← p − lr·sqrt(1−β2ᵗ)/(1−β1ᵗ)·m/(sqrt(v)+ε)`, `p ← p − lr·wd·p`.
pub fn update(p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], u: Update) {
    /// Values per task.
    const BLOCK: usize = 32 * 1024;
    assert!(p.len() == g.len() && p.len() == m.len() && p.len() == v.len());
    let t = u.step as i32;
    let step_size = u.learning_rate as f64 * (1.0 - u.beta2.powi(t)).sqrt() / (1.0 - u.beta1.powi(t));
    let decay = u.learning_rate * u.weight_decay;
    p.par_chunks_mut(BLOCK)
        .zip(g.par_chunks(BLOCK))
        .zip(m.par_chunks_mut(BLOCK).zip(v.par_chunks_mut(BLOCK)))
        .for_each(|((p, g), (m, v))| {
            block(
                p,
                g,
                m,
                v,
                u.beta1 as f32,
                u.beta2 as f32,
                step_size as f32,
                u.epsilon,
                decay,
            )
        });
}

multiversion! {
fn block(p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], beta1: f32, beta2: f32, step: f32, epsilon: f32, decay: f32) {
    let (one1, one2) = (1.0 - beta1, 1.0 - beta2);
    for (((p, g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
        *m = beta1 * *m + one1 * g;
        *v = beta2 * *v + one2 * (g * g);
        let moved = *p - step * (*m / (v.sqrt() + epsilon));
        *p = moved - decay * moved;
    }
}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_sequence() {
        let (mut p, mut m, mut v) = ([1f32], [0f32], [0f32]);
        let want = [
            0.998_990_010_014_141_99,
            0.998_633_209_793_467_7,
            0.998_240_893_211_803_8,
        ];
        for (i, (g, want)) in [0.5f32, -0.2, 0.1].into_iter().zip(want).enumerate() {
            let u = Update {
                learning_rate: 1e-3,
                weight_decay: 0.01,
                beta1: 0.9,
                beta2: 0.98,
                epsilon: 1e-8,
                step: i as u64 + 1,
            };
            update(&mut p, &[g], &mut m, &mut v, u);
            assert!((p[0] as f64 - want).abs() < 2e-7, "{} against {want}", p[0]);
        }
    }
}
