//! Updates of parameters.

use crate::device::random;
use crate::lists::LIST;
use crate::{Device, Outcome};
use vlct_cuda::context::Buffer;
use vlct_cuda::driver::Element::{Bf16, F32};
use vlct_cuda::driver::Error;
use vlct_cuda::optimizer::{Betas, Clip, ParameterUpdate, Rule, update};
use vlct_kernels::bf16;
use vlct_kernels::optimizer::{self, Update};

const BETAS: Betas = Betas {
    beta1: 0.9,
    beta2: 0.98,
    epsilon: 1e-8,
};

const RULES: [Rule; 5] = [
    Rule::AdamW(BETAS),
    Rule::Adam(BETAS),
    Rule::AdamWPyTorch(BETAS),
    Rule::Sgd(0.9),
    Rule::Lars(0.9),
];

/// Updates by all rules, with and without clipping.
///
/// # Errors
/// The first difference, or an error of the driver.
pub fn all_rules(device: &Device) -> Outcome {
    device.in_all_schedules(check)
}

/// A parameter on the host.
#[derive(Clone)]
struct Host {
    shape: [usize; 2],
    values: Vec<f32>,
    gradient: Vec<f32>,
    moments: Vec<Vec<f32>>,
    learning_rate: f64,
    weight_decay: f64,
    step: u64,
    is_rounded: bool,
}

impl Host {
    fn new(i: usize, shape: [usize; 2], rule: Rule) -> Self {
        let (count, seed) = (shape[0] * shape[1], 10 * i as u64);
        let mut moments: Vec<Vec<f32>> = (0..rule.moments())
            .map(|j| random(count, seed + 2 + j as u64))
            .collect();
        // The running mean of squares is not negative.
        for v in moments.iter_mut().skip(1).flatten() {
            *v = v.abs();
        }
        let mut gradient = random(count, seed + 1);
        let mut values = random(count, seed);
        if shape == [9, 17] {
            // Weights of zero, whose norm LARS does not divide by.
            values.fill(0.0);
        }
        // A gradient and a moment of zero.
        gradient.iter_mut().take(1).for_each(|g| *g = 0.0);
        moments
            .iter_mut()
            .for_each(|m| m.iter_mut().take(1).for_each(|m| *m = 0.0));
        Self {
            shape,
            values,
            gradient,
            moments,
            learning_rate: 1e-2 / (1.0 + i as f64),
            weight_decay: 0.05 * (i % 3) as f64,
            step: 1 + i as u64 % 4,
            is_rounded: i.is_multiple_of(2),
        }
    }

    /// The update of the CPU.
    fn update(&mut self, rule: Rule, gradient_factor: f32) {
        let u = Update {
            learning_rate: self.learning_rate,
            weight_decay: self.weight_decay,
            step: self.step,
            gradient_factor,
        };
        let (p, g) = (&mut self.values, &self.gradient);
        match (rule, self.moments.as_mut_slice()) {
            (Rule::AdamW(b), [m, v]) => optimizer::adamw(p, g, m, v, u, b),
            (Rule::Adam(b), [m, v]) => optimizer::adam(p, g, m, v, u, b),
            (Rule::AdamWPyTorch(b), [m, v]) => optimizer::adamw_pytorch(p, g, m, v, u, b),
            (Rule::Sgd(momentum), [m]) => optimizer::sgd(p, g, m, u, momentum),
            (Rule::Lars(momentum), [m]) => optimizer::lars(p, g, m, u, momentum, self.shape[0] > 1),
            _ => unreachable!("the number of moments is that of the rule"),
        }
    }
}

fn check(device: &Device) -> Outcome {
    for rule in RULES {
        // No clipping, a norm above the limit, a norm so small that ε counts, and a norm that is not a number.
        for clip in [None, Some((8.0, 2.5)), Some((1e-7, 1e-6)), Some((f32::NAN, 1.0))] {
            run(device, rule, clip)
                .map_err(|e| e.to_string())
                .flatten()
                .map_err(|e| format!("{rule:?}, {clip:?}: {e}"))?;
        }
    }
    update(&device.context, RULES[0], None, &mut []).map_err(|e| e.to_string())
}

fn run(device: &Device, rule: Rule, clip: Option<(f32, f32)>) -> Result<Outcome, Error> {
    let before: Vec<Host> = LIST
        .iter()
        .enumerate()
        .map(|(i, shape)| Host::new(i, *shape, rule))
        .collect();
    let upload = |select: &dyn Fn(&Host) -> &[f32]| {
        let buffers = before.iter().map(|host| device.f32(select(host)));
        buffers.collect::<Result<Vec<Buffer>, Error>>()
    };
    let [mut values, gradients] = [upload(&|host| &host.values)?, upload(&|host| &host.gradient)?];
    let mut moments = (0..rule.moments())
        .map(|j| upload(&|host| &host.moments[j]))
        .collect::<Result<Vec<_>, _>>()?;
    let mut rounded = before
        .iter()
        .map(|host| device.empty(host.values.len(), Bf16))
        .collect::<Result<Vec<_>, _>>()?;
    let norm = device.f32(&[clip.map_or(0.0, |(norm, _)| norm)])?;
    let mut moments_of: Vec<Vec<_>> = before.iter().map(|_| Vec::new()).collect();
    for list in &mut moments {
        for ((buffer, of), host) in list.iter_mut().zip(&mut moments_of).zip(&before) {
            of.push(buffer.matrix_mut(host.shape[0], host.shape[1], F32));
        }
    }
    let buffers = values.iter_mut().zip(&gradients).zip(moments_of).zip(&mut rounded);
    let mut updates: Vec<ParameterUpdate> = buffers
        .zip(&before)
        .map(|((((values, gradient), moments), rounded), host)| {
            let [rows, width] = host.shape;
            ParameterUpdate {
                values: values.matrix_mut(rows, width, F32),
                gradient: gradient.matrix(rows, width, F32),
                moments,
                rounded: host.is_rounded.then(|| rounded.matrix_mut(rows, width, Bf16)),
                learning_rate: host.learning_rate,
                weight_decay: host.weight_decay,
                step: host.step,
            }
        })
        .collect();
    let device_clip = clip.map(|(_, limit)| Clip {
        norm: norm.matrix(1, 1, F32),
        limit,
    });
    update(&device.context, rule, device_clip, &mut updates)?;
    drop(updates);
    let factor = clip.map_or(1.0, |(norm, limit)| (limit / (norm + 1e-6)).min(1.0));
    let mut outcome = Ok(());
    for (i, old) in before.iter().enumerate() {
        let mut want = old.clone();
        want.update(rule, factor);
        let got = device.read_f32(&values[i])?;
        let m_bound = |c: usize| match rule {
            // The norms are summed in another order, so the factor of the gradient may be the next number: an error of ε, to which the
            // roundings of product and sum add half an ε each.
            Rule::Lars(_) => 2.0 * f32::EPSILON * (old.moments[0][c].abs() + want.moments[0][c].abs()),
            _ => 0.0,
        };
        let check = || {
            device.compare("values", &got, &want.values, |c| {
                // The error of the momentum, and half an ε for the rounding of each of product and difference.
                let rounding = f32::EPSILON * (old.values[c].abs() + want.values[c].abs());
                if m_bound(c) > 0.0 {
                    old.learning_rate as f32 * m_bound(c) + rounding
                } else {
                    0.0
                }
            })?;
            for (j, moment) in want.moments.iter().enumerate() {
                let got = device.read_f32(&moments[j][i]).map_err(|e| e.to_string())?;
                device.compare("moments", &got, moment, |c| if j == 0 { m_bound(c) } else { 0.0 })?;
            }
            if old.is_rounded {
                let rounded = device.read_bf16(&rounded[i]).map_err(|e| e.to_string())?;
                let want: Vec<f32> = got.iter().map(|v| bf16::Bf16::from_f32(*v).to_f32()).collect();
                device.compare("rounded values", &rounded, &want, |_| 0.0)?;
            }
            Ok(())
        };
        outcome = outcome.and(check().map_err(|e: String| format!("parameter {:?}: {e}", old.shape)));
    }
    Ok(outcome)
}
