//! The two halves of a pre-norm transformer block (Dosovitskiy et al. 2021, eq. 2 and 3), each one operation: the residual
//! stream stays f32, everything between is an operand of products and kept as such, or computed again.

use crate::products::{self, Input, Layer, Normed, Scale, operand};
use crate::profile::{Span, bytes, span};
use crate::tape::{Precision, Target};
use crate::tensor::Format;
use crate::{Tape, Tensor, Var};
use std::sync::Arc;
use vlct_kernels::gather::{copy_rows, scatter_add};
use vlct_kernels::{attention, bf16};

/// Weight and bias of a linear layer, or scale and shift of a norm.
#[derive(Clone, Copy)]
pub struct Affine<'a> {
    /// `[out, in]`, or `[1, width]`.
    pub weight: &'a Var,
    /// `[1, out]`, or `[1, width]`.
    pub bias: &'a Var,
}

impl<'a> From<&'a [Var; 2]> for Affine<'a> {
    fn from([weight, bias]: &'a [Var; 2]) -> Self {
        Self { weight, bias }
    }
}

impl Affine<'_> {
    fn layer(self) -> (Layer, [Target; 2]) {
        let layer = Layer {
            weight: self.weight.tensor().clone(),
            bias: Some(self.bias.tensor().clone()),
        };
        (layer, [self.weight.target(), self.bias.target()])
    }

    fn scale(self, eps: f32) -> (Scale, [Target; 2]) {
        let scale = Scale {
            weight: self.weight.tensor().clone(),
            bias: self.bias.tensor().clone(),
            eps,
        };
        (scale, [self.weight.target(), self.bias.target()])
    }
}

/// Packed sequences: tokens attend within their own, and the first few of each are given something, or all.
#[derive(Clone, Debug)]
pub struct Sequences {
    offsets: Arc<[usize]>,
    asking: Arc<[usize]>,
}

impl Sequences {
    /// Sequence `s` owns the rows `offsets[s]..offsets[s+1]`, all of which are given something.
    pub fn all(offsets: &Arc<[usize]>) -> Self {
        Self {
            offsets: Arc::clone(offsets),
            asking: Arc::clone(offsets),
        }
    }

    /// The first `counts` tokens of each sequence are given something.
    ///
    /// # Panics
    /// If there is not one count for each sequence.
    pub fn leading(offsets: &Arc<[usize]>, counts: impl IntoIterator<Item = usize>) -> Self {
        let mut end = 0;
        let ends = counts.into_iter().map(|count| {
            end += count;
            end
        });
        let asking: Arc<[usize]> = std::iter::once(0).chain(ends).collect();
        assert_eq!(asking.len(), offsets.len(), "a count for each sequence");
        Self {
            offsets: Arc::clone(offsets),
            asking,
        }
    }

    fn view(&self) -> attention::Sequences<'_> {
        attention::Sequences::leading(&self.offsets, &self.asking)
    }

    /// Rows that ask, if not all do.
    fn rows(&self) -> Option<Arc<[u32]>> {
        let (offsets, asking) = (self.offsets.windows(2), self.asking.windows(2));
        let rows = offsets
            .zip(asking)
            .flat_map(|(o, a)| o[0] as u32..(o[0] + a[1] - a[0]) as u32);
        (self.asking != self.offsets).then(|| rows.collect())
    }

    /// Reports attention: `products` floating-point operations for each query, each key of its sequence and each column.
    fn span(&self, name: &str, products: f64, width: usize, moved: f64) -> Option<Span> {
        span(|| {
            let (tokens, asking) = (self.offsets.windows(2), self.asking.windows(2));
            let pairs: usize = tokens.zip(asking).map(|(t, a)| (t[1] - t[0]) * (a[1] - a[0])).sum();
            (
                format!("{name}, width {width}"),
                products * (pairs * width) as f64,
                moved,
            )
        })
    }
}

/// What the attention half keeps.
struct Attended {
    normed: Normed,
    qkv: Tensor,
    out: Tensor,
    log_sum_exp: Tensor,
}

impl Attended {
    fn new(x: &Tensor, norm: &Scale, qkv: &Layer, sequences: &Sequences, heads: usize, precision: Precision) -> Self {
        let (normed, y) = products::norm(x, norm, precision);
        let qkv = products::linear_operand(&y, qkv);
        let packed = sequences.view();
        let (rows, width) = (packed.results(), x.columns());
        let mut log_sum_exp = Tensor::zeros(heads, rows);
        let _span = sequences.span("attention", 4.0, width, bytes(&qkv) * 4.0 / 3.0);
        let lse = log_sum_exp.make_mut();
        let out = match qkv.format() {
            Format::F32 => Tensor::build(rows, width, |out| {
                attention::forward(qkv.data(), packed, heads, out, lse);
            }),
            Format::Bf16 => Tensor::build_blocks(rows, width, |out| {
                bf16::attention::forward(qkv.blocks(), packed, heads, out, lse);
            }),
        };
        Self {
            normed,
            qkv,
            out,
            log_sum_exp,
        }
    }

    /// Gradient of query, key and value.
    fn backward(&self, d_out: &Tensor, sequences: &Sequences, heads: usize) -> Tensor {
        let packed = sequences.view();
        let moved = 2.0 * bytes(&self.qkv) + 2.0 * bytes(d_out);
        let _span = sequences.span("attention gradient", 10.0, d_out.columns(), moved);
        let (tokens, width, lse) = (self.qkv.rows(), self.qkv.columns(), self.log_sum_exp.data());
        match self.qkv.format() {
            Format::F32 => Tensor::build(tokens, width, |d| {
                let (qkv, out) = (self.qkv.data(), self.out.data());
                attention::backward(d_out.data(), qkv, out, lse, packed, heads, d);
            }),
            Format::Bf16 => Tensor::build_blocks(tokens, width, |d| {
                let (qkv, out) = (self.qkv.blocks(), self.out.blocks());
                bf16::attention::backward(d_out.blocks(), qkv, out, lse, packed, heads, d);
            }),
        }
    }
}

impl Tape {
    /// `x + proj(attention(qkv(norm(x))))` for packed sequences: `x [tokens, width]`, `qkv [3·width, width]`. Scores are divided
    /// by the root of `width / heads`. Gives a row for each token that asks, sequence after sequence.
    ///
    /// # Panics
    /// If the shapes do not fit, the sequences do not cover the rows or have fewer tokens than are to ask, or the heads do not
    /// divide the width.
    #[allow(clippy::too_many_arguments)]
    pub fn attention_sublayer(
        &self,
        x: &Var,
        norm: Affine,
        eps: f32,
        qkv: Affine,
        proj: Affine,
        sequences: &Sequences,
        heads: usize,
    ) -> Var {
        let (tokens, width, precision) = (x.rows(), x.columns(), self.compute().precision);
        assert_eq!(
            sequences.offsets.last(),
            Some(&tokens),
            "offsets end at the number of tokens"
        );
        let inputs = [x, norm.weight, norm.bias, qkv.weight, qkv.bias, proj.weight, proj.bias];
        let (norm, to_norm) = norm.scale(eps);
        let ((qkv, to_qkv), (proj, to_proj)) = (qkv.layer(), proj.layer());
        let sequences = sequences.clone();
        let attended = Attended::new(x.tensor(), &norm, &qkv, &sequences, heads, precision);
        let asking = sequences.rows();
        let residual = match &asking {
            None => x.tensor().clone(),
            Some(rows) => Tensor::build(rows.len(), width, |out| copy_rows(x.tensor().data(), width, rows, out)),
        };
        let y = products::linear(&attended.out, &proj, Some(&residual));
        drop(residual);
        let mut kept = Kept::new(attended, x, self.compute().recompute);
        let to_x = x.target();
        self.push(y, &inputs, move |mut dy, back| {
            let attended = kept.take(|x| Attended::new(x, &norm, &qkv, &sequences, heads, precision));
            let d = operand(&dy, precision);
            back.layer(to_proj[0], Some(to_proj[1]), &d, Input::Operand(&attended.out), width);
            let d_out = products::input_gradient_operand(&d, &proj.weight);
            drop(d);
            let d_qkv = attended.backward(&d_out, &sequences, heads);
            if let Some(rows) = asking {
                let d_rows = dy;
                dy = Tensor::zeros(tokens, width);
                scatter_add(d_rows.data(), width, &rows, dy.make_mut());
            }
            let Attended { normed, .. } = attended;
            back.layer(to_qkv[0], Some(to_qkv[1]), &d_qkv, Input::Normed(&normed, &norm), width);
            let d_normed = products::input_gradient_operand(&d_qkv, &qkv.weight);
            drop(d_qkv);
            let (dx, [dw, db]) = normed.backward(&d_normed, &norm, dy);
            back.add(to_norm[0], dw);
            back.add(to_norm[1], db);
            back.add(to_x, dx);
        })
    }

    /// `x + fc2(gelu(fc1(norm(x))))`: `x [rows, width]`, `fc1 [hidden, width]`, `fc2 [width, hidden]`, exact GELU.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn mlp_sublayer(&self, x: &Var, norm: Affine, eps: f32, fc1: Affine, fc2: Affine) -> Var {
        let (width, precision) = (x.columns(), self.compute().precision);
        let inputs = [x, norm.weight, norm.bias, fc1.weight, fc1.bias, fc2.weight, fc2.bias];
        let (norm, to_norm) = norm.scale(eps);
        let ((fc1, to_fc1), (fc2, to_fc2)) = (fc1.layer(), fc2.layer());
        let (normed, hidden, active) = {
            let (normed, y) = products::norm(x.tensor(), &norm, precision);
            let keep = self.is_recording() && !self.compute().recompute;
            let (hidden, active) = products::linear_gelu(&y, &fc1, keep);
            (normed, hidden, active)
        };
        let y = products::linear(&active, &fc2, Some(x.tensor()));
        drop(active);
        let mut kept = Kept::new((normed, hidden), x, self.compute().recompute);
        let to_x = x.target();
        self.push(y, &inputs, move |dy, back| {
            let (normed, hidden) = kept.take(|x| {
                let (normed, y) = products::norm(x, &norm, precision);
                let hidden = products::linear_operand(&y, &fc1);
                (normed, Some(hidden))
            });
            let hidden = hidden.unwrap_or_else(|| unreachable!("a tape that records keeps it"));
            let d = operand(&dy, precision);
            back.layer(to_fc2[0], Some(to_fc2[1]), &d, Input::Gelu(&hidden), hidden.columns());
            let d_hidden = products::input_gradient_gelu(&d, &fc2.weight, &hidden);
            drop((d, hidden));
            back.layer(
                to_fc1[0],
                Some(to_fc1[1]),
                &d_hidden,
                Input::Normed(&normed, &norm),
                width,
            );
            let d_normed = products::input_gradient_operand(&d_hidden, &fc1.weight);
            drop(d_hidden);
            let (dx, [dw, db]) = normed.backward(&d_normed, &norm, dy);
            back.add(to_norm[0], dw);
            back.add(to_norm[1], db);
            back.add(to_x, dx);
        })
    }
}

/// What a backward pass needs, or the input that it is computed from again.
enum Kept<T> {
    Values(Option<T>),
    Input(Tensor),
}

impl<T> Kept<T> {
    fn new(values: T, x: &Var, recompute: bool) -> Self {
        if recompute {
            Self::Input(x.tensor().clone())
        } else {
            Self::Values(Some(values))
        }
    }

    /// Gives the values away, once.
    fn take(&mut self, compute: impl FnOnce(&Tensor) -> T) -> T {
        match self {
            Self::Values(values) => values
                .take()
                .unwrap_or_else(|| unreachable!("a tape runs backwards once")),
            Self::Input(x) => compute(x),
        }
    }
}
