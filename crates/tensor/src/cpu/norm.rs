//! Layer norm, in f32 or bfloat16.

use super::memory::{CpuTensor, build, build_blocks, zeros};
use super::memory_bound_span;
use crate::backend::{Beta, LayerNorm, SavedNorm};
use crate::precision::Precision;
use crate::tensor::Tensor;
use vlct_kernels::bf16::{self, blocks};
use vlct_kernels::layer_norm;

/// Returns the tensors for the backward pass, and the layer norm of each row of `x [T, D]` as an operand.
pub(super) fn forward(x: &Tensor, norm: &LayerNorm, precision: Precision) -> (SavedNorm, Tensor) {
    let _span = memory_bound_span("layer norm", 2.0 * x.bytes());
    let (rows, width) = (x.rows(), x.columns());
    let (w, b) = (norm.weight.data(), norm.bias.data());
    let mut rstd = zeros(1, rows);
    match precision {
        Precision::F32 => {
            let mut mean = zeros(1, rows);
            let y = build(rows, width, |y| {
                layer_norm::forward(x.data(), w, b, norm.eps, y, mean.data_mut(), rstd.data_mut());
            });
            let x = x.clone();
            (SavedNorm::Input { x, mean, rstd }, y)
        }
        Precision::Bf16 => {
            let mut y = None;
            let normalised = build_blocks(rows, width, |normalised| {
                y = Some(build_blocks(rows, width, |y| {
                    bf16::layer_norm::forward(x.data(), w, b, norm.eps, normalised, y, rstd.data_mut());
                }));
            });
            let y = y.unwrap_or_else(|| unreachable!("built together with `normalised`"));
            (SavedNorm::Rows { normalised, rstd }, y)
        }
    }
}

/// Recomputes the output of [`forward`] in f32.
pub(super) fn recompute(saved: &SavedNorm, norm: &LayerNorm) -> Tensor {
    match saved {
        SavedNorm::Input { x, .. } => forward(x, norm, Precision::F32).1,
        SavedNorm::Rows { .. } => unreachable!("saved in bfloat16"),
    }
}

/// Recomputes the output of [`forward`] in bfloat16, transposed, in blocks.
pub(super) fn recompute_transposed(saved: &SavedNorm, norm: &LayerNorm) -> Tensor {
    match saved {
        SavedNorm::Input { .. } => unreachable!("saved in f32"),
        SavedNorm::Rows { normalised: n, .. } => build_blocks(n.columns(), n.rows(), |out| {
            blocks::transpose_scaled(n.blocks(), norm.weight.data(), norm.bias.data(), out);
        }),
    }
}

/// Computes the gradients of input, scale and shift. In bfloat16, `dx` is also stored as an operand.
pub(super) fn backward(saved: &SavedNorm, dy: &Tensor, norm: &LayerNorm, dx: &mut Tensor, beta: Beta) -> [Tensor; 2] {
    let bytes = saved.matrix().bytes() + dy.bytes() + 2.0 * dx.bytes();
    let _span = memory_bound_span("layer norm gradient", bytes);
    let w = norm.weight.data();
    let [mut dw, mut db] = std::array::from_fn(|_| zeros(1, w.len()));
    match saved {
        SavedNorm::Input { x, mean, rstd } => {
            let (mean, rstd) = (mean.data(), rstd.data());
            let (dw, db) = (dw.data_mut(), db.data_mut());
            layer_norm::backward(dy.data(), x.data(), w, mean, rstd, dx.data_mut(), beta, dw, db);
        }
        SavedNorm::Rows { normalised, rstd } => {
            if beta == Beta::Zero {
                dx.data_mut().fill(0.0);
            }
            let rounded = build_blocks(dy.rows(), dy.columns(), |rounded| {
                let (dx, dw, db) = (dx.data_mut(), dw.data_mut(), db.data_mut());
                let (dy, normalised) = (dy.blocks(), normalised.blocks());
                bf16::layer_norm::backward(dy, normalised, w, rstd.data(), dx, rounded, dw, db);
            });
            dx.set_rounded(rounded);
        }
    }
    [dw, db]
}
