//! The two halves of a pre-norm transformer block (Dosovitskiy et al. 2021, eq. 2 and 3), each one operation: the residual
//! stream stays f32, everything between is an operand of products and saved as such, or recomputed.

use crate::backend::{Backend, Beta, Input, Layer, Normed, Scale};
use crate::precision::Precision;
use crate::tape::Target;
use crate::varlen::Varlen;
use crate::{Tape, Tensor, Var};

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
    fn layer(self, tape: &Tape) -> (Layer, [Target; 2]) {
        let layer = tape.layer(self.weight, Some(self.bias));
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

/// Layer norm, QKV projection and attention, without the output projection.
struct Attention {
    norm: Scale,
    qkv: Layer,
    varlen: Varlen,
    heads: usize,
}

/// The tensors that attention saves for its backward pass.
struct Attended {
    normed: Normed,
    qkv: Tensor,
    out: Tensor,
    log_sum_exp: Tensor,
}

impl Attended {
    fn new(backend: &dyn Backend, x: &Tensor, a: &Attention, precision: Precision) -> Self {
        let (normed, y) = backend.norm(x, &a.norm, precision);
        let qkv = backend.linear_operand(&y, &a.qkv);
        let (out, log_sum_exp) = backend.attention(&qkv, &a.varlen, a.heads);
        Self {
            normed,
            qkv,
            out,
            log_sum_exp,
        }
    }

    /// The gradient of queries, keys and values.
    fn backward(&self, backend: &dyn Backend, d_out: &Tensor, a: &Attention) -> Tensor {
        backend.attention_gradient(d_out, &self.qkv, &self.out, &self.log_sum_exp, &a.varlen, a.heads)
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
        let (tokens, width) = (x.rows(), x.columns());
        let (backend, precision) = (self.backend(), self.compute().precision);
        assert_eq!(varlen.tokens(), tokens, "offsets end at the number of tokens");
        let inputs = [x, norm.weight, norm.bias, qkv.weight, qkv.bias, proj.weight, proj.bias];
        let (norm, to_norm) = norm.scale(eps);
        let ((qkv, to_qkv), (proj, to_proj)) = (qkv.layer(self), proj.layer(self));
        let varlen = varlen.clone();
        let query_rows = varlen.query_rows();
        let attention = Attention {
            norm,
            qkv,
            varlen,
            heads,
        };
        let attended = Attended::new(backend, x.tensor(), &attention, precision);
        let residual = match &query_rows {
            None => x.tensor().clone(),
            Some(rows) => backend.gather(&[(x.tensor(), rows)]),
        };
        let y = backend.linear(&attended.out, &proj, Some(&residual));
        drop(residual);
        let mut kept = Kept::new(attended, x, self.compute().recompute);
        let to_x = x.target();
        self.push(y, &inputs, move |mut dy, back| {
            let attended = kept.take(|x| Attended::new(backend, x, &attention, precision));
            let d = backend.operand(&dy, precision);
            back.layer(to_proj[0], Some(to_proj[1]), &d, Input::Operand(&attended.out), width);
            let d_out = backend.input_gradient_operand(&d, &proj);
            drop(d);
            let d_qkv = attended.backward(backend, &d_out, &attention);
            if let Some(rows) = query_rows {
                let mut d_rows = backend.empty(tokens, width);
                backend.scatter_add(&dy, &rows, &mut d_rows, Beta::Zero);
                dy = d_rows;
            }
            let Attended { normed, .. } = attended;
            let Attention { norm, qkv, .. } = attention;
            back.layer(to_qkv[0], Some(to_qkv[1]), &d_qkv, Input::Normed(&normed, &norm), width);
            let mut dx = dy;
            let d_normed = backend.input_gradient_operand(&d_qkv, &qkv);
            drop(d_qkv);
            let [dw, db] = backend.norm_gradient(&normed, &d_normed, &norm, &mut dx, Beta::One);
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
        let width = x.columns();
        let (backend, precision) = (self.backend(), self.compute().precision);
        let inputs = [x, norm.weight, norm.bias, fc1.weight, fc1.bias, fc2.weight, fc2.bias];
        let (norm, to_norm) = norm.scale(eps);
        let ((fc1, to_fc1), (fc2, to_fc2)) = (fc1.layer(self), fc2.layer(self));
        let (normed, hidden, active) = {
            let (normed, y) = backend.norm(x.tensor(), &norm, precision);
            let keep = self.is_recording() && !self.compute().recompute;
            let (hidden, active) = backend.linear_gelu(&y, &fc1, keep);
            (normed, hidden, active)
        };
        let y = backend.linear(&active, &fc2, Some(x.tensor()));
        drop(active);
        let mut kept = Kept::new((normed, hidden), x, self.compute().recompute);
        let to_x = x.target();
        self.push(y, &inputs, move |dy, back| {
            let (normed, hidden) = kept.take(|x| {
                let (normed, y) = backend.norm(x, &norm, precision);
                let hidden = backend.linear_operand(&y, &fc1);
                (normed, Some(hidden))
            });
            let hidden = hidden.unwrap_or_else(|| unreachable!("a tape that records keeps it"));
            let d = backend.operand(&dy, precision);
            back.layer(to_fc2[0], Some(to_fc2[1]), &d, Input::Gelu(&hidden), hidden.columns());
            let d_hidden = backend.input_gradient_gelu(&d, &fc2, &hidden);
            drop((d, hidden));
            back.layer(
                to_fc1[0],
                Some(to_fc1[1]),
                &d_hidden,
                Input::Normed(&normed, &norm),
                width,
            );
            let mut dx = dy;
            let d_normed = backend.input_gradient_operand(&d_hidden, &fc1);
            drop(d_hidden);
            let [dw, db] = backend.norm_gradient(&normed, &d_normed, &norm, &mut dx, Beta::One);
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
