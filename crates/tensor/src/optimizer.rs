//! Optimisers over all parameters of a model.

use crate::buffer::Buffer;
use crate::parameters::{Gradients, ParameterId, Parameters};
use crate::profile::span;
use vlct_kernels::optimizer::{self, Betas, Update};

/// Which update rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Rule {
    /// AdamW of the transformers library with β = (0.9, 0.98).
    AdamW,
    /// Adam of PyTorch with β = (0.9, 0.999), weight decay as an L2 term.
    Adam,
    /// Gradient descent with momentum 0.9, weight decay as an L2 term.
    Sgd,
}

/// Learning rate and weight decay of one parameter in one step.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Learning rate.
    pub learning_rate: f64,
    /// Weight decay.
    pub weight_decay: f64,
}

/// An update rule with its running averages.
pub struct Optimizer {
    rule: Rule,
    steps: Vec<u64>,
    moments: Vec<Buffer>,
}

impl Optimizer {
    /// Averages at zero.
    pub fn new(rule: Rule, parameters: &Parameters) -> Self {
        let count = if rule == Rule::Sgd { 1 } else { 2 };
        let zeros = |_| {
            let mut buffer = Buffer::new::<f32>(parameters.memory_len());
            buffer.as_mut_slice().fill(0f32);
            buffer
        };
        Self {
            rule,
            steps: vec![0; parameters.count()],
            moments: (0..count).map(zeros).collect(),
        }
    }

    /// Names of the running averages, as PyTorch's optimisers call them.
    pub fn moment_names(&self) -> &'static [&'static str] {
        match self.rule {
            Rule::Sgd => &["momentum_buffer"],
            _ => &["exp_avg", "exp_avg_sq"],
        }
    }

    /// One running average of one parameter, row by row.
    pub fn moment(&self, parameters: &Parameters, moment: usize, id: ParameterId) -> &[f32] {
        &self.moments[moment].as_slice()[parameters.range(id)]
    }

    /// Restores one running average.
    ///
    /// # Panics
    /// If the number of values differs.
    pub fn set_moment(&mut self, parameters: &Parameters, moment: usize, id: ParameterId, values: &[f32]) {
        self.moments[moment].as_mut_slice()[parameters.range(id)].copy_from_slice(values);
    }

    /// How often each parameter was updated.
    pub fn steps(&self) -> &[u64] {
        &self.steps
    }

    /// Restores how often each parameter was updated.
    ///
    /// # Panics
    /// If there is not one number for each.
    pub fn set_steps(&mut self, steps: &[u64]) {
        self.steps.copy_from_slice(steps);
    }

    /// Updates every trainable parameter that has a gradient.
    ///
    /// # Panics
    /// If a tape still holds the weights.
    pub fn step(
        &mut self,
        parameters: &mut Parameters,
        gradients: &Gradients,
        setting: impl Fn(ParameterId) -> Setting,
    ) {
        let _span = span(|| {
            let trained = parameters.iter().filter(|(id, _)| gradients.get(*id).is_some());
            let values: usize = trained.map(|(_, p)| p.len()).sum();
            (
                "optimiser".into(),
                0.0,
                (values * (3 + 2 * self.moments.len()) * 4) as f64,
            )
        });
        for index in 0..parameters.count() {
            let id = ParameterId(index);
            let Some(gradient) = gradients.get(id).filter(|_| parameters.get(id).trainable) else {
                continue;
            };
            self.steps[index] += 1;
            let Setting {
                learning_rate,
                weight_decay,
            } = setting(id);
            let update = Update {
                learning_rate,
                weight_decay,
                step: self.steps[index],
            };
            let range = parameters.range(id);
            let values = &mut parameters.memory_mut()[range.clone()];
            let mut moments = self.moments.iter_mut().map(|m| &mut m.as_mut_slice()[range.clone()]);
            match (self.rule, moments.next(), moments.next()) {
                (Rule::Sgd, Some(m), _) => optimizer::sgd(values, gradient, m, update, 0.9),
                (Rule::AdamW, Some(m), Some(v)) => {
                    let betas = Betas {
                        beta1: 0.9,
                        beta2: 0.98,
                        epsilon: 1e-8,
                    };
                    optimizer::adamw(values, gradient, m, v, update, betas);
                }
                (Rule::Adam, Some(m), Some(v)) => {
                    let betas = Betas {
                        beta1: 0.9,
                        beta2: 0.999,
                        epsilon: 1e-8,
                    };
                    optimizer::adam(values, gradient, m, v, update, betas);
                }
                _ => unreachable!("moments are created to fit the rule"),
            }
        }
    }
}
