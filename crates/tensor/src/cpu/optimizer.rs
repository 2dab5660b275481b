//! Parameter updates of the optimisers.

use super::memory::CpuTensor;
use crate::backend::{ParameterUpdate, Rule};
use vlct_kernels::optimizer::{self, Betas, Update};

/// Momentum of [`Rule::Sgd`].
const MOMENTUM: f32 = 0.9;

/// Constants of [`Rule::AdamW`].
const ADAMW: Betas = Betas {
    beta1: 0.9,
    beta2: 0.98,
    epsilon: 1e-8,
};

/// Constants of [`Rule::Adam`].
const ADAM: Betas = Betas {
    beta1: 0.9,
    beta2: 0.999,
    epsilon: 1e-8,
};

/// Updates the parameters, one after the other.
pub(super) fn update(rule: Rule, updates: &mut [ParameterUpdate]) {
    for u in updates {
        let update = Update {
            learning_rate: u.learning_rate,
            weight_decay: u.weight_decay,
            step: u.step,
        };
        let (values, gradient) = (u.values.data_mut(), u.gradient.data());
        match (rule, u.moments.as_mut_slice()) {
            (Rule::Sgd, [m]) => optimizer::sgd(values, gradient, m.data_mut(), update, MOMENTUM),
            (Rule::AdamW, [m, v]) => {
                optimizer::adamw(values, gradient, m.data_mut(), v.data_mut(), update, ADAMW);
            }
            (Rule::Adam, [m, v]) => {
                optimizer::adam(values, gradient, m.data_mut(), v.data_mut(), update, ADAM);
            }
            _ => unreachable!("moments are created to fit the rule"),
        }
    }
}
