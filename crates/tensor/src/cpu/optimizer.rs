//! Parameter updates of the optimisers, and the norm of gradients.

use super::memory::{CpuTensor, scalar};
use crate::backend::{ADAM, ADAMW, Clip, MOMENTUM, ParameterUpdate, Rule};
use crate::tensor::Tensor;
use vlct_kernels::optimizer::{self, Update};

/// Returns the L2 norm of all values of the matrices.
pub(super) fn l2_norm(matrices: &[&Tensor]) -> Tensor {
    let slices: Vec<&[f32]> = matrices.iter().map(|matrix| matrix.data()).collect();
    scalar(optimizer::l2_norm(&slices) as f32)
}

/// Returns the factor of clipped gradients, as in PyTorch's `clip_grad_norm_`. If the norm is NaN, the factor is 1.
fn clip_factor(clip: &Clip) -> f32 {
    let factor = clip.limit / (clip.norm.data()[0] + 1e-6);
    if factor < 1.0 { factor } else { 1.0 }
}

/// Updates the parameters, one after the other.
pub(super) fn update(rule: Rule, clip: Option<&Clip>, updates: &mut [ParameterUpdate]) {
    let gradient_factor = clip.map_or(1.0, clip_factor);
    for u in updates {
        let update = Update {
            learning_rate: u.learning_rate,
            weight_decay: u.weight_decay,
            step: u.step,
            gradient_factor,
        };
        let is_matrix = u.values.rows() > 1;
        let (values, gradient) = (u.values.data_mut(), u.gradient.data());
        match (rule, u.moments.as_mut_slice()) {
            (Rule::Sgd, [m]) => optimizer::sgd(values, gradient, m.data_mut(), update, MOMENTUM),
            (Rule::AdamW, [m, v]) => {
                optimizer::adamw(values, gradient, m.data_mut(), v.data_mut(), update, ADAMW);
            }
            (Rule::Lars, [m]) => optimizer::lars(values, gradient, m.data_mut(), update, MOMENTUM, is_matrix),
            (Rule::AdamWPyTorch, [m, v]) => {
                optimizer::adamw_pytorch(values, gradient, m.data_mut(), v.data_mut(), update, ADAM);
            }
            (Rule::Adam, [m, v]) => {
                optimizer::adam(values, gradient, m.data_mut(), v.data_mut(), update, ADAM);
            }
            _ => unreachable!("moments are created to fit the rule"),
        }
    }
}
