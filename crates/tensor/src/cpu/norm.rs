//! Layer norm, in either precision.

use super::memory::{Values, build, build_blocks, zeros};
use super::pass;
use crate::backend::{Beta, Normed, Scale};
use crate::precision::Precision;
use crate::tensor::Tensor;
use vlct_kernels::bf16::{self, blocks};
use vlct_kernels::layer_norm;

/// The layer norm of each row of `x [T, D]`, as an operand.
pub(super) fn norm(x: &Tensor, scale: &Scale, precision: Precision) -> (Normed, Tensor) {
    let _span = pass("layer norm", 2.0 * x.bytes());
    let (rows, width) = (x.rows(), x.columns());
    let (w, b) = (scale.weight.data(), scale.bias.data());
    let mut rstd = zeros(1, rows);
    match precision {
        Precision::F32 => {
            let mut mean = zeros(1, rows);
            let y = build(rows, width, |y| {
                layer_norm::forward(x.data(), w, b, scale.eps, y, mean.data_mut(), rstd.data_mut());
            });
            let x = x.clone();
            (Normed::Input { x, mean, rstd }, y)
        }
        Precision::Bf16 => {
            let mut y = None;
            let normalised = build_blocks(rows, width, |normalised| {
                y = Some(build_blocks(rows, width, |y| {
                    bf16::layer_norm::forward(x.data(), w, b, scale.eps, normalised, y, rstd.data_mut());
                }));
            });
            let y = y.unwrap_or_else(|| unreachable!("built together with `normalised`"));
            (Normed::Rows { normalised, rstd }, y)
        }
    }
}

/// Recomputes the output of [`norm`] in f32.
pub(super) fn output(normed: &Normed, scale: &Scale) -> Tensor {
    match normed {
        Normed::Input { x, .. } => norm(x, scale, Precision::F32).1,
        Normed::Rows { .. } => unreachable!("operands have the format of saved tensors"),
    }
}

/// Recomputes the output of [`norm`] in blocks, transposed.
pub(super) fn transposed_output(normed: &Normed, scale: &Scale) -> Tensor {
    match normed {
        Normed::Input { .. } => unreachable!("operands have the format of saved tensors"),
        Normed::Rows { normalised: n, .. } => build_blocks(n.columns(), n.rows(), |out| {
            blocks::transpose_scaled(n.blocks(), scale.weight.data(), scale.bias.data(), out);
        }),
    }
}

/// The gradients of input, scale and shift. In bfloat16, the input's gradient is rounded to an operand on the way.
pub(super) fn norm_gradient(normed: &Normed, dy: &Tensor, scale: &Scale, dx: &mut Tensor, beta: Beta) -> [Tensor; 2] {
    let moved = normed.saved().bytes() + dy.bytes() + 2.0 * dx.bytes();
    let _span = pass("layer norm gradient", moved);
    let w = scale.weight.data();
    let [mut dw, mut db] = std::array::from_fn(|_| zeros(1, w.len()));
    match normed {
        Normed::Input { x, mean, rstd } => {
            let (mean, rstd) = (mean.data(), rstd.data());
            let (dw, db) = (dw.data_mut(), db.data_mut());
            layer_norm::backward(dy.data(), x.data(), w, mean, rstd, dx.data_mut(), beta, dw, db);
        }
        Normed::Rows { normalised, rstd } => {
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
