//! The optimisers' updates of one parameter, each in one pass over its memory.

use rayon::prelude::*;
use vlct_simd::multiversion;

/// Values per task.
const BLOCK: usize = 32 * 1024;

/// The numbers of one update of one parameter.
#[derive(Clone, Copy, Debug)]
pub struct Update {
    /// Learning rate.
    pub learning_rate: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// Which update of this parameter this is, from 1.
    pub step: u64,
}

/// The constants of Adam and AdamW.
#[derive(Clone, Copy, Debug)]
pub struct Betas {
    /// Decay of the gradient's running mean.
    pub beta1: f64,
    /// Decay of the squared gradient's running mean.
    pub beta2: f64,
    /// Keeps the quotient finite.
    pub epsilon: f32,
}

/// AdamW as in the transformers library (Loshchilov & Hutter 2019), ε outside the bias correction, decay after the step:
/// `m ← β1·m + (1−β1)·g`, `v ← β2·v + (1−β2)·g²`, `p ← p − lr·sqrt(1−β2ᵗ)/(1−β1ᵗ)·m/(sqrt(v)+ε)`, `p ← p − lr·wd·p`.
pub fn adamw(p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], u: Update, b: Betas) {
    let (c1, c2) = corrections(u, b);
    let step = (u.learning_rate * c2.sqrt() / c1) as f32;
    let decay = (u.learning_rate * u.weight_decay) as f32;
    let (beta1, beta2) = (b.beta1 as f32, b.beta2 as f32);
    blocks(p, g, m, v, |p, g, m, v| {
        adamw_block(p, g, m, v, beta1, beta2, step, b.epsilon, decay)
    });
}

/// Adam as in PyTorch (Kingma & Ba 2015), weight decay added to the gradient:
/// `p ← p − lr/(1−β1ᵗ)·m / (sqrt(v)/sqrt(1−β2ᵗ) + ε)`.
pub fn adam(p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], u: Update, b: Betas) {
    let (c1, c2) = corrections(u, b);
    let (step, root) = ((u.learning_rate / c1) as f32, (1.0 / c2.sqrt()) as f32);
    let (beta1, beta2, decay) = (b.beta1 as f32, b.beta2 as f32, u.weight_decay as f32);
    blocks(p, g, m, v, |p, g, m, v| {
        adam_block(p, g, m, v, beta1, beta2, step, root, b.epsilon, decay)
    });
}

/// Gradient descent with momentum as in PyTorch: `g ← g + wd·p`, `m ← g` at first, then `μ·m + g`, `p ← p − lr·m`.
pub fn sgd(p: &mut [f32], g: &[f32], m: &mut [f32], u: Update, momentum: f32) {
    assert!(p.len() == g.len() && p.len() == m.len());
    let (rate, decay) = (u.learning_rate as f32, u.weight_decay as f32);
    let keep = if u.step == 1 { 0.0 } else { momentum };
    p.par_chunks_mut(BLOCK)
        .zip(g.par_chunks(BLOCK))
        .zip(m.par_chunks_mut(BLOCK))
        .for_each(|((p, g), m)| sgd_block(p, g, m, rate, decay, keep));
}

fn corrections(u: Update, b: Betas) -> (f64, f64) {
    (1.0 - b.beta1.powf(u.step as f64), 1.0 - b.beta2.powf(u.step as f64))
}

fn blocks(
    p: &mut [f32],
    g: &[f32],
    m: &mut [f32],
    v: &mut [f32],
    task: impl Fn(&mut [f32], &[f32], &mut [f32], &mut [f32]) + Sync,
) {
    assert!(p.len() == g.len() && p.len() == m.len() && p.len() == v.len());
    p.par_chunks_mut(BLOCK)
        .zip(g.par_chunks(BLOCK))
        .zip(m.par_chunks_mut(BLOCK).zip(v.par_chunks_mut(BLOCK)))
        .for_each(|((p, g), (m, v))| task(p, g, m, v));
}

multiversion! {
fn adamw_block(p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], beta1: f32, beta2: f32, step: f32, epsilon: f32, decay: f32) {
    let (one1, one2) = (1.0 - beta1, 1.0 - beta2);
    for (((p, g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
        *m = beta1 * *m + one1 * g;
        *v = beta2 * *v + one2 * (g * g);
        let moved = *p - step * (*m / (v.sqrt() + epsilon));
        *p = moved - decay * moved;
    }
}
}

multiversion! {
fn adam_block(p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], beta1: f32, beta2: f32, step: f32, root: f32, epsilon: f32, decay: f32) {
    let (one1, one2) = (1.0 - beta1, 1.0 - beta2);
    for (((p, g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
        let g = g + decay * *p;
        *m = beta1 * *m + one1 * g;
        *v = beta2 * *v + one2 * (g * g);
        *p -= step * (*m / (v.sqrt() * root + epsilon));
    }
}
}

multiversion! {
fn sgd_block(p: &mut [f32], g: &[f32], m: &mut [f32], rate: f32, decay: f32, keep: f32) {
    for ((p, g), m) in p.iter_mut().zip(g).zip(m) {
        *m = keep * *m + (g + decay * *p);
        *p -= rate * *m;
    }
}
}

#[cfg(test)]
mod tests {
    use super::*;

    const BETAS: Betas = Betas {
        beta1: 0.9,
        beta2: 0.98,
        epsilon: 1e-8,
    };

    fn run(mut update: impl FnMut(&mut [f32], &[f32], Update)) -> Vec<f64> {
        let mut p = [1f32];
        [0.5f32, -0.2, 0.1]
            .iter()
            .enumerate()
            .map(|(i, g)| {
                update(
                    &mut p,
                    &[*g],
                    Update {
                        learning_rate: 1e-3,
                        weight_decay: 0.01,
                        step: i as u64 + 1,
                    },
                );
                p[0] as f64
            })
            .collect()
    }

    fn assert_sequence(got: Vec<f64>, want: [f64; 3]) {
        for (g, w) in got.iter().zip(want) {
            assert!((g - w).abs() < 2e-7, "{g} against {w}");
        }
    }

    #[test]
    fn adamw_gives_the_published_sequence() {
        let (mut m, mut v) = ([0f32], [0f32]);
        let got = run(|p, g, u| adamw(p, g, &mut m, &mut v, u, BETAS));
        assert_sequence(
            got,
            [0.998_990_010_014_142, 0.998_633_209_793_467_7, 0.998_240_893_211_803_8],
        );
    }

    #[test]
    fn adam_and_sgd_follow_their_formulas_in_double_precision() {
        let (mut m, mut v, mut p, mut want) = (0f64, 0f64, 1f64, [0f64; 3]);
        for (i, g) in [0.5, -0.2, 0.1].into_iter().enumerate() {
            let (g, t) = (g + 0.01 * p, i as i32 + 1);
            m = 0.9 * m + 0.1 * g;
            v = 0.98 * v + 0.02 * g * g;
            p -= 1e-3 * (m / (1.0 - 0.9f64.powi(t))) / ((v / (1.0 - 0.98f64.powi(t))).sqrt() + 1e-8);
            want[i] = p;
        }
        let (mut m, mut v) = ([0f32], [0f32]);
        assert_sequence(run(|p, g, u| adam(p, g, &mut m, &mut v, u, BETAS)), want);
        let (mut m, mut p, mut want) = (0f64, 1f64, [0f64; 3]);
        for (i, g) in [0.5, -0.2, 0.1].into_iter().enumerate() {
            m = 0.9 * m + g + 0.01 * p;
            p -= 1e-3 * m;
            want[i] = p;
        }
        let mut m = [0f32];
        assert_sequence(run(|p, g, u| sgd(p, g, &mut m, u, 0.9)), want);
    }
}
