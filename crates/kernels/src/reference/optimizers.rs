//! Parameter updates of the optimisers.

/// Computes update `step` (counted from 1) of AdamW as in Hugging Face Transformers (Loshchilov & Hutter 2019,
/// [arXiv:1711.05101](https://arxiv.org/abs/1711.05101)): `epsilon` is outside the bias correction, and weight decay follows the step.
pub fn adamw(
    params: &mut [f32],
    grads: &[f32],
    m: &mut [f32],
    v: &mut [f32],
    learning_rate: f32,
    [beta1, beta2]: [f32; 2],
    epsilon: f32,
    weight_decay: f32,
    step: i32,
) {
    let correction = (1.0 - beta2.powi(step)).sqrt() / (1.0 - beta1.powi(step));
    for i in 0..params.len() {
        m[i] = beta1 * m[i] + (1.0 - beta1) * grads[i];
        v[i] = beta2 * v[i] + (1.0 - beta2) * grads[i] * grads[i];
        params[i] -= learning_rate * correction * m[i] / (v[i].sqrt() + epsilon);
        params[i] -= learning_rate * weight_decay * params[i];
    }
}

/// Computes update `step` (counted from 1) of Adam as in PyTorch (Kingma & Ba 2015, [arXiv:1412.6980](https://arxiv.org/abs/1412.6980)):
/// weight decay is added to the gradient.
pub fn adam(
    params: &mut [f32],
    grads: &[f32],
    m: &mut [f32],
    v: &mut [f32],
    learning_rate: f32,
    [beta1, beta2]: [f32; 2],
    epsilon: f32,
    weight_decay: f32,
    step: i32,
) {
    for i in 0..params.len() {
        let g = grads[i] + weight_decay * params[i];
        m[i] = beta1 * m[i] + (1.0 - beta1) * g;
        v[i] = beta2 * v[i] + (1.0 - beta2) * g * g;
        let m_hat = m[i] / (1.0 - beta1.powi(step));
        let v_hat = v[i] / (1.0 - beta2.powi(step));
        params[i] -= learning_rate * m_hat / (v_hat.sqrt() + epsilon);
    }
}

/// Computes update `step` (counted from 1) of AdamW as in PyTorch (Loshchilov & Hutter 2019,
/// [arXiv:1711.05101](https://arxiv.org/abs/1711.05101)): weight decay precedes the step.
pub fn adamw_pytorch(
    params: &mut [f32],
    grads: &[f32],
    m: &mut [f32],
    v: &mut [f32],
    learning_rate: f32,
    betas: [f32; 2],
    epsilon: f32,
    weight_decay: f32,
    step: i32,
) {
    params.iter_mut().for_each(|p| *p *= 1.0 - learning_rate * weight_decay);
    adam(params, grads, m, v, learning_rate, betas, epsilon, 0.0, step);
}

/// Computes an update of LARS (You et al. 2017, [arXiv:1708.03888](https://arxiv.org/abs/1708.03888)) with the trust coefficient 0.001.
/// Only matrices (`adapts`) have weight decay and a scaled gradient.
pub fn lars(
    params: &mut [f32],
    grads: &[f32],
    m: &mut [f32],
    learning_rate: f32,
    momentum: f32,
    weight_decay: f32,
    adapts: bool,
) {
    let norm = |values: &[f32]| values.iter().map(|v| v * v).sum::<f32>().sqrt();
    let mut g = grads.to_vec();
    if adapts {
        for i in 0..g.len() {
            g[i] += weight_decay * params[i];
        }
        let (p_norm, g_norm) = (norm(params), norm(&g));
        if p_norm > 0.0 && g_norm > 0.0 {
            g.iter_mut().for_each(|g| *g *= 0.001 * p_norm / g_norm);
        }
    }
    for i in 0..g.len() {
        m[i] = momentum * m[i] + g[i];
        params[i] -= learning_rate * m[i];
    }
}

/// Computes update `step` (counted from 1) of gradient descent with momentum as in PyTorch: weight decay is added to the gradient, and the
/// first momentum is the first gradient.
pub fn sgd(
    params: &mut [f32],
    grads: &[f32],
    m: &mut [f32],
    learning_rate: f32,
    momentum: f32,
    weight_decay: f32,
    step: i32,
) {
    for i in 0..params.len() {
        let g = grads[i] + weight_decay * params[i];
        m[i] = if step == 1 { g } else { momentum * m[i] + g };
        params[i] -= learning_rate * m[i];
    }
}
