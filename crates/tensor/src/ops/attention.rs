//! Multi-head self-attention over packed sequences.

use crate::{Tape, Tensor, Var};
use std::sync::Arc;
use vlct_kernels::attention;

impl Tape {
    /// `qkv [tokens, 3·width]` → `[tokens, width]`; sequence `s` owns the rows `offsets[s]..offsets[s+1]`, and tokens attend
    /// within their sequence. Scores are divided by the root of `width / heads`.
    ///
    /// # Panics
    /// If the offsets do not cover the rows, or the heads do not divide the width.
    pub fn attention(&self, qkv: &Var, offsets: &Arc<[usize]>, heads: usize) -> Var {
        let (tokens, width) = (qkv.rows(), qkv.columns() / 3);
        assert_eq!(offsets.last(), Some(&tokens), "offsets end at the number of tokens");
        let mut log_sum_exp = Tensor::zeros(heads, tokens);
        let out = Tensor::build(tokens, width, |out| {
            attention::forward(qkv.tensor().data(), offsets, heads, out, log_sum_exp.make_mut());
        });
        let (qt, ot, offsets, to_qkv) = (qkv.tensor().clone(), out.clone(), Arc::clone(offsets), qkv.target());
        self.push(out, &[qkv], move |d_out, back| {
            let d_qkv = Tensor::build(tokens, 3 * width, |d| {
                let (q, o, l) = (qt.data(), ot.data(), log_sum_exp.data());
                attention::backward(d_out.data(), q, o, l, &offsets, heads, d);
            });
            back.add(to_qkv, d_qkv);
        })
    }
}
