//! Updates of one parameter by AdamW, Adam, SGD and LARS, in a single pass over memory. The plain versions are
//! [`reference::adamw`](crate::reference::adamw), [`reference::adamw_pytorch`](crate::reference::adamw_pytorch),
//! [`reference::adam`](crate::reference::adam), [`reference::sgd`](crate::reference::sgd) and [`reference::lars`](crate::reference::lars).
//! Also the norm of all gradients, by which they are clipped.

use rayon::prelude::*;
use vlct_simd::multiversion;

/// Trust coefficient of LARS.
const LARS_TRUST: f64 = 0.001;
/// Values per task.
const BLOCK: usize = 32 * 1024;

/// The hyperparameters of one update of one parameter.
#[derive(Clone, Copy, Debug)]
pub struct Update {
    /// Learning rate, already multiplied by the factors of the schedule and the layer.
    pub learning_rate: f64,
    /// Weight decay of this parameter.
    pub weight_decay: f64,
    /// The number of updates of the parameter, this one included.
    pub step: u64,
    /// Factor of the gradient: 1, or less if the gradient is clipped.
    pub gradient_factor: f32,
}

/// The constants of Adam and AdamW.
#[derive(Clone, Copy, Debug)]
pub struct Betas {
    /// Decay of the running mean of the gradient.
    pub beta1: f64,
    /// Decay of the running mean of the squared gradient.
    pub beta2: f64,
    /// ε, which is added to the denominator.
    pub epsilon: f32,
}

/// Updates `p` by AdamW as in Hugging Face Transformers (Loshchilov & Hutter 2019): ε is outside the bias correction, and weight decay
/// follows the step.
///
/// `m ← β1·m + (1−β1)·g`, `v ← β2·v + (1−β2)·g²`, `p ← p − lr·sqrt(1−β2ᵗ)/(1−β1ᵗ)·m/(sqrt(v)+ε)`, `p ← p − lr·wd·p`.
pub fn adamw(p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], u: Update, b: Betas) {
    let (c1, c2) = bias_corrections(u.step, b);
    let step_size = (u.learning_rate * c2.sqrt() / c1) as f32;
    let decay = (u.learning_rate * u.weight_decay) as f32;
    let (beta1, beta2) = (b.beta1 as f32, b.beta2 as f32);
    for_each_block(p, g, m, v, |p, g, m, v| {
        adamw_block(p, g, m, v, u.gradient_factor, beta1, beta2, step_size, b.epsilon, decay)
    });
}

/// Updates `p` by Adam as in PyTorch (Kingma & Ba 2015), with weight decay added to the gradient:
/// `p ← p − lr/(1−β1ᵗ)·m / (sqrt(v)/sqrt(1−β2ᵗ) + ε)`.
pub fn adam(p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], u: Update, b: Betas) {
    adam_with(p, g, m, v, u, b, u.weight_decay as f32, 1.0);
}

/// Updates `p` by Adam. `decay · p` is added to the gradient; `kept` is the factor of `p` before the step.
#[expect(clippy::too_many_arguments, reason = "the arguments of an update and two factors")]
fn adam_with(p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], u: Update, b: Betas, decay: f32, kept: f32) {
    let (c1, c2) = bias_corrections(u.step, b);
    let (step_size, v_factor) = ((u.learning_rate / c1) as f32, (1.0 / c2.sqrt()) as f32);
    let (beta1, beta2) = (b.beta1 as f32, b.beta2 as f32);
    for_each_block(p, g, m, v, |p, g, m, v| {
        adam_block(
            p,
            g,
            m,
            v,
            u.gradient_factor,
            beta1,
            beta2,
            step_size,
            v_factor,
            b.epsilon,
            decay,
            kept,
        )
    });
}

/// Updates `p` by AdamW as in PyTorch (Loshchilov & Hutter 2019): ε is inside the bias correction, and weight decay precedes the step.
///
/// `p ← p·(1 − lr·wd)`, then `p ← p − lr/(1−β1ᵗ)·m / (sqrt(v)/sqrt(1−β2ᵗ) + ε)`.
pub fn adamw_pytorch(p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], u: Update, b: Betas) {
    let kept = (1.0 - u.learning_rate * u.weight_decay) as f32;
    adam_with(p, g, m, v, u, b, 0.0, kept);
}

/// Updates `p` by LARS as in MAE's linear probing (You et al. 2017, arXiv 1708.03888). A matrix (`adapts`) has weight decay added to its
/// gradient, which is then scaled to 0.001 times the norm of the weights: `g ← g + wd·p`, `g ← g·0.001·‖p‖/‖g‖` (unless a norm is 0).
/// Then `m ← μ·m + g`, `p ← p − lr·m`.
pub fn lars(p: &mut [f32], g: &[f32], m: &mut [f32], u: Update, momentum: f32, adapts: bool) {
    assert!(p.len() == g.len() && p.len() == m.len());
    let decay = if adapts { u.weight_decay as f32 } else { 0.0 };
    let mut factor = 1.0;
    if adapts {
        let updates: Vec<f32> = p
            .iter()
            .zip(g)
            .map(|(p, g)| u.gradient_factor * g + decay * p)
            .collect();
        let (weights, update) = (l2_norm(&[p]), l2_norm(&[&updates]));
        if weights > 0.0 && update > 0.0 {
            factor = (LARS_TRUST * weights / update) as f32;
        }
    }
    let rate = u.learning_rate as f32;
    for ((p, g), m) in p.iter_mut().zip(g).zip(m) {
        *m = momentum * *m + (u.gradient_factor * g + decay * *p) * factor;
        *p -= rate * *m;
    }
}

/// Updates `p` by gradient descent with momentum as in PyTorch: `g ← g + wd·p`, `m ← μ·m + g` (`m ← g` in the first step), `p ← p − lr·m`.
pub fn sgd(p: &mut [f32], g: &[f32], m: &mut [f32], u: Update, momentum: f32) {
    assert!(p.len() == g.len() && p.len() == m.len());
    let (rate, decay) = (u.learning_rate as f32, u.weight_decay as f32);
    let momentum = if u.step == 1 { 0.0 } else { momentum };
    p.par_chunks_mut(BLOCK)
        .zip(g.par_chunks(BLOCK))
        .zip(m.par_chunks_mut(BLOCK))
        .for_each(|((p, g), m)| sgd_block(p, g, m, u.gradient_factor, rate, decay, momentum));
}

/// Returns the L2 norm of all values of all slices, summed in double precision. Each slice is summed in blocks of fixed size, and the
/// sums of the blocks are added in order, so the result does not depend on the number of threads.
pub fn l2_norm(slices: &[&[f32]]) -> f64 {
    let blocks: Vec<&[f32]> = slices.iter().flat_map(|values| values.chunks(BLOCK)).collect();
    let sums: Vec<f64> = blocks.into_par_iter().map(sum_of_squares).collect();
    sums.iter().sum::<f64>().sqrt()
}

/// Returns `1 − β1ᵗ` and `1 − β2ᵗ` for the step `t`, counted from 1.
pub fn bias_corrections(step: u64, b: Betas) -> (f64, f64) {
    (1.0 - b.beta1.powf(step as f64), 1.0 - b.beta2.powf(step as f64))
}

fn for_each_block(
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
/// Returns the sum of the squares, from eight interleaved partial sums, so that the order of additions does not depend on the CPU.
fn sum_of_squares(values: &[f32]) -> f64 {
    let mut lanes = [0f64; 8];
    let (blocks, rest) = values.as_chunks::<8>();
    for block in blocks {
        for i in 0..8 {
            lanes[i] += f64::from(block[i]) * f64::from(block[i]);
        }
    }
    for (lane, value) in lanes.iter_mut().zip(rest) {
        *lane += f64::from(*value) * f64::from(*value);
    }
    lanes.iter().sum()
}
}

multiversion! {
fn adamw_block(
    p: &mut [f32],
    g: &[f32],
    m: &mut [f32],
    v: &mut [f32],
    factor: f32,
    beta1: f32,
    beta2: f32,
    step_size: f32,
    epsilon: f32,
    decay: f32,
) {
    let (one_minus_beta1, one_minus_beta2) = (1.0 - beta1, 1.0 - beta2);
    for (((p, g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
        let g = factor * g;
        *m = beta1 * *m + one_minus_beta1 * g;
        *v = beta2 * *v + one_minus_beta2 * (g * g);
        let updated = *p - step_size * (*m / (v.sqrt() + epsilon));
        *p = updated - decay * updated;
    }
}
}

multiversion! {
fn adam_block(
    p: &mut [f32],
    g: &[f32],
    m: &mut [f32],
    v: &mut [f32],
    factor: f32,
    beta1: f32,
    beta2: f32,
    step_size: f32,
    v_factor: f32,
    epsilon: f32,
    decay: f32,
    kept: f32,
) {
    let (one_minus_beta1, one_minus_beta2) = (1.0 - beta1, 1.0 - beta2);
    for (((p, g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
        let g = factor * g + decay * *p;
        *m = beta1 * *m + one_minus_beta1 * g;
        *v = beta2 * *v + one_minus_beta2 * (g * g);
        *p = *p * kept - step_size * (*m / (v.sqrt() * v_factor + epsilon));
    }
}
}

multiversion! {
fn sgd_block(p: &mut [f32], g: &[f32], m: &mut [f32], factor: f32, rate: f32, decay: f32, momentum: f32) {
    for ((p, g), m) in p.iter_mut().zip(g).zip(m) {
        *m = momentum * *m + (factor * g + decay * *p);
        *p -= rate * *m;
    }
}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference;

    const RATE: f32 = 1e-3;
    const BETAS: [f32; 2] = [0.9, 0.98];
    const DECAY: f32 = 0.01;

    fn betas() -> Betas {
        Betas {
            beta1: 0.9,
            beta2: 0.98,
            epsilon: 1e-8,
        }
    }

    /// Compares three updates of 100 values with the reference. The reference gets gradients that are already multiplied by `factor`.
    /// Returns the first value after each update.
    fn compare(
        factor: f32,
        mut update: impl FnMut(&mut [f32], &[f32], Update),
        mut reference: impl FnMut(&mut [f32], &[f32], i32),
    ) -> [f32; 3] {
        let mut p: Vec<f32> = (0..100).map(|i| 1.0 + i as f32 / 50.0).collect();
        let mut want = p.clone();
        [1u8, 2, 3].map(|step| {
            let g: Vec<f32> = (0..100)
                .map(|i| [0.5, -0.2, 0.1][step as usize - 1] * (1.0 - i as f32 / 300.0))
                .collect();
            let u = Update {
                learning_rate: RATE as f64,
                weight_decay: DECAY as f64,
                step: step.into(),
                gradient_factor: factor,
            };
            let scaled: Vec<f32> = g.iter().map(|g| factor * g).collect();
            update(&mut p, &g, u);
            reference(&mut want, &scaled, step.into());
            for (got, want) in p.iter().zip(&want) {
                assert!((got - want).abs() < 1e-6, "step {step}: {got} instead of {want}");
            }
            p[0]
        })
    }

    #[test]
    fn adamw_equals_the_reference_and_recorded_values() {
        let [(mut m, mut v), (mut want_m, mut want_v)] = [(); 2].map(|_| ([0f32; 100], [0f32; 100]));
        let got = compare(
            1.0,
            |p, g, u| adamw(p, g, &mut m, &mut v, u, betas()),
            |p, g, t| reference::adamw(p, g, &mut want_m, &mut want_v, RATE, BETAS, 1e-8, DECAY, t),
        );
        let recorded = [0.998_990_010_014_142, 0.998_633_209_793_467_7, 0.998_240_893_211_803_8];
        for (got, want) in got.iter().zip(recorded) {
            assert!((*got as f64 - want).abs() < 2e-7, "{got} instead of {want}");
        }
    }

    #[test]
    fn all_rules_equal_the_reference_with_scaled_gradients() {
        for factor in [1.0, 0.25] {
            let [(mut m, mut v), (mut want_m, mut want_v)] = [(); 2].map(|_| ([0f32; 100], [0f32; 100]));
            compare(
                factor,
                |p, g, u| adamw(p, g, &mut m, &mut v, u, betas()),
                |p, g, t| reference::adamw(p, g, &mut want_m, &mut want_v, RATE, BETAS, 1e-8, DECAY, t),
            );
            let [(mut m, mut v), (mut want_m, mut want_v)] = [(); 2].map(|_| ([0f32; 100], [0f32; 100]));
            compare(
                factor,
                |p, g, u| adam(p, g, &mut m, &mut v, u, betas()),
                |p, g, t| reference::adam(p, g, &mut want_m, &mut want_v, RATE, BETAS, 1e-8, DECAY, t),
            );
            let [(mut m, mut v), (mut want_m, mut want_v)] = [(); 2].map(|_| ([0f32; 100], [0f32; 100]));
            compare(
                factor,
                |p, g, u| adamw_pytorch(p, g, &mut m, &mut v, u, betas()),
                |p, g, t| reference::adamw_pytorch(p, g, &mut want_m, &mut want_v, RATE, BETAS, 1e-8, DECAY, t),
            );
            for adapts in [true, false] {
                let [mut m, mut want_m] = [[0f32; 100]; 2];
                compare(
                    factor,
                    |p, g, u| lars(p, g, &mut m, u, 0.9, adapts),
                    |p, g, _| reference::lars(p, g, &mut want_m, RATE, 0.9, DECAY, adapts),
                );
            }
            let [mut m, mut want_m] = [[0f32; 100]; 2];
            compare(
                factor,
                |p, g, u| sgd(p, g, &mut m, u, 0.9),
                |p, g, t| reference::sgd(p, g, &mut want_m, RATE, 0.9, DECAY, t),
            );
        }
    }

    #[test]
    fn norm_is_that_of_all_values_for_any_number_of_threads() {
        assert_eq!(l2_norm(&[]), 0.0);
        assert_eq!(l2_norm(&[&[3.0], &[], &[4.0]]), 5.0);
        assert_eq!(l2_norm(&[&[1e30, 0.0]]), f64::from(1e30f32));
        assert!(l2_norm(&[&[1.0, f32::NAN]]).is_nan());
        let values: Vec<f32> = (0..2 * BLOCK + 13)
            .map(|i| ((i * 7919) % 1013) as f32 / 31.0 - 16.0)
            .collect();
        let slices = [&values[..], &values[..77]];
        let plain: f64 = slices
            .iter()
            .flat_map(|s| s.iter())
            .map(|v| f64::from(*v) * f64::from(*v))
            .sum();
        let norms = [1, 2, 5].map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| l2_norm(&slices))
        });
        assert!(norms.iter().all(|norm| *norm == norms[0]));
        assert!((norms[0] - plain.sqrt()).abs() < 1e-9 * plain.sqrt());
    }
}
