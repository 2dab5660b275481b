//! Plain f32 loops, on one thread, for the forward and backward passes and the optimisers of this crate.
//!
//! The style is that of llm.c's [`train_gpt2.c`](https://github.com/karpathy/llm.c/blob/master/train_gpt2.c): no intrinsics, no blocking,
//! no threads. Tests compare the fast kernels of this crate with these functions; programs do not use them. Results agree up to the order
//! of additions and the accuracy of `exp` and `erf`.
//!
//! Outputs are the first arguments; inputs follow. `T` is the number of tokens (rows), `D` the width, `H` the number of heads of `dh = D/H`
//! columns, `C` the number of classes. `d_x` is the gradient of `x`. Functions add to the gradients of weights, as all kernels do.

#![expect(
    clippy::too_many_arguments,
    reason = "plain functions take all sizes as arguments, as BLAS does"
)]

mod optimizers;

use crate::patches::{Order, Planes};
use crate::sparse::SparseMatrix;
pub use optimizers::{adam, adamw, adamw_pytorch, lars, sgd};

/// Computes `dst [m, n] = β·dst + α · lhs [m, k] · rhs [k, n]`.
pub fn gemm(dst: &mut [f32], beta: f32, alpha: f32, lhs: &[f32], rhs: &[f32], m: usize, n: usize, k: usize) {
    for i in 0..m {
        for j in 0..n {
            let mut sum = 0.0;
            for p in 0..k {
                sum += lhs[i * k + p] * rhs[p * n + j];
            }
            dst[i * n + j] = beta * dst[i * n + j] + alpha * sum;
        }
    }
}

/// Writes the transpose of `x [rows, columns]` to `out [columns, rows]`.
pub fn transpose(out: &mut [f32], x: &[f32], rows: usize, columns: usize) {
    for r in 0..rows {
        for c in 0..columns {
            out[c * rows + r] = x[r * columns + c];
        }
    }
}

/// Computes attention within packed sequences, `softmax(q·kᵀ/√dh)·v` (Vaswani et al. 2017,
/// [arXiv:1706.03762](https://arxiv.org/abs/1706.03762), equation 1), without a mask.
///
/// `out` is `[total_q, D]`, `log_sum_exp` (to base 2) is `[H, total_q]`, `qkv` is `[T, 3·D]` with rows `q | k | v`. Sequence `s` has the
/// tokens `cu_seqlens_k[s]..cu_seqlens_k[s+1]`. Its query tokens are a prefix of these tokens; their outputs are the rows
/// `cu_seqlens_q[s]..cu_seqlens_q[s+1]` of `out`.
pub fn attention_forward(
    out: &mut [f32],
    log_sum_exp: &mut [f32],
    qkv: &[f32],
    cu_seqlens_k: &[usize],
    cu_seqlens_q: &[usize],
    heads: usize,
) {
    let total_q = cu_seqlens_q[cu_seqlens_q.len() - 1];
    let width = qkv.len() / (3 * cu_seqlens_k[cu_seqlens_k.len() - 1]);
    let dh = width / heads;
    for s in 0..cu_seqlens_k.len() - 1 {
        let (first_k, keys) = (cu_seqlens_k[s], cu_seqlens_k[s + 1] - cu_seqlens_k[s]);
        let (first_q, queries) = (cu_seqlens_q[s], cu_seqlens_q[s + 1] - cu_seqlens_q[s]);
        for h in 0..heads {
            for i in 0..queries {
                let (probs, lse) = attention_probs(qkv, width, dh, h, first_k, keys, i);
                log_sum_exp[h * total_q + first_q + i] = lse;
                for c in 0..dh {
                    let mut sum = 0.0;
                    for j in 0..keys {
                        sum += probs[j] * qkv[(first_k + j) * 3 * width + 2 * width + h * dh + c];
                    }
                    out[(first_q + i) * width + h * dh + c] = sum;
                }
            }
        }
    }
}

/// Returns the probabilities `[keys]` of query `i` of a sequence, and the log-sum-exp of its scores to base 2.
fn attention_probs(
    qkv: &[f32],
    width: usize,
    dh: usize,
    h: usize,
    first: usize,
    keys: usize,
    i: usize,
) -> (Vec<f32>, f32) {
    let mut scores = vec![0f32; keys];
    let mut max = f32::NEG_INFINITY;
    for j in 0..keys {
        for c in 0..dh {
            let q = qkv[(first + i) * 3 * width + h * dh + c];
            let k = qkv[(first + j) * 3 * width + width + h * dh + c];
            scores[j] += q * k;
        }
        scores[j] /= (dh as f32).sqrt();
        max = max.max(scores[j]);
    }
    let mut sum = 0.0;
    for score in &mut scores {
        *score = (*score - max).exp();
        sum += *score;
    }
    for score in &mut scores {
        *score /= sum;
    }
    (scores, (max + sum.ln()) * std::f32::consts::LOG2_E)
}

/// Computes the backward pass of [`attention_forward`]: writes `d_qkv [T, 3·D]` from `d_out [total_q, D]`.
///
/// With the probabilities `p` and `d_p = d_out·vᵀ`, the gradient of the scores is `p·(d_p − Σ p·d_p)`.
pub fn attention_backward(
    d_qkv: &mut [f32],
    d_out: &[f32],
    qkv: &[f32],
    cu_seqlens_k: &[usize],
    cu_seqlens_q: &[usize],
    heads: usize,
) {
    let width = qkv.len() / (3 * cu_seqlens_k[cu_seqlens_k.len() - 1]);
    let dh = width / heads;
    let scale = 1.0 / (dh as f32).sqrt();
    d_qkv.fill(0.0);
    for s in 0..cu_seqlens_k.len() - 1 {
        let (first_k, keys) = (cu_seqlens_k[s], cu_seqlens_k[s + 1] - cu_seqlens_k[s]);
        let (first_q, queries) = (cu_seqlens_q[s], cu_seqlens_q[s + 1] - cu_seqlens_q[s]);
        for h in 0..heads {
            // Element `c` of part 0 (query), 1 (key) or 2 (value) of token `j`.
            let index = |part: usize, j: usize, c: usize| (first_k + j) * 3 * width + part * width + h * dh + c;
            for i in 0..queries {
                let (probs, _) = attention_probs(qkv, width, dh, h, first_k, keys, i);
                let d = &d_out[(first_q + i) * width + h * dh..][..dh];
                let mut d_probs = vec![0f32; keys];
                let mut mean = 0.0;
                for j in 0..keys {
                    for c in 0..dh {
                        d_probs[j] += d[c] * qkv[index(2, j, c)];
                        d_qkv[index(2, j, c)] += probs[j] * d[c];
                    }
                    mean += probs[j] * d_probs[j];
                }
                for j in 0..keys {
                    let d_score = probs[j] * (d_probs[j] - mean) * scale;
                    for c in 0..dh {
                        d_qkv[index(0, i, c)] += d_score * qkv[index(1, j, c)];
                        d_qkv[index(1, j, c)] += d_score * qkv[index(0, i, c)];
                    }
                }
            }
        }
    }
}

/// Computes layer normalisation (Ba et al. 2016, [arXiv:1607.06450](https://arxiv.org/abs/1607.06450)): `out = (x − μ)·rstd·w + b` with
/// `rstd = 1/√(σ² + eps)`. `x` and `out` are `[T, D]`, `mean` and `rstd` `[T]`, `w` and `b` `[D]`.
pub fn layer_norm_forward(
    out: &mut [f32],
    mean: &mut [f32],
    rstd: &mut [f32],
    x: &[f32],
    w: &[f32],
    b: &[f32],
    eps: f32,
) {
    let width = w.len();
    for t in 0..x.len() / width {
        let row = &x[t * width..][..width];
        let m = row.iter().sum::<f32>() / width as f32;
        let variance = row.iter().map(|v| (v - m) * (v - m)).sum::<f32>() / width as f32;
        let s = 1.0 / (variance + eps).sqrt();
        for c in 0..width {
            out[t * width + c] = (row[c] - m) * s * w[c] + b[c];
        }
        (mean[t], rstd[t]) = (m, s);
    }
}

/// Computes the backward pass of [`layer_norm_forward`]: adds to `d_x [T, D]`, `d_w [D]` and `d_b [D]`.
pub fn layer_norm_backward(
    d_x: &mut [f32],
    d_w: &mut [f32],
    d_b: &mut [f32],
    d_out: &[f32],
    x: &[f32],
    w: &[f32],
    mean: &[f32],
    rstd: &[f32],
) {
    let width = w.len();
    for t in 0..x.len() / width {
        let norm = |c: usize| (x[t * width + c] - mean[t]) * rstd[t];
        let d_norm = |c: usize| d_out[t * width + c] * w[c];
        let (mut mean_d, mut mean_dn) = (0.0, 0.0);
        for c in 0..width {
            mean_d += d_norm(c) / width as f32;
            mean_dn += d_norm(c) * norm(c) / width as f32;
        }
        for c in 0..width {
            d_x[t * width + c] += (d_norm(c) - mean_d - norm(c) * mean_dn) * rstd[t];
            d_w[c] += d_out[t * width + c] * norm(c);
            d_b[c] += d_out[t * width + c];
        }
    }
}

/// Computes the GELU `x·Φ(x)` (Hendrycks & Gimpel 2016, [arXiv:1606.08415](https://arxiv.org/abs/1606.08415)).
pub fn gelu_forward(out: &mut [f32], x: &[f32]) {
    for i in 0..x.len() {
        out[i] = x[i] * normal_cdf(x[i]);
    }
}

/// Computes the backward pass of [`gelu_forward`]: `d_x = d_out·(Φ(x) + x·φ(x))`.
pub fn gelu_backward(d_x: &mut [f32], x: &[f32], d_out: &[f32]) {
    for i in 0..x.len() {
        let density = (-0.5 * x[i] * x[i]).exp() / (2.0 * std::f32::consts::PI).sqrt();
        d_x[i] = d_out[i] * (normal_cdf(x[i]) + x[i] * density);
    }
}

/// Returns the normal distribution function `Φ(x) = (1 + erf(x/√2))/2`, by the Maclaurin series of `erf` in double precision.
fn normal_cdf(x: f32) -> f32 {
    let x = (x as f64 / std::f64::consts::SQRT_2).clamp(-5.0, 5.0);
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= -x * x / n as f64;
        sum += term / (2 * n + 1) as f64;
    }
    (0.5 + sum / std::f64::consts::PI.sqrt()) as f32
}

/// Computes softmax cross-entropy: `loss [T]` and `probs [T, C]` from `logits [T, C]` and one target class per row.
pub fn cross_entropy_forward(loss: &mut [f32], probs: &mut [f32], logits: &[f32], targets: &[u32]) {
    let classes = logits.len() / targets.len();
    for t in 0..targets.len() {
        let row = &logits[t * classes..][..classes];
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f32 = row.iter().map(|v| (v - max).exp()).sum();
        for c in 0..classes {
            probs[t * classes + c] = (row[c] - max).exp() / sum;
        }
        loss[t] = sum.ln() - (row[targets[t] as usize] - max);
    }
}

/// Computes the backward pass of [`cross_entropy_forward`]: `d_logits = (probs − onehot(targets))·scale`.
pub fn cross_entropy_backward(d_logits: &mut [f32], probs: &[f32], targets: &[u32], scale: f32) {
    let classes = probs.len() / targets.len();
    for t in 0..targets.len() {
        for c in 0..classes {
            let target = if targets[t] as usize == c { 1.0 } else { 0.0 };
            d_logits[t * classes + c] = (probs[t * classes + c] - target) * scale;
        }
    }
}

/// Computes softmax cross-entropy with soft targets: `loss [T]` and `probs [T, C]` from `logits [T, C]` and a weight of each class in
/// `targets [T, C]`.
pub fn soft_cross_entropy_forward(
    loss: &mut [f32],
    probs: &mut [f32],
    logits: &[f32],
    targets: &[f32],
    classes: usize,
) {
    for t in 0..loss.len() {
        let row = &logits[t * classes..][..classes];
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f32 = row.iter().map(|v| (v - max).exp()).sum();
        loss[t] = 0.0;
        for c in 0..classes {
            probs[t * classes + c] = (row[c] - max).exp() / sum;
            loss[t] += targets[t * classes + c] * (sum.ln() - (row[c] - max));
        }
    }
}

/// Computes the backward pass of [`soft_cross_entropy_forward`]: `d_logits = (probs·Σ targets − targets)·scale`, with the sum over a row.
pub fn soft_cross_entropy_backward(d_logits: &mut [f32], probs: &[f32], targets: &[f32], classes: usize, scale: f32) {
    for t in 0..probs.len() / classes {
        let row = t * classes..(t + 1) * classes;
        let total: f32 = targets[row.clone()].iter().sum();
        for i in row {
            d_logits[i] = (probs[i] * total - targets[i]) * scale;
        }
    }
}

/// Computes `out [S, D]`, the mean of the rows of each segment of `x [T, D]`; 0 for an empty segment.
pub fn segment_mean(out: &mut [f32], x: &[f32], width: usize, segments: &[std::ops::Range<usize>]) {
    for (s, rows) in segments.iter().enumerate() {
        for c in 0..width {
            let sum: f32 = rows.clone().map(|t| x[t * width + c]).sum();
            out[s * width + c] = sum / rows.len().max(1) as f32;
        }
    }
}

/// Adds the backward pass of [`segment_mean`] to `d_x [T, D]`.
pub fn segment_mean_backward(d_x: &mut [f32], d_out: &[f32], width: usize, segments: &[std::ops::Range<usize>]) {
    for (s, rows) in segments.iter().enumerate() {
        for t in rows.clone() {
            for c in 0..width {
                d_x[t * width + c] += d_out[s * width + c] / rows.len() as f32;
            }
        }
    }
}

/// Returns the binary cross-entropy: the mean over rows of `Σ −t·ln σ(x) − (1 − t)·ln(1 − σ(x))` for logits `x` and targets `t`, `[T, C]`.
/// Each term is computed as `max(x, 0) − x·t + ln(1 + e^−|x|)`, which never overflows.
pub fn binary_cross_entropy_forward(logits: &[f32], targets: &[f32], classes: usize) -> f32 {
    let mut sum = 0.0;
    for i in 0..logits.len() {
        let (x, t) = (logits[i], targets[i]);
        sum += x.max(0.0) - x * t + (-x.abs()).exp().ln_1p();
    }
    sum / (logits.len() / classes) as f32
}

/// Computes the backward pass of [`binary_cross_entropy_forward`]: `d_logits = (σ(logits) − targets)·scale / T`.
pub fn binary_cross_entropy_backward(
    d_logits: &mut [f32],
    logits: &[f32],
    targets: &[f32],
    classes: usize,
    scale: f32,
) {
    let rows = (logits.len() / classes) as f32;
    for i in 0..logits.len() {
        d_logits[i] = (1.0 / (1.0 + (-logits[i]).exp()) - targets[i]) * scale / rows;
    }
}

/// Normalises each row of `x [T, D]` by its mean and unbiased variance. The results are the targets of masked autoencoding (He et al. 2022,
/// [arXiv:2111.06377](https://arxiv.org/abs/2111.06377)).
pub fn normalise_patches(x: &mut [f32], width: usize) {
    for row in x.chunks_exact_mut(width) {
        let mean = row.iter().sum::<f32>() / width as f32;
        let variance = row.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>() / (width - 1) as f32;
        for v in row {
            *v = (*v - mean) / (variance + 1e-6).sqrt();
        }
    }
}

/// Returns the loss of masked autoencoding: the mean squared difference of `prediction` and `target`, both `[T, D]`.
pub fn patch_loss_forward(prediction: &[f32], target: &[f32]) -> f32 {
    let mut sum = 0.0;
    for i in 0..prediction.len() {
        sum += (prediction[i] - target[i]) * (prediction[i] - target[i]);
    }
    sum / prediction.len() as f32
}

/// Computes the backward pass of [`patch_loss_forward`]: `d_prediction = 2·(prediction − target)·scale / (T·D)`.
pub fn patch_loss_backward(d_prediction: &mut [f32], prediction: &[f32], target: &[f32], scale: f32) {
    for i in 0..prediction.len() {
        d_prediction[i] = 2.0 * (prediction[i] - target[i]) * scale / prediction.len() as f32;
    }
}

/// Copies rows of a table: `out[i] = table[rows[i]]`. [`NONE`](crate::gather::NONE) leaves `out[i]` unchanged.
pub fn gather(out: &mut [f32], table: &[f32], rows: &[u32], width: usize) {
    for (i, row) in rows.iter().enumerate() {
        if *row != crate::gather::NONE {
            out[i * width..][..width].copy_from_slice(&table[*row as usize * width..][..width]);
        }
    }
}

/// Computes the backward pass of [`gather`]: `d_table[rows[i]] += d_out[i]`.
pub fn scatter_add(d_table: &mut [f32], d_out: &[f32], rows: &[u32], width: usize) {
    for (i, row) in rows.iter().enumerate() {
        if *row != crate::gather::NONE {
            for c in 0..width {
                d_table[*row as usize * width + c] += d_out[i * width + c];
            }
        }
    }
}

/// Adds the product of a sparse matrix and `x [columns, width]` to `out [rows, width]`.
pub fn sparse_product(out: &mut [f32], matrix: &SparseMatrix, x: &[f32], width: usize) {
    for row in 0..matrix.rows() {
        for (column, value) in matrix.row(row) {
            for c in 0..width {
                out[row * width + c] += value * x[*column as usize * width + c];
            }
        }
    }
}

/// Computes dropout (Srivastava et al. 2014, [JMLR 15](https://jmlr.org/papers/v15/srivastava14a.html)) with a given mask: `x/(1 − p)`
/// where `keep` is true, else 0. Applied to a gradient, the function is the backward pass.
pub fn dropout(out: &mut [f32], x: &[f32], keep: &[bool], p: f32) {
    for i in 0..x.len() {
        out[i] = if keep[i] { x[i] / (1.0 - p) } else { 0.0 };
    }
}

/// Computes the cosines `[n, m]` of the rows of `text [n, D]` and `image [m, D]`. Norms below 1e-5 count as 1e-5.
pub fn cosines(out: &mut [f32], text: &[f32], image: &[f32], width: usize) {
    let norm = |x: &[f32]| x.iter().map(|v| v * v).sum::<f32>().sqrt().max(1e-5);
    let m = image.len() / width;
    for (i, t) in text.chunks_exact(width).enumerate() {
        for (j, v) in image.chunks_exact(width).enumerate() {
            let dot: f32 = t.iter().zip(v).map(|(a, b)| a * b).sum();
            out[i * m + j] = dot / (norm(t) * norm(v));
        }
    }
}

/// Computes the transport plan `[n, m]` between uniform distributions for the costs `1 − cosine`, by the inexact proximal point method IPOT
/// (Xie et al. 2020, [arXiv:1802.04307](https://arxiv.org/abs/1802.04307), algorithm 1 with one inner iteration), as in UNITER (Chen et al.
/// 2020, [arXiv:1909.11740](https://arxiv.org/abs/1909.11740)).
pub fn transport_plan(plan: &mut [f32], cosine: &[f32], n: usize, m: usize, beta: f32, iterations: usize) {
    plan.fill(1.0);
    let mut sigma = vec![1.0 / n as f32; n];
    for _ in 0..iterations {
        let mut q = vec![0f32; n * m];
        for i in 0..n * m {
            q[i] = (-(1.0 - cosine[i]) / beta).exp() * plan[i];
        }
        let mut delta = vec![0f32; m];
        for j in 0..m {
            let sum: f32 = (0..n).map(|i| q[i * m + j] * sigma[i]).sum();
            delta[j] = 1.0 / (m as f32 * sum);
        }
        for i in 0..n {
            let sum: f32 = (0..m).map(|j| q[i * m + j] * delta[j]).sum();
            sigma[i] = 1.0 / (n as f32 * sum);
        }
        for i in 0..n {
            for j in 0..m {
                plan[i * m + j] = delta[j] * q[i * m + j] * sigma[i];
            }
        }
    }
}

/// Returns the transport distance `Σ (1 − cosine)·plan`.
pub fn transport_distance(cosine: &[f32], plan: &[f32]) -> f32 {
    let mut sum = 0.0;
    for i in 0..plan.len() {
        sum += (1.0 - cosine[i]) * plan[i];
    }
    sum
}

/// Adds the gradient of `weight` · [`transport_distance`] to `d_text [n, D]` and `d_image [m, D]`. The plan counts as constant, and the
/// gradient flows through [`cosines`]. The derivative of `cos(t, v)` by `t` is `(v̂ − t̂·cos)/|t|`.
pub fn transport_backward(
    d_text: &mut [f32],
    d_image: &mut [f32],
    plan: &[f32],
    text: &[f32],
    image: &[f32],
    width: usize,
    weight: f32,
) {
    let norm = |x: &[f32]| x.iter().map(|v| v * v).sum::<f32>().sqrt().max(1e-5);
    let m = image.len() / width;
    for (i, t) in text.chunks_exact(width).enumerate() {
        for (j, v) in image.chunks_exact(width).enumerate() {
            let (nt, nv) = (norm(t), norm(v));
            let cosine = t.iter().zip(v).map(|(a, b)| a * b).sum::<f32>() / (nt * nv);
            let d_cosine = -weight * plan[i * m + j];
            for c in 0..width {
                d_text[i * width + c] += d_cosine * (v[c] / nv - t[c] / nt * cosine) / nt;
                d_image[j * width + c] += d_cosine * (t[c] / nt - v[c] / nv * cosine) / nv;
            }
        }
    }
}

/// Copies square patches of `image [3, height, width]` to the rows of `out [patches, 3·side²]`. Patch `p` is in row `p / (width/side)` and
/// column `p % (width/side)` of the grid.
pub fn patches(out: &mut [f32], image: Planes, side: usize, patches: &[u32], order: Order) {
    let columns = image.width / side;
    for (i, patch) in patches.iter().enumerate() {
        let (top, left) = (*patch as usize / columns * side, *patch as usize % columns * side);
        for channel in 0..3 {
            for y in 0..side {
                for x in 0..side {
                    let offset = match order {
                        Order::ChannelFirst => (channel * side + y) * side + x,
                        Order::ChannelLast => (y * side + x) * 3 + channel,
                    };
                    out[i * 3 * side * side + offset] =
                        image.values[(channel * image.height + top + y) * image.width + left + x];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
