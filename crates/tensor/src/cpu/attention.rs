//! Attention, in either precision.

use super::memory::{CpuTensor, Format, build, build_blocks, zeros};
use super::span;
use crate::profile::Span;
use crate::tensor::Tensor;
use crate::varlen::Varlen;
use vlct_kernels::{attention, bf16};

fn kernel_varlen(varlen: &Varlen) -> attention::Varlen<'_> {
    attention::Varlen::prefix_queries(varlen.cu_seqlens_k(), varlen.cu_seqlens_q())
}

/// Reports attention to the profile. The number of floating-point operations is `flops` · pairs of query and key · `width`.
fn attention_span(varlen: &Varlen, name: &str, flops: f64, width: usize, bytes: f64) -> Option<Span<'static>> {
    span(|| {
        (
            format!("{name}, width {width}"),
            flops * (varlen.pairs() * width) as f64,
            bytes,
        )
    })
}

/// Returns the outputs of the query tokens `[queries, D]`, and the log-sum-exp of their scores `[H, queries]`.
pub(super) fn attention(qkv: &Tensor, varlen: &Varlen, heads: usize) -> (Tensor, Tensor) {
    let packed = kernel_varlen(varlen);
    let (rows, width) = (packed.total_q(), qkv.columns() / 3);
    let mut log_sum_exp = zeros(heads, rows);
    let _span = attention_span(varlen, "attention", 4.0, width, qkv.bytes() * 4.0 / 3.0);
    let lse = log_sum_exp.data_mut();
    let out = match qkv.format() {
        Format::F32 => build(rows, width, |out| {
            attention::forward(qkv.data(), packed, heads, out, lse);
        }),
        Format::Bf16 => build_blocks(rows, width, |out| {
            bf16::attention::forward(qkv.blocks(), packed, heads, out, lse);
        }),
    };
    (out, log_sum_exp)
}

/// Returns the gradient of queries, keys and values `[T, 3·D]`.
pub(super) fn attention_gradient(
    d_out: &Tensor,
    qkv: &Tensor,
    out: &Tensor,
    log_sum_exp: &Tensor,
    varlen: &Varlen,
    heads: usize,
) -> Tensor {
    let packed = kernel_varlen(varlen);
    let bytes = 2.0 * qkv.bytes() + 2.0 * d_out.bytes();
    let _span = attention_span(varlen, "attention gradient", 10.0, d_out.columns(), bytes);
    let (tokens, width, lse) = (qkv.rows(), qkv.columns(), log_sum_exp.data());
    match qkv.format() {
        Format::F32 => build(tokens, width, |d| {
            attention::backward(d_out.data(), qkv.data(), out.data(), lse, packed, heads, d);
        }),
        Format::Bf16 => build_blocks(tokens, width, |d| {
            bf16::attention::backward(d_out.blocks(), qkv.blocks(), out.blocks(), lse, packed, heads, d);
        }),
    }
}
