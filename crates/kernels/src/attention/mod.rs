//! Multi-head self-attention over packed sequences (Vaswani et al. 2017, eq. 1), without a mask.
//!
//! `qkv` is `[T, 3·D]`. Each row is `q | k | v`, and each part consists of `H` heads of `dh = D/H` values. Tokens attend only within their
//! sequence ([`Varlen`]).
//!
//! One task is one head of one sequence. A task computes the scores of `nr` queries at a time, transposed: keys are rows, and queries are
//! the lanes of two registers. With this layout, each statistic of a query (maximum, sum, log-sum-exp) is in the lane of the query, and the
//! scores are already the packed rhs of the next product. As in FlashAttention (Dao et al. 2022), the backward pass recomputes the
//! probabilities from the saved log-sum-exp of each query. The plain versions are
//! [`reference::attention_forward`](crate::reference::attention_forward) and
//! [`reference::attention_backward`](crate::reference::attention_backward).

mod gemm;
mod softmax;
mod varlen;

pub use varlen::Varlen;

use crate::aligned::padded_stride;
use crate::mat::Beta;
use crate::memory::{BumpAllocator, Scratch};
use crate::parallel::SharedMut;

use gemm::{Lhs, Strided, gemm, nr};
use rayon::prelude::*;
use softmax::{divide_columns, score_gradient, softmax};
use std::cell::RefCell;
use std::ops::Range;
use vlct_simd::math::sum2;

thread_local! {
    /// Operands, scores and results of the current task.
    static SCRATCH: RefCell<Scratch> = const { RefCell::new(Scratch::new()) };
}

/// The width of each part of `qkv`, and the width of a head.
#[derive(Clone, Copy)]
struct Shape {
    /// `D`
    width: usize,
    /// `dh`
    head_width: usize,
}

impl Shape {
    fn new(qkv: &[f32], varlen: Varlen, heads: usize) -> Self {
        let parts = varlen.total_k().saturating_mul(3);
        assert!(
            parts > 0 && qkv.len().is_multiple_of(parts),
            "qkv does not fit the offsets"
        );
        let width = qkv.len() / parts;
        assert!(
            heads > 0 && width.is_multiple_of(heads),
            "width {width} is not divisible by {heads} heads"
        );
        let head_width = width / heads;
        Self { width, head_width }
    }

    /// The queries, keys or values (part 0, 1 or 2) of head `h`, in the rows from `row` on.
    fn part<'a>(&self, qkv: &'a [f32], row: usize, h: usize, part: usize) -> Strided<'a> {
        let start = row * 3 * self.width + part * self.width + h * self.head_width;
        Strided::new(&qkv[start..], 3 * self.width)
    }

    /// The scale of the scores, `1/√dh`.
    fn scale(&self) -> f32 {
        1.0 / (self.head_width as f32).sqrt()
    }

    /// The factor that turns the dot product of query and key into an exponent of 2.
    fn log2_scale(&self) -> f32 {
        std::f32::consts::LOG2_E * self.scale()
    }
}

/// Calls `task(head, rows, q_rows)` for every head of every non-empty sequence, in parallel. `rows` are the rows of the sequence in `qkv`,
/// `q_rows` the rows of its outputs.
fn for_each_head(varlen: Varlen, heads: usize, task: impl Fn(usize, Range<usize>, Range<usize>) + Sync) {
    (0..varlen.batch() * heads).into_par_iter().for_each(|i| {
        let (rows, q_rows) = varlen.rows(i / heads);
        if !rows.is_empty() {
            task(i % heads, rows, q_rows);
        }
    });
}

/// Writes the outputs `out [total_q, D]` and `log_sum_exp [H, total_q]`, the log-sum-exp of the scores of each query, to base 2.
///
/// # Panics
/// If the sizes do not fit.
pub fn forward(qkv: &[f32], varlen: Varlen, heads: usize, out: &mut [f32], log_sum_exp: &mut [f32]) {
    let shape = Shape::new(qkv, varlen, heads);
    let total_q = varlen.total_q();
    assert!(out.len() == total_q * shape.width && log_sum_exp.len() == total_q * heads);
    let (out, lse) = (SharedMut::new(out), SharedMut::new(log_sum_exp));
    let nr = nr();
    for_each_head(varlen, heads, |h, rows, q_rows| {
        let (n, head_width) = (rows.len(), shape.head_width);
        if q_rows.is_empty() {
            return;
        }
        SCRATCH.with_borrow_mut(|memory| {
            let stride = padded_stride(n);
            let mut scratch = BumpAllocator::new(memory, head_width * stride + (n + 3 * head_width + 2) * nr);
            let k_t = scratch.allocate(head_width * stride);
            let scores = scratch.allocate(n * nr);
            let [q_t, out_t, result] = [(); 3].map(|_| scratch.allocate(head_width * nr));
            let [row_max, row_sum] = [(); 2].map(|_| scratch.allocate(nr));
            let [k, v] = [1, 2].map(|part| shape.part(qkv, rows.start, h, part));
            k.transpose(n, head_width, k_t, stride);
            for first in (0..q_rows.len()).step_by(nr) {
                let count = nr.min(q_rows.len() - first);
                let q = shape.part(qkv, rows.start + first, h, 0);
                q.transpose_padded(count, head_width, q_t, nr);
                let keys = Lhs::Transposed(Strided::new(k_t, stride));
                gemm(keys, n, head_width, Strided::new(q_t, nr), 1, scores, nr, Beta::Zero);
                softmax(scores, shape.log2_scale(), row_max, row_sum);
                let values = Lhs::Transposed(v);
                gemm(
                    values,
                    head_width,
                    n,
                    Strided::new(scores, nr),
                    1,
                    out_t,
                    nr,
                    Beta::Zero,
                );
                divide_columns(out_t, row_sum);
                Strided::new(out_t, nr).transpose(head_width, count, result, head_width);
                for (i, row) in result.chunks_exact(head_width).take(count).enumerate() {
                    let q_row = q_rows.start + first + i;
                    // SAFETY: only this task accesses these columns of this row, and this log-sum-exp.
                    unsafe {
                        *lse.ptr_at(h * total_q + q_row) = row_max[i] + row_sum[i].log2();
                        std::slice::from_raw_parts_mut(out.ptr_at(q_row * shape.width + h * head_width), head_width)
                            .copy_from_slice(row);
                    }
                }
            }
        });
    });
}

/// Writes `d_qkv [T, 3·D]` from `d_out [total_q, D]` and the results of [`forward`].
///
/// # Panics
/// If the sizes do not fit.
#[allow(clippy::too_many_arguments)]
pub fn backward(
    d_out: &[f32],
    qkv: &[f32],
    out: &[f32],
    log_sum_exp: &[f32],
    varlen: Varlen,
    heads: usize,
    d_qkv: &mut [f32],
) {
    let shape = Shape::new(qkv, varlen, heads);
    let total_q = varlen.total_q();
    assert!(d_out.len() == out.len() && out.len() == total_q * shape.width && d_qkv.len() == qkv.len());
    assert!(log_sum_exp.len() == total_q * heads);
    let d_qkv = SharedMut::new(d_qkv);
    let nr = nr();
    for_each_head(varlen, heads, |h, rows, q_rows| {
        let (n, head_width) = (rows.len(), shape.head_width);
        // The gradient of one part (query, key or value) of row `row` of the sequence.
        let d_part = |part: usize, row: usize| {
            let column = part * shape.width + h * head_width;
            // SAFETY: only this task accesses these columns of this row, and it uses one row at a time.
            unsafe {
                std::slice::from_raw_parts_mut(d_qkv.ptr_at((rows.start + row) * 3 * shape.width + column), head_width)
            }
        };
        let write = |part: usize, row: usize, values: &[f32], factor: f32| {
            for (out, value) in d_part(part, row).iter_mut().zip(values) {
                *out = value * factor;
            }
        };
        // Only query tokens have a query gradient; without query tokens all gradients are zero.
        for row in q_rows.len()..n {
            d_part(0, row).fill(0.0);
        }
        if q_rows.is_empty() {
            for row in 0..n {
                d_part(1, row).fill(0.0);
                d_part(2, row).fill(0.0);
            }
            return;
        }
        SCRATCH.with_borrow_mut(|memory| {
            let stride = padded_stride(n);
            // `gemm` multiplies whole panels of rhs columns.
            let padded = head_width.next_multiple_of(nr);
            let len = 2 * head_width * stride + 2 * n * (padded + nr) + (2 * padded + 4 * head_width + 2) * nr;
            let mut scratch = BumpAllocator::new(memory, len);
            let [k_t, v_t] = [(); 2].map(|_| scratch.allocate(head_width * stride));
            let [d_k, d_v] = [(); 2].map(|_| scratch.allocate(n * padded));
            let [p, ds] = [(); 2].map(|_| scratch.allocate(n * nr));
            let [q, d_o] = [(); 2].map(|_| scratch.allocate(nr * padded));
            let [q_t, d_o_t, d_q_t, d_q] = [(); 4].map(|_| scratch.allocate(head_width * nr));
            let [lse, delta] = [(); 2].map(|_| scratch.allocate(nr));
            let [k, v] = [1, 2].map(|part| shape.part(qkv, rows.start, h, part));
            k.transpose(n, head_width, k_t, stride);
            v.transpose(n, head_width, v_t, stride);
            for m in [&mut *q, &mut *d_o] {
                m.fill(0.0); // the padding
            }
            for first in (0..q_rows.len()).step_by(nr) {
                let count = nr.min(q_rows.len() - first);
                let row = q_rows.start + first;
                let d_output = Strided::new(&d_out[row * shape.width + h * head_width..], shape.width);
                let output = Strided::new(&out[row * shape.width + h * head_width..], shape.width);
                let query = shape.part(qkv, rows.start + first, h, 0);
                query.copy(count, head_width, q, padded);
                d_output.copy(count, head_width, d_o, padded);
                query.transpose_padded(count, head_width, q_t, nr);
                d_output.transpose_padded(count, head_width, d_o_t, nr);
                // delta: for each query, the dot product of its output and the gradient of its output.
                for (i, delta) in delta.iter_mut().enumerate() {
                    *delta = if i < count {
                        sum2(d_output.row(i, head_width), output.row(i, head_width), |a, b| a * b)
                    } else {
                        0.0
                    };
                }
                lse[..count].copy_from_slice(&log_sum_exp[h * total_q + row..][..count]);
                lse[count..].fill(0.0);
                let [keys, values] = [&*k_t, &*v_t].map(|m| Lhs::Transposed(Strided::new(m, stride)));
                gemm(keys, n, head_width, Strided::new(q_t, nr), 1, p, nr, Beta::Zero);
                gemm(values, n, head_width, Strided::new(d_o_t, nr), 1, ds, nr, Beta::Zero);
                score_gradient(p, ds, shape.log2_scale(), lse, delta);
                let panels = padded / nr;
                for (lhs, rhs, sums) in [(&*ds, &*q, &mut *d_k), (&*p, &*d_o, &mut *d_v)] {
                    let (lhs, rhs) = (Lhs::Packed(lhs), Strided::new(rhs, padded));
                    gemm(lhs, n, count, rhs, panels, sums, padded, Beta::of_k_block(first));
                }
                gemm(
                    Lhs::Transposed(k),
                    head_width,
                    n,
                    Strided::new(ds, nr),
                    1,
                    d_q_t,
                    nr,
                    Beta::Zero,
                );
                Strided::new(d_q_t, nr).transpose(head_width, count, d_q, head_width);
                for (i, values) in d_q.chunks_exact(head_width).take(count).enumerate() {
                    write(0, first + i, values, shape.scale());
                }
            }
            for row in 0..n {
                write(1, row, &d_k[row * padded..], shape.scale());
                write(2, row, &d_v[row * padded..], 1.0);
            }
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference;

    fn value(i: usize) -> f32 {
        ((i * 7919) % 1009) as f32 / 500.0 - 1.0
    }

    /// Runs `test` on a single thread, because the level applies to one thread only.
    fn at_each_level(test: impl Fn() + Send) {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(1)
            .build()
            .expect("thread pool");
        pool.install(|| vlct_simd::at_each_level(test));
    }

    #[test]
    fn forward_and_backward_equal_the_reference() {
        at_each_level(|| {
            for (heads, width, k, q) in [
                (2, 12, [0, 3, 3, 10], [0, 3, 3, 10]),
                (3, 27, [0, 40, 41, 110], [0, 35, 36, 36]),
            ] {
                let (tokens, queries) = (k[3], q[3]);
                let qkv: Vec<f32> = (0..tokens * 3 * width).map(value).collect();
                let d_out: Vec<f32> = (0..queries * width).map(|i| value(i + 5)).collect();
                let [(mut out, mut lse), (mut want, mut want_lse)] =
                    [(); 2].map(|_| (vec![0f32; queries * width], vec![0f32; queries * heads]));
                let varlen = Varlen::prefix_queries(&k, &q);
                forward(&qkv, varlen, heads, &mut out, &mut lse);
                reference::attention_forward(&mut want, &mut want_lse, &qkv, &k, &q, heads);
                let assert_close = |got: &[f32], want: &[f32], bound: f32| {
                    for (i, (got, want)) in got.iter().zip(want).enumerate() {
                        assert!((got - want).abs() < bound, "{i}: {got} instead of {want}");
                    }
                };
                assert_close(&out, &want, 2e-6);
                assert_close(&lse, &want_lse, 1e-5);
                let [mut d_qkv, mut want] = [(); 2].map(|_| vec![f32::NAN; qkv.len()]);
                backward(&d_out, &qkv, &out, &lse, varlen, heads, &mut d_qkv);
                reference::attention_backward(&mut want, &d_out, &qkv, &k, &q, heads);
                assert_close(&d_qkv, &want, 1e-5);
            }
        });
    }

    #[test]
    fn results_of_query_tokens_do_not_depend_on_other_queries() {
        at_each_level(|| {
            let (heads, width, offsets) = (2, 12, [0, 3, 4, 10]);
            let qkv: Vec<f32> = (0..10 * 3 * width).map(value).collect();
            let (mut all, mut lse) = (vec![0f32; 10 * width], vec![0f32; 10 * heads]);
            forward(&qkv, Varlen::full(&offsets), heads, &mut all, &mut lse);
            for cu_seqlens_q in [[0, 1, 2, 3], [0, 2, 2, 6], [0, 0, 1, 7], [0; 4]] {
                let q_rows = cu_seqlens_q[3];
                let d_prefix: Vec<f32> = (0..q_rows * width).map(|i| value(i + 5)).collect();
                // Ranges of the query tokens of sequence `s`: in the outputs of all tokens, and in the outputs of the query tokens.
                let ranges = |s: usize| {
                    let count = (cu_seqlens_q[s + 1] - cu_seqlens_q[s]) * width;
                    (
                        offsets[s] * width..offsets[s] * width + count,
                        cu_seqlens_q[s] * width..cu_seqlens_q[s] * width + count,
                    )
                };
                let mut d_all = vec![0f32; 10 * width];
                for (in_all, in_prefix) in (0..3).map(ranges) {
                    d_all[in_all].copy_from_slice(&d_prefix[in_prefix]);
                }
                let mut want = vec![f32::NAN; qkv.len()];
                let mut lse = vec![0f32; 10 * heads];
                forward(&qkv, Varlen::full(&offsets), heads, &mut all, &mut lse);
                backward(&d_all, &qkv, &all, &lse, Varlen::full(&offsets), heads, &mut want);

                let sequences = Varlen::prefix_queries(&offsets, &cu_seqlens_q);
                let (mut prefix, mut lse) = (vec![0f32; q_rows * width], vec![0f32; q_rows * heads]);
                forward(&qkv, sequences, heads, &mut prefix, &mut lse);
                for (in_all, in_prefix) in (0..3).map(ranges) {
                    assert_eq!(prefix[in_prefix], all[in_all]);
                }
                let mut got = vec![f32::NAN; qkv.len()];
                backward(&d_prefix, &qkv, &prefix, &lse, sequences, heads, &mut got);
                for (got, want) in got.iter().zip(&want) {
                    assert!((got - want).abs() < 1e-6, "{got} {want}");
                }
            }
        });
    }

    #[test]
    fn large_scores_do_not_overflow() {
        at_each_level(|| {
            let qkv = vec![1e18f32, 1e18, 1.0, -1e18, 1e18, 2.0];
            let (mut out, mut lse) = (vec![0f32; 2], vec![0f32; 2]);
            forward(&qkv, Varlen::full(&[0, 2]), 1, &mut out, &mut lse);
            assert!(out.iter().all(|v| v.is_finite()));
        });
    }
}
