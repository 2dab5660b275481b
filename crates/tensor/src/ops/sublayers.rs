//! The two sublayers of a pre-norm transformer block (Dosovitskiy et al. 2021, eq. 2 and 3), one operation each. The residual stream is
//! f32. Intermediate activations are operands of products; the backward pass reads the saved operands, or recomputes them.

use crate::backend::{Backend, Beta, Input, Layer, LayerNorm, SavedNorm};
use crate::precision::Precision;
use crate::tape::Edge;
use crate::varlen::Varlen;
use crate::{Tape, Tensor, Var};

/// Weight and bias of a linear layer, or scale and shift of a layer norm.
#[derive(Clone, Copy)]
pub struct Affine<'a> {
    /// `[out, in]` for a linear layer, `[1, width]` for a layer norm.
    pub weight: &'a Var,
    /// `[1, out]` for a linear layer, `[1, width]` for a layer norm.
    pub bias: &'a Var,
}

impl<'a> From<&'a [Var; 2]> for Affine<'a> {
    fn from([weight, bias]: &'a [Var; 2]) -> Self {
        Self { weight, bias }
    }
}

impl Affine<'_> {
    pub(super) fn linear_layer(self, tape: &Tape) -> (Layer, [Edge; 2]) {
        let layer = tape.linear_layer(self.weight, Some(self.bias));
        (layer, [self.weight, self.bias].map(Var::gradient_edge))
    }

    pub(super) fn layer_norm(self, eps: f32) -> (LayerNorm, [Edge; 2]) {
        let norm = LayerNorm {
            weight: self.weight.tensor().clone(),
            bias: self.bias.tensor().clone(),
            eps,
        };
        (norm, [self.weight, self.bias].map(Var::gradient_edge))
    }
}

/// The layers of the attention sublayer before its output projection, with the sequences and the number of heads.
struct AttentionLayers {
    norm: LayerNorm,
    qkv: Layer,
    varlen: Varlen,
    heads: usize,
}

/// The tensors that the attention sublayer saves for its backward pass.
struct SavedAttention {
    norm: SavedNorm,
    qkv: Tensor,
    out: Tensor,
    log_sum_exp: Tensor,
}

impl SavedAttention {
    fn forward(backend: &dyn Backend, x: &Tensor, layers: &AttentionLayers, precision: Precision) -> Self {
        let (norm, y) = backend.norm(x, &layers.norm, precision);
        let qkv = backend.linear_operand(&y, &layers.qkv);
        let (out, log_sum_exp) = backend.attention(&qkv, &layers.varlen, layers.heads);
        Self {
            norm,
            qkv,
            out,
            log_sum_exp,
        }
    }

    /// Returns the gradient of queries, keys and values.
    fn backward(&self, backend: &dyn Backend, d_out: &Tensor, layers: &AttentionLayers) -> Tensor {
        let (varlen, heads) = (&layers.varlen, layers.heads);
        backend.attention_gradient(d_out, &self.qkv, &self.out, &self.log_sum_exp, varlen, heads)
    }
}

impl Tape {
    /// Returns `x + proj(attention(qkv(norm(x))))` for packed sequences, with one row per query token, in the order of the sequences. `x`
    /// is `[tokens, width]`, the weight of `qkv` is `[3·width, width]`. Scores are divided by the square root of `width / heads`.
    ///
    /// # Panics
    /// If the shapes do not fit, the sequences do not cover the rows, a sequence has fewer tokens than query tokens, or the width is
    /// not divisible by the number of heads.
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
        let (tokens, width) = (x.rows(), x.columns());
        let (backend, precision) = (self.backend(), self.compute().precision);
        assert_eq!(varlen.tokens(), tokens, "the last offset must be the number of tokens");
        let inputs = [x, norm.weight, norm.bias, qkv.weight, qkv.bias, proj.weight, proj.bias];
        let (norm, norm_edges) = norm.layer_norm(eps);
        let ((qkv, qkv_edges), (proj, proj_edges)) = (qkv.linear_layer(self), proj.linear_layer(self));
        let varlen = varlen.clone();
        let query_rows = varlen.query_rows();
        let layers = AttentionLayers {
            norm,
            qkv,
            varlen,
            heads,
        };
        let saved = SavedAttention::forward(backend, x.tensor(), &layers, precision);
        let residual = match &query_rows {
            None => x.tensor().clone(),
            Some(rows) => backend.gather(&[(x.tensor(), rows)]),
        };
        let y = backend.linear(&saved.out, &proj, Some(&residual));
        drop(residual);
        let mut saved = Saved::new(saved, x, self.compute().recompute);
        let x_edge = x.gradient_edge();
        self.push(y, &inputs, move |mut dy, back| {
            let saved = saved.take(|x| SavedAttention::forward(backend, x, &layers, precision));
            let d = backend.operand(&dy, precision);
            back.add_layer_gradients(
                proj_edges[0],
                Some(proj_edges[1]),
                &d,
                Input::Operand(&saved.out),
                width,
            );
            let d_out = backend.input_gradient_operand(&d, &proj);
            drop(d);
            let d_qkv = saved.backward(backend, &d_out, &layers);
            if let Some(rows) = query_rows {
                let mut d_rows = backend.empty(tokens, width);
                backend.scatter_add(&dy, &rows, &mut d_rows, Beta::Zero);
                dy = d_rows;
            }
            let SavedAttention { norm: saved_norm, .. } = saved;
            let AttentionLayers { norm, qkv, .. } = layers;
            let input = Input::NormOutput(&saved_norm, &norm);
            back.add_layer_gradients(qkv_edges[0], Some(qkv_edges[1]), &d_qkv, input, width);
            let mut dx = dy;
            let d_norm = backend.input_gradient_operand(&d_qkv, &qkv);
            drop(d_qkv);
            let [dw, db] = backend.norm_gradient(&saved_norm, &d_norm, &norm, &mut dx, Beta::One);
            back.add(norm_edges[0], dw);
            back.add(norm_edges[1], db);
            back.add(x_edge, dx);
        })
    }

    /// Returns `x + fc2(gelu(fc1(norm(x))))`. `x` is `[rows, width]`; the weights are `fc1 [hidden, width]` and `fc2 [width, hidden]`.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn mlp_sublayer(&self, x: &Var, norm: Affine, eps: f32, fc1: Affine, fc2: Affine) -> Var {
        let width = x.columns();
        let (backend, precision) = (self.backend(), self.compute().precision);
        let inputs = [x, norm.weight, norm.bias, fc1.weight, fc1.bias, fc2.weight, fc2.bias];
        let (norm, norm_edges) = norm.layer_norm(eps);
        let ((fc1, fc1_edges), (fc2, fc2_edges)) = (fc1.linear_layer(self), fc2.linear_layer(self));
        let (saved_norm, hidden, activation) = {
            let (saved_norm, y) = backend.norm(x.tensor(), &norm, precision);
            let save_hidden = self.records(&inputs) && !self.compute().recompute;
            let (hidden, activation) = backend.linear_gelu(&y, &fc1, save_hidden);
            (saved_norm, hidden, activation)
        };
        let y = backend.linear(&activation, &fc2, Some(x.tensor()));
        drop(activation);
        let mut saved = Saved::new((saved_norm, hidden), x, self.compute().recompute);
        let x_edge = x.gradient_edge();
        self.push(y, &inputs, move |dy, back| {
            let (saved_norm, hidden) = saved.take(|x| {
                let (saved_norm, y) = backend.norm(x, &norm, precision);
                let hidden = backend.linear_operand(&y, &fc1);
                (saved_norm, Some(hidden))
            });
            let hidden = hidden.unwrap_or_else(|| unreachable!("a recording tape saves `hidden`"));
            let d = backend.operand(&dy, precision);
            back.add_layer_gradients(
                fc2_edges[0],
                Some(fc2_edges[1]),
                &d,
                Input::Gelu(&hidden),
                hidden.columns(),
            );
            let d_hidden = backend.input_gradient_gelu(&d, &fc2, &hidden);
            drop((d, hidden));
            let input = Input::NormOutput(&saved_norm, &norm);
            back.add_layer_gradients(fc1_edges[0], Some(fc1_edges[1]), &d_hidden, input, width);
            let mut dx = dy;
            let d_norm = backend.input_gradient_operand(&d_hidden, &fc1);
            drop(d_hidden);
            let [dw, db] = backend.norm_gradient(&saved_norm, &d_norm, &norm, &mut dx, Beta::One);
            back.add(norm_edges[0], dw);
            back.add(norm_edges[1], db);
            back.add(x_edge, dx);
        })
    }
}

/// The tensors that a backward pass needs, or the input to recompute them from.
enum Saved<T> {
    Values(Option<T>),
    Input(Tensor),
}

impl<T> Saved<T> {
    fn new(values: T, x: &Var, recompute: bool) -> Self {
        if recompute {
            Self::Input(x.tensor().clone())
        } else {
            Self::Values(Some(values))
        }
    }

    /// Returns the saved tensors, or calls `recompute` with the saved input. Can be called once.
    fn take(&mut self, recompute: impl FnOnce(&Tensor) -> T) -> T {
        match self {
            Self::Values(values) => values
                .take()
                .unwrap_or_else(|| unreachable!("a backward closure is called once")),
            Self::Input(x) => recompute(x),
        }
    }
}
