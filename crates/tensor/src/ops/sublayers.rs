//! The two halves of a pre-norm transformer block (Dosovitskiy et al. 2021, eq. 2 and 3), each one operation: the residual
//! stream stays f32, everything between is an operand of products and saved as such, or recomputed.

use crate::matmul::{self, Input, Layer, Normed, Scale, operand};
use crate::precision::{F32Products, Precision};
use crate::profile::{Span, span};
use crate::tape::Target;
use crate::tensor::{Format, bytes};
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
    fn layer(self, f32_products: F32Products) -> (Layer, [Target; 2]) {
        let layer = Layer {
            weight: self.weight.tensor().clone(),
            bias: Some(self.bias.tensor().clone()),
            f32_products,
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

/// Variable-length sequences, packed without padding: tokens attend within their sequence, and the first few of each sequence, or
/// all, are its query tokens.
///
/// Sequence `s` has keys and values in the rows `cu_seqlens_k[s]..cu_seqlens_k[s+1]`; the outputs of its query tokens are the rows
/// `cu_seqlens_q[s]..cu_seqlens_q[s+1]` (the names of FlashAttention).
#[derive(Clone, Debug)]
pub struct Varlen {
    cu_seqlens_k: Arc<[usize]>,
    cu_seqlens_q: Arc<[usize]>,
}

impl Varlen {
    /// Sequences all of whose tokens are query tokens.
    pub fn full(cu_seqlens: &Arc<[usize]>) -> Self {
        Self {
            cu_seqlens_k: Arc::clone(cu_seqlens),
            cu_seqlens_q: Arc::clone(cu_seqlens),
        }
    }

    /// Sequences of which the first `seqlens_q` tokens are query tokens.
    ///
    /// # Panics
    /// If the number of lengths is not the number of sequences.
    pub fn prefix_queries(cu_seqlens_k: &Arc<[usize]>, seqlens_q: impl IntoIterator<Item = usize>) -> Self {
        let mut end = 0;
        let ends = seqlens_q.into_iter().map(|len| {
            end += len;
            end
        });
        let cu_seqlens_q: Arc<[usize]> = std::iter::once(0).chain(ends).collect();
        assert_eq!(cu_seqlens_q.len(), cu_seqlens_k.len(), "one query length per sequence");
        Self {
            cu_seqlens_k: Arc::clone(cu_seqlens_k),
            cu_seqlens_q,
        }
    }

    fn view(&self) -> attention::Varlen<'_> {
        attention::Varlen::prefix_queries(&self.cu_seqlens_k, &self.cu_seqlens_q)
    }

    /// Rows of the query tokens among all tokens, unless all are query tokens.
    fn query_rows(&self) -> Option<Arc<[u32]>> {
        let (k, q) = (self.cu_seqlens_k.windows(2), self.cu_seqlens_q.windows(2));
        let rows = k.zip(q).flat_map(|(k, q)| k[0] as u32..(k[0] + q[1] - q[0]) as u32);
        (self.cu_seqlens_q != self.cu_seqlens_k).then(|| rows.collect())
    }

    /// Reports attention: `matmul` floating-point operations for each query, each key of its sequence and each column.
    fn span(&self, name: &str, products: f64, width: usize, moved: f64) -> Option<Span> {
        span(|| {
            let (k, q) = (self.cu_seqlens_k.windows(2), self.cu_seqlens_q.windows(2));
            let pairs: usize = k.zip(q).map(|(k, q)| (k[1] - k[0]) * (q[1] - q[0])).sum();
            (
                format!("{name}, width {width}"),
                products * (pairs * width) as f64,
                moved,
            )
        })
    }
}

/// What attention keeps for its backward pass.
struct Attended {
    normed: Normed,
    qkv: Tensor,
    out: Tensor,
    log_sum_exp: Tensor,
}

impl Attended {
    fn new(x: &Tensor, norm: &Scale, qkv: &Layer, varlen: &Varlen, heads: usize, precision: Precision) -> Self {
        let (normed, y) = matmul::norm(x, norm, precision);
        let qkv = matmul::linear_operand(&y, qkv);
        let packed = varlen.view();
        let (rows, width) = (packed.total_q(), x.columns());
        let mut log_sum_exp = Tensor::zeros(heads, rows);
        let _span = varlen.span("attention", 4.0, width, bytes(&qkv) * 4.0 / 3.0);
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
    fn backward(&self, d_out: &Tensor, varlen: &Varlen, heads: usize) -> Tensor {
        let packed = varlen.view();
        let moved = 2.0 * bytes(&self.qkv) + 2.0 * bytes(d_out);
        let _span = varlen.span("attention gradient", 10.0, d_out.columns(), moved);
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
    /// by the root of `width / heads`. Returns a row per query token, sequence after sequence.
    ///
    /// # Panics
    /// If the shapes do not fit, the sequences do not cover the rows or have fewer tokens than query tokens, or the heads do not
    /// divide the width.
    #[allow(clippy::too_many_arguments)]
    pub fn attention_sublayer(
        &self,
        x: &Var,
        norm: Affine,
        eps: f32,
        qkv: Affine,
        proj: Affine,
        varlen: &Varlen,
        heads: usize,
    ) -> Var {
        let (tokens, width, precision) = (x.rows(), x.columns(), self.compute().precision);
        assert_eq!(
            varlen.cu_seqlens_k.last(),
            Some(&tokens),
            "offsets end at the number of tokens"
        );
        let inputs = [x, norm.weight, norm.bias, qkv.weight, qkv.bias, proj.weight, proj.bias];
        let (norm, to_norm) = norm.scale(eps);
        let products = self.compute().f32_products;
        let ((qkv, to_qkv), (proj, to_proj)) = (qkv.layer(products), proj.layer(products));
        let varlen = varlen.clone();
        let attended = Attended::new(x.tensor(), &norm, &qkv, &varlen, heads, precision);
        let query_rows = varlen.query_rows();
        let residual = match &query_rows {
            None => x.tensor().clone(),
            Some(rows) => Tensor::build(rows.len(), width, |out| copy_rows(x.tensor().data(), width, rows, out)),
        };
        let y = matmul::linear(&attended.out, &proj, Some(&residual));
        drop(residual);
        let mut kept = Kept::new(attended, x, self.compute().recompute);
        let to_x = x.target();
        self.push(y, &inputs, move |mut dy, back| {
            let attended = kept.take(|x| Attended::new(x, &norm, &qkv, &varlen, heads, precision));
            let d = operand(&dy, precision);
            back.layer(to_proj[0], Some(to_proj[1]), &d, Input::Operand(&attended.out), width);
            let d_out = matmul::input_gradient_operand(&d, &proj);
            drop(d);
            let d_qkv = attended.backward(&d_out, &varlen, heads);
            if let Some(rows) = query_rows {
                let d_rows = dy;
                dy = Tensor::zeros(tokens, width);
                scatter_add(d_rows.data(), width, &rows, dy.make_mut());
            }
            let Attended { normed, .. } = attended;
            back.layer(to_qkv[0], Some(to_qkv[1]), &d_qkv, Input::Normed(&normed, &norm), width);
            let d_normed = matmul::input_gradient_operand(&d_qkv, &qkv);
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
        let products = self.compute().f32_products;
        let ((fc1, to_fc1), (fc2, to_fc2)) = (fc1.layer(products), fc2.layer(products));
        let (normed, hidden, active) = {
            let (normed, y) = matmul::norm(x.tensor(), &norm, precision);
            let keep = self.is_recording() && !self.compute().recompute;
            let (hidden, active) = matmul::linear_gelu(&y, &fc1, keep);
            (normed, hidden, active)
        };
        let y = matmul::linear(&active, &fc2, Some(x.tensor()));
        drop(active);
        let mut kept = Kept::new((normed, hidden), x, self.compute().recompute);
        let to_x = x.target();
        self.push(y, &inputs, move |dy, back| {
            let (normed, hidden) = kept.take(|x| {
                let (normed, y) = matmul::norm(x, &norm, precision);
                let hidden = matmul::linear_operand(&y, &fc1);
                (normed, Some(hidden))
            });
            let hidden = hidden.unwrap_or_else(|| unreachable!("a tape that records keeps it"));
            let d = operand(&dy, precision);
            back.layer(to_fc2[0], Some(to_fc2[1]), &d, Input::Gelu(&hidden), hidden.columns());
            let d_hidden = matmul::input_gradient_gelu(&d, &fc2, &hidden);
            drop((d, hidden));
            back.layer(
                to_fc1[0],
                Some(to_fc1[1]),
                &d_hidden,
                Input::Normed(&normed, &norm),
                width,
            );
            let d_normed = matmul::input_gradient_operand(&d_hidden, &fc1);
            drop(d_hidden);
            let (dx, [dw, db]) = normed.backward(&d_normed, &norm, dy);
            back.add(to_norm[0], dw);
            back.add(to_norm[1], db);
            back.add(to_x, dx);
        })
    }
}

/// The tensors that a backward pass needs, or the input that they are recomputed from.
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

    /// Returns the values; can be called once.
    fn take(&mut self, compute: impl FnOnce(&Tensor) -> T) -> T {
        match self {
            Self::Values(values) => values
                .take()
                .unwrap_or_else(|| unreachable!("a tape runs backwards once")),
            Self::Input(x) => compute(x),
        }
    }
}
