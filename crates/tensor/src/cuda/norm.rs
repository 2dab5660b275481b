//! Layer norm, in f32 or bfloat16.

use super::memory::{CudaTensor, empty};
use super::{Cuda, complete};
use crate::backend::{Beta, LayerNorm, SavedNorm};
use crate::precision::Precision;
use crate::tensor::Tensor;
use vlct_cuda::driver::Element::{Bf16, F32};
use vlct_cuda::layer_norm::{self, Gradients, Saved, Weights};

fn weights(norm: &LayerNorm) -> Weights<'_> {
    Weights {
        scale: norm.weight.matrix(),
        shift: norm.bias.matrix(),
        eps: norm.eps,
    }
}

impl Cuda {
    pub(super) fn norm_forward(&self, x: &Tensor, norm: &LayerNorm, precision: Precision) -> (SavedNorm, Tensor) {
        let _span = self.memory_span("layer norm", 2.0 * x.bytes());
        let (rows, width) = (x.rows(), x.columns());
        let new = |rows, columns, element| empty(&self.context, rows, columns, element);
        let mut rstd = new(1, rows, F32);
        match precision {
            Precision::F32 => {
                let (mut mean, mut y) = (new(1, rows, F32), new(rows, width, F32));
                complete(layer_norm::forward(
                    &self.context,
                    x.matrix(),
                    weights(norm),
                    y.overwritten(),
                    mean.overwritten(),
                    rstd.overwritten(),
                ));
                let x = x.clone();
                (SavedNorm::Input { x, mean, rstd }, y)
            }
            Precision::Bf16 => {
                let (mut normalised, mut y) = (new(rows, width, Bf16), new(rows, width, Bf16));
                complete(layer_norm::forward_bf16(
                    &self.context,
                    x.matrix(),
                    weights(norm),
                    normalised.overwritten(),
                    y.overwritten(),
                    rstd.overwritten(),
                ));
                (SavedNorm::Rows { normalised, rstd }, y)
            }
        }
    }

    /// Computes the output of a layer norm from what was saved.
    pub(super) fn norm_output(&self, saved: &SavedNorm, norm: &LayerNorm) -> Tensor {
        match saved {
            SavedNorm::Input { x, .. } => self.norm_forward(x, norm, Precision::F32).1,
            SavedNorm::Rows { normalised, .. } => {
                let _span = self.memory_span("layer norm", 2.0 * normalised.bytes());
                let mut y = empty(&self.context, normalised.rows(), normalised.columns(), Bf16);
                let rows = normalised.matrix();
                complete(layer_norm::output_bf16(
                    &self.context,
                    rows,
                    weights(norm),
                    y.overwritten(),
                ));
                y
            }
        }
    }

    pub(super) fn norm_backward(
        &self,
        saved: &SavedNorm,
        dy: &Tensor,
        norm: &LayerNorm,
        dx: &mut Tensor,
        beta: Beta,
    ) -> [Tensor; 2] {
        let bytes = saved.matrix().bytes() + dy.bytes() + 2.0 * dx.bytes();
        let _span = self.memory_span("layer norm gradient", bytes);
        let (rows, width) = (dy.rows(), dy.columns());
        let [mut d_scale, mut d_shift] = [(); 2].map(|()| empty(&self.context, 1, width, F32));
        let (saved, rstd) = match saved {
            SavedNorm::Input { x, mean, rstd } => (
                Saved::Input {
                    x: x.matrix(),
                    mean: mean.matrix(),
                },
                rstd,
            ),
            SavedNorm::Rows { normalised, rstd } => (Saved::Normalised(normalised.matrix()), rstd),
        };
        let mut rounded = match saved {
            Saved::Input { .. } => None,
            Saved::Normalised(_) => Some(empty(&self.context, rows, width, Bf16)),
        };
        let gradients = Gradients {
            dx: match beta {
                Beta::Zero => dx.overwritten(),
                Beta::One => dx.matrix_mut(),
            },
            beta,
            rounded: rounded.as_mut().map(CudaTensor::overwritten),
            d_scale: d_scale.overwritten(),
            d_shift: d_shift.overwritten(),
        };
        let (rstd, scale) = (rstd.matrix(), norm.weight.matrix());
        complete(layer_norm::backward(
            &self.context,
            dy.matrix(),
            saved,
            rstd,
            scale,
            gradients,
        ));
        if let Some(rounded) = rounded {
            dx.set_rounded(rounded);
        }
        [d_scale, d_shift]
    }
}
