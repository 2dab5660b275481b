//! Multi-head self-attention over packed sequences ([`crate::attention`]) on matrices in blocks.
//!
//! One task is one head of one sequence: it packs queries, keys and values, and scores exist for 32 rows at a time. Forward, the scores
//! of 32 queries get an online softmax without its division, which is applied to the 32 results. Backward, 32 keys meet all queries:
//! scores are recomputed, transposed, so that what the forward pass has saved for each query (log-sum-exp, and the dot product of the
//! result and its gradient) lies along the registers.

mod head;
mod softmax;
#[cfg(test)]
mod tests;

use super::blocks::{self, Aligned, BLOCK, Blocks, SIDE};
use super::micro_kernel::MicroKernel;
use super::number::Bf16;
use super::prefetch::Prefetcher;
use crate::attention::Varlen;
use crate::mat::Beta;
use crate::memory::{Scratch, Take};
use crate::parallel::SharedMut;
use head::{Extent, Target};
use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::Range;

thread_local! {
    /// Packed operands, and sums, of the running task.
    static SCRATCH: RefCell<[Scratch; 2]> = const { RefCell::new([Scratch::new(), Scratch::new()]) };
}

/// Writes `out [total_q, D]` (blocks) and `log_sum_exp [H, total_q]` from `qkv [total_k, 3·D]`, each row `q | k | v`. The logarithm is
/// to base 2. The plain version is [`reference::attention_forward`](crate::reference::attention_forward).
///
/// # Panics
/// If the sizes do not fit, or `out` is off a cache line.
pub fn forward(qkv: Blocks, varlen: Varlen, heads: usize, out: &mut [Bf16], log_sum_exp: &mut [f32]) {
    /// A row sum beyond this means that the scores of the first keys were far from the largest.
    const FAR: f32 = 1e30;
    let shape = Shape::new(qkv, varlen, heads);
    let total_q = varlen.total_q();
    blocks::check(out, total_q, shape.width);
    assert_eq!(log_sum_exp.len(), total_q * heads);
    blocks::clear_edges(out, total_q, shape.width);
    let (data, lse) = (SharedMut::new(out), SharedMut::new(log_sum_exp));
    let out = Target {
        data,
        width: shape.width,
        stream: false,
    };
    for_each_head(varlen, heads, |kernel, Head { h, rows, q_rows }, next| {
        if q_rows.is_empty() {
            return;
        }
        SCRATCH.with_borrow_mut(|[memory, sums]| {
            let k_size = Extent::new(rows.len(), shape.head);
            let q_size = Extent::new(q_rows.len(), shape.head);
            let (panel, k_blocks) = (k_size.panels * BLOCK, k_size.k_blocks);
            let mut take = Take::new(memory, q_size.operand() + k_size.operand() * 2 + panel);
            let q = take.next(q_size.operand());
            let [k_t, v] = [(); 2].map(|_| take.next(k_size.operand()));
            let probs = take.next(panel);
            let mut take = Take::new(sums, 3 * BLOCK);
            let (mut scores, result) = ([(); 2].map(|_| take.next(BLOCK)), take.next(BLOCK));
            q_size.pack_lhs(qkv, rows.start, shape.column(h, 0), q, None);
            k_size.pack_rhs(qkv, rows.start, shape.column(h, 1), Some(k_t), None, |_, _, _| ());
            k_size.pack_rhs(qkv, rows.start, shape.column(h, 2), None, Some(v), |_, _, _| ());
            let regions = [0, 1, 2].map(|part| (qkv, next.rows.clone(), shape.column(next.h, part)));
            // Prefetching made heads of one k-block slower on AMX: the products of their scores are too short to prefetch beside.
            let regions = if k_blocks > 1 { &regions[..] } else { &[] };
            let mut next_head = prefetcher(regions, shape.head, q_size.panels * k_size.panels);
            // SAFETY: these values belong to this head and sequence, of which there is one task.
            let lse = unsafe { std::slice::from_raw_parts_mut(lse.at(h * total_q + q_rows.start), q_rows.len()) };
            for (i, lse) in lse.chunks_mut(SIDE).enumerate() {
                let q = &q[i * k_blocks * BLOCK..];
                let score = |j: usize, scores: &mut [f32]| {
                    kernel.gemm_block(q, &k_t[j * k_blocks * BLOCK..], k_blocks, scores, Beta::Zero);
                };
                // The softmax needs any value near the largest score: the largest one of the first 32 keys.
                score(0, scores[0]);
                let mut row_max = [f32::NEG_INFINITY; SIDE];
                // SAFETY: `kernel` is an engine; the scores are a block.
                unsafe { softmax::update_row_max(scores[0], rows.len(), shape.factor(), &mut row_max) };
                let mut row_sum = k_size.exp_scores(shape.factor(), &score, &mut scores, &row_max, probs, || {
                    next_head.advance()
                });
                if row_sum.iter().any(|sum| !(sum.is_finite() && *sum < FAR)) {
                    for j in 1..k_size.panels {
                        score(j, scores[0]);
                        // SAFETY: `kernel` is an engine; the scores are a block.
                        unsafe {
                            softmax::update_row_max(scores[0], rows.len() - j * SIDE, shape.factor(), &mut row_max)
                        };
                    }
                    score(0, scores[0]);
                    row_sum = k_size.exp_scores(shape.factor(), &score, &mut scores, &row_max, probs, || ());
                }
                for (lse, (max, sum)) in lse.iter_mut().zip(row_max.iter().zip(&row_sum)) {
                    *lse = max + sum.log2();
                }
                let factors = row_sum.map(|sum| 1.0 / sum);
                for c in 0..k_blocks {
                    kernel.gemm_block(probs, &v[c * panel..], k_size.panels, result, Beta::Zero);
                    let (columns, row) = (SIDE.min(shape.head - c * SIDE), q_rows.start + i * SIDE);
                    // SAFETY: these columns of these rows belong to this task alone; `kernel` is an engine.
                    unsafe { out.write(result, lse.len(), columns, &factors, row, h * shape.head + c * SIDE) };
                }
            }
        });
    });
}

/// Writes `d_qkv [total_k, 3·D]` (blocks) from `d_out [total_q, D]`, given what [`forward`] wrote. The plain version is
/// [`reference::attention_backward`](crate::reference::attention_backward).
///
/// # Panics
/// If the sizes do not fit, or `d_qkv` is off a cache line.
#[allow(clippy::too_many_arguments)]
pub fn backward(
    d_out: Blocks,
    qkv: Blocks,
    out: Blocks,
    log_sum_exp: &[f32],
    varlen: Varlen,
    heads: usize,
    d_qkv: &mut [Bf16],
) {
    /// Bytes of score gradients that are kept until they are multiplied with the keys.
    const KEPT: usize = 512 << 10;
    let shape = Shape::new(qkv, varlen, heads);
    let total_q = varlen.total_q();
    for m in [d_out, out] {
        assert!(m.rows() == total_q && m.columns() == shape.width);
    }
    blocks::check(d_qkv, shape.tokens, 3 * shape.width);
    assert_eq!(log_sum_exp.len(), total_q * heads);
    blocks::clear_edges(d_qkv, shape.tokens, 3 * shape.width);
    let d_qkv = Target {
        data: SharedMut::new(d_qkv),
        width: 3 * shape.width,
        stream: true,
    };
    for_each_head(varlen, heads, |kernel, Head { h, rows, q_rows }, next| {
        if q_rows.is_empty() {
            zero_gradient(d_qkv, shape, h, rows);
            return;
        }
        SCRATCH.with_borrow_mut(|[memory, sums]| {
            let (n, start) = (rows.len(), rows.start);
            let k_size = Extent::new(n, shape.head);
            let q_size = Extent::new(q_rows.len(), shape.head);
            let (panel, k_blocks) = (q_size.panels * BLOCK, k_size.k_blocks);
            let together = (KEPT / (panel * size_of::<Bf16>())).clamp(1, k_size.panels);
            let len = 3 * k_size.operand() + 4 * q_size.operand() + 2 * panel + together * panel;
            let mut take = Take::new(memory, len);
            // lhs of the scores, lhs of the query gradients, lhs of the gradients of the probabilities.
            let [k_lhs, k_t_lhs, v_lhs] = [(); 3].map(|_| take.next(k_size.operand()));
            // Queries and output gradients, each transposed and as they are.
            let [q_t, q, d_o_t, d_o] = [(); 4].map(|_| take.next(q_size.operand()));
            let [probs, d_scores] = [(); 2].map(|_| take.next(panel));
            let d_scores_packed = take.next(together * panel);
            let mut take = Take::new(sums, q_size.operand() + 5 * BLOCK + 2 * q_size.panels * SIDE);
            let d_q_t = take.next(q_size.operand());
            let mut scores = [(); 2].map(|_| [(); 2].map(|_| take.next(BLOCK)));
            let result = take.next(BLOCK);
            let [lse, delta] = [(); 2].map(|_| take.next(q_size.panels * SIDE));
            let [q_column, k_column, v_column] = [0, 1, 2].map(|part| shape.column(h, part));
            let column = h * shape.head;
            q_size.pack_rhs(qkv, start, q_column, Some(&mut *q_t), Some(&mut *q), |_, _, _| ());
            k_size.pack_lhs(qkv, start, k_column, k_lhs, Some(&mut *k_t_lhs));
            k_size.pack_lhs(qkv, start, v_column, v_lhs, None);
            // delta: for each query, the dot product of its result and the gradient of that.
            delta.fill(0.0);
            let mut o = Aligned::default();
            q_size.pack_rhs(
                d_out,
                q_rows.start,
                column,
                Some(&mut *d_o_t),
                Some(&mut *d_o),
                |panel, k_block, d| {
                    q_size.load(out, q_rows.start, column, panel, k_block, &mut o.0);
                    // SAFETY: `kernel` is an engine; both are blocks, and `delta` has 32 values per panel.
                    unsafe { softmax::add_row_dots(&d.0, &o.0, &mut delta[panel * SIDE..][..SIDE]) };
                },
            );
            let (known, padding) = lse.split_at_mut(q_rows.len());
            known.copy_from_slice(&log_sum_exp[h * total_q + q_rows.start..][..q_rows.len()]);
            padding.fill(f32::INFINITY); // probability 0
            let scale = 1.0 / (shape.head as f32).sqrt();
            let [q_next, k_next, v_next] = [0, 1, 2].map(|part| (qkv, next.rows.clone(), shape.column(next.h, part)));
            let [o_next, d_next] = [out, d_out].map(|of| (of, next.q_rows.clone(), next.h * shape.head));
            let regions = [q_next, k_next, v_next, d_next, o_next];
            let mut next_head = prefetcher(&regions, shape.head, q_size.panels * k_size.panels);

            for first in (0..k_size.panels).step_by(together) {
                let keys = first..(first + together).min(k_size.panels);
                for j in keys.clone() {
                    let valid = SIDE.min(n - j * SIDE);
                    let score = |i: usize, [scores, d_probs]: &mut [&mut [f32]; 2]| {
                        let (lhs, rhs) = (j * k_blocks * BLOCK, i * k_blocks * BLOCK);
                        kernel.gemm_block(&k_lhs[lhs..], &q_t[rhs..], k_blocks, scores, Beta::Zero);
                        kernel.gemm_block(&v_lhs[lhs..], &d_o_t[rhs..], k_blocks, d_probs, Beta::Zero);
                    };
                    score(0, &mut scores[0]);
                    for i in 0..q_size.panels {
                        let [now, next] = &mut scores;
                        if i + 1 < q_size.panels {
                            score(i + 1, next);
                        }
                        next_head.advance();
                        let packed = &mut d_scores_packed[(i * keys.len() + j - first) * BLOCK..][..BLOCK];
                        // SAFETY: `kernel` is an engine; all slices are blocks at cache lines, or 32 values.
                        unsafe {
                            softmax::score_gradient(
                                now[0],
                                now[1],
                                &lse[i * SIDE..][..SIDE],
                                &delta[i * SIDE..][..SIDE],
                                shape.factor(),
                                valid,
                                &mut probs[i * BLOCK..][..BLOCK],
                                &mut d_scores[i * BLOCK..][..BLOCK],
                                packed,
                            );
                        }
                        std::mem::swap(now, next);
                    }
                    for c in 0..k_blocks {
                        let columns = SIDE.min(shape.head - c * SIDE);
                        for (lhs, rhs, to, factor) in
                            [(&*d_scores, &*q, k_column, scale), (&*probs, &*d_o, v_column, 1.0)]
                        {
                            kernel.gemm_block(lhs, &rhs[c * panel..], q_size.panels, result, Beta::Zero);
                            let (row, factors) = (start + j * SIDE, [factor; SIDE]);
                            // SAFETY: these columns of these rows belong to this task alone; `kernel` is an engine.
                            unsafe { d_qkv.write(result, valid, columns, &factors, row, to + c * SIDE) };
                        }
                    }
                }
                for i in 0..q_size.panels {
                    for c in 0..k_blocks {
                        let lhs = &k_t_lhs[(c * k_size.panels + first) * BLOCK..];
                        let rhs = &d_scores_packed[i * keys.len() * BLOCK..];
                        let sums = &mut d_q_t[(i * k_blocks + c) * BLOCK..][..BLOCK];
                        kernel.gemm_block(lhs, rhs, keys.len(), sums, Beta::of_k_block(first));
                    }
                }
            }
            for i in 0..k_size.panels {
                for c in 0..k_blocks {
                    let columns = SIDE.min(shape.head - c * SIDE);
                    let (valid, row) = (SIDE.min(n - i * SIDE), start + i * SIDE);
                    let block = d_q_t.as_chunks_mut::<BLOCK>().0.get_mut(i * k_blocks + c);
                    let block = match block {
                        Some(block) => {
                            // SAFETY: `kernel` is an engine.
                            unsafe { blocks::transpose_in_place(block) };
                            &mut block[..]
                        }
                        // Tokens that are not query tokens have no query gradient.
                        None => {
                            result.fill(0.0);
                            &mut *result
                        }
                    };
                    // SAFETY: these columns of these rows belong to this task alone; `kernel` is an engine.
                    unsafe { d_qkv.write(block, valid, columns, &[scale; SIDE], row, q_column + c * SIDE) };
                }
            }
        });
    });
}

/// Writes the gradient of a sequence without query tokens.
fn zero_gradient(d_qkv: Target, shape: Shape, h: usize, rows: Range<usize>) {
    for row in rows.clone().step_by(SIDE) {
        for part in 0..3 {
            for column in (0..shape.head).step_by(SIDE) {
                let (valid, columns) = (SIDE.min(rows.end - row), SIDE.min(shape.head - column));
                let to = shape.column(h, part) + column;
                // SAFETY: these columns of these rows belong to this task alone; `for_each_head` has started an engine.
                unsafe { d_qkv.write(&[0f32; BLOCK], valid, columns, &[0.0; SIDE], row, to) };
            }
        }
    }
}

/// Prefetches a head of each of these matrices (matrix, rows, first column) in `shares` shares.
fn prefetcher<'a>(
    regions: &'a [(Blocks<'a>, Range<usize>, usize)],
    head: usize,
    shares: usize,
) -> Prefetcher<'a, impl Iterator<Item = &'a [Bf16]> + Clone> {
    let runs = regions
        .iter()
        .flat_map(move |(from, rows, column)| from.runs(rows.clone(), *column..column + head));
    Prefetcher::new(runs, shares)
}

/// Sizes shared by both directions.
#[derive(Clone, Copy)]
struct Shape {
    /// `T`
    tokens: usize,
    /// `D`
    width: usize,
    /// `dh`
    head: usize,
}

impl Shape {
    fn new(qkv: Blocks, varlen: Varlen, heads: usize) -> Self {
        let (tokens, width) = (qkv.rows(), qkv.columns() / 3);
        assert_eq!(varlen.total_k(), tokens, "sequences do not cover the rows");
        assert!(
            heads > 0 && width.is_multiple_of(heads) && qkv.columns() == 3 * width,
            "width {width} is not divisible by {heads} heads"
        );
        Self {
            tokens,
            width,
            head: width / heads,
        }
    }

    /// First column of a head's query (part 0), key (1) or value (2).
    fn column(&self, head: usize, part: usize) -> usize {
        part * self.width + head * self.head
    }

    /// Factor that turns the product of query and key into an exponent of 2.
    fn factor(&self) -> f32 {
        std::f32::consts::LOG2_E / (self.head as f32).sqrt()
    }
}

/// Head `h` of one sequence: its rows in `qkv`, and the rows of its result.
struct Head {
    h: usize,
    rows: Range<usize>,
    q_rows: Range<usize>,
}

/// Calls `task(kernel, head, next)` for every head of every sequence that has tokens, in parallel; `next` is the head that the same
/// thread usually processes after this one.
fn for_each_head(varlen: Varlen, heads: usize, task: impl Fn(&MicroKernel, Head, Head) + Sync) {
    let all = varlen.batch() * heads;
    let head = |i: usize| {
        let (rows, q_rows) = varlen.rows(i / heads);
        Head {
            h: i % heads,
            rows,
            q_rows,
        }
    };
    (0..all).into_par_iter().for_each(|i| {
        let now = head(i);
        if !now.rows.is_empty() {
            task(&MicroKernel::start(), now, head((i + 1).min(all - 1)));
        }
    });
}
