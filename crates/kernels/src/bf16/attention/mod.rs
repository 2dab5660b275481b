//! Multi-head self-attention over packed sequences ([`crate::attention`]) on matrices in blocks.
//!
//! One task is one head of one sequence: its queries, keys and values are brought into operands of the matrix kernels, and
//! scores exist for 32 rows at a time. Forward, a row of blocks of scores gets its softmax without the division, which is
//! done to the 32 results. Backward, 32 keys meet all queries: scores are computed again, transposed, so that what the
//! forward pass kept for each query (logarithm of the sum, dot product of result and gradient) lies along the registers.

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
    /// Operands and sums of the head in work.
    static SCRATCH: RefCell<[Scratch; 2]> = const { RefCell::new([Scratch::new(), Scratch::new()]) };
}

/// Writes `out [results, width]` (blocks) and `log_sum_exp [heads, results]` from `qkv [tokens, 3·width]`, each row
/// `q | k | v`. The logarithm is to base 2.
///
/// # Panics
/// If the sizes do not fit, or `out` is off a cache line.
pub fn forward(qkv: Blocks, varlen: Varlen, heads: usize, out: &mut [Bf16], log_sum_exp: &mut [f32]) {
    /// A sum of weights beyond this means that the first scores were far from the largest.
    const FAR: f32 = 1e30;
    let shape = Shape::new(qkv, varlen, heads);
    let all = varlen.total_q();
    blocks::check(out, all, shape.width);
    assert_eq!(log_sum_exp.len(), all * heads);
    blocks::clear_edges(out, all, shape.width);
    let (data, lse) = (SharedMut::new(out), SharedMut::new(log_sum_exp));
    let out = Target {
        data,
        width: shape.width,
        streamed: false,
    };
    for_each_head(varlen, heads, |engine, Head { h, rows, results }, next| {
        if results.is_empty() {
            return;
        }
        SCRATCH.with_borrow_mut(|[memory, sums]| {
            let kv = Extent::new(rows.len(), shape.head);
            let q_ext = Extent::new(results.len(), shape.head);
            let panel = kv.panels * BLOCK;
            let mut take = Take::new(memory, q_ext.operand() + kv.operand() * 2 + panel);
            let q = take.next(q_ext.operand());
            let [k, v] = [0; 2].map(|_| take.next(kv.operand()));
            let weights = take.next(panel);
            let mut take = Take::new(sums, 3 * BLOCK);
            let (mut scores, result) = ([0; 2].map(|_| take.next(BLOCK)), take.next(BLOCK));
            q_ext.load_left(qkv, rows.start, shape.column(h, 0), q, None);
            kv.load_right(qkv, rows.start, shape.column(h, 1), Some(k), None, |_, _, _| ());
            kv.load_right(qkv, rows.start, shape.column(h, 2), None, Some(v), |_, _, _| ());
            let parts = [0, 1, 2].map(|part| (qkv, next.rows.clone(), shape.column(next.h, part)));
            // Narrow heads lost by it on a matrix unit: a block of their scores is one step of a product, too short to fetch beside.
            let worth = if kv.depth > 1 { &parts[..] } else { &[] };
            let mut next_head = Prefetcher::new(worth, shape.head, q_ext.panels * kv.panels);
            // SAFETY: one task per sequence and head, each with its own part of the row.
            let lse = unsafe { std::slice::from_raw_parts_mut(lse.at(h * all + results.start), results.len()) };
            for (i, lse) in lse.chunks_mut(SIDE).enumerate() {
                let q = &q[i * kv.depth * BLOCK..];
                let score = |j: usize, scores: &mut [f32]| {
                    engine.multiply(q, &k[j * kv.depth * BLOCK..], kv.depth, scores, Beta::Zero);
                };
                // Any number near the largest score will do for the softmax: the first block's.
                score(0, scores[0]);
                let mut top = [f32::NEG_INFINITY; SIDE];
                // SAFETY: the machine has the instructions; a block.
                unsafe { softmax::update_row_max(scores[0], rows.len(), shape.factor(), &mut top) };
                let mut row_sums = kv.weigh(shape.factor(), &score, &mut scores, &top, weights, || {
                    next_head.advance()
                });
                if row_sums.iter().any(|total| !(total.is_finite() && *total < FAR)) {
                    for j in 1..kv.panels {
                        score(j, scores[0]);
                        // SAFETY: as above.
                        unsafe { softmax::update_row_max(scores[0], rows.len() - j * SIDE, shape.factor(), &mut top) };
                    }
                    score(0, scores[0]);
                    row_sums = kv.weigh(shape.factor(), &score, &mut scores, &top, weights, || ());
                }
                for (lse, (top, total)) in lse.iter_mut().zip(top.iter().zip(&row_sums)) {
                    *lse = top + total.log2();
                }
                let factors = row_sums.map(|total| 1.0 / total);
                for c in 0..kv.depth {
                    engine.multiply(weights, &v[c * panel..], kv.panels, result, Beta::Zero);
                    let (columns, row) = (SIDE.min(shape.head - c * SIDE), results.start + i * SIDE);
                    // SAFETY: these columns of these rows belong to this task alone.
                    unsafe { out.write(result, lse.len(), columns, &factors, row, h * shape.head + c * SIDE) };
                }
            }
        });
    });
}

/// Writes `d_qkv [tokens, 3·width]` (blocks) from `d_out [results, width]`, given what [`forward`] wrote.
///
/// # Panics
/// As [`forward`].
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
    let all = varlen.total_q();
    for m in [d_out, out] {
        assert!(m.rows() == all && m.columns() == shape.width);
    }
    blocks::check(d_qkv, shape.tokens, 3 * shape.width);
    assert_eq!(log_sum_exp.len(), all * heads);
    blocks::clear_edges(d_qkv, shape.tokens, 3 * shape.width);
    let d_qkv = Target {
        data: SharedMut::new(d_qkv),
        width: 3 * shape.width,
        streamed: true,
    };
    for_each_head(varlen, heads, |engine, Head { h, rows, results }, next| {
        if results.is_empty() {
            let zeros = [0f32; BLOCK];
            for (row, part) in rows
                .clone()
                .step_by(SIDE)
                .flat_map(|row| [0, 1, 2].map(|part| (row, part)))
            {
                for column in (0..shape.head).step_by(SIDE) {
                    let (valid, columns) = (SIDE.min(rows.end - row), SIDE.min(shape.head - column));
                    // SAFETY: these columns of these rows belong to this task alone.
                    unsafe {
                        d_qkv.write(
                            &zeros,
                            valid,
                            columns,
                            &[0.0; SIDE],
                            row,
                            shape.column(h, part) + column,
                        )
                    };
                }
            }
            return;
        }
        SCRATCH.with_borrow_mut(|[memory, sums]| {
            let (n, start) = (rows.len(), rows.start);
            let kv = Extent::new(n, shape.head);
            let q_ext = Extent::new(results.len(), shape.head);
            let (panel, depth) = (q_ext.panels * BLOCK, kv.depth);
            let together = (KEPT / (panel * size_of::<Bf16>())).clamp(1, kv.panels);
            let len = 3 * kv.operand() + 4 * q_ext.operand() + 2 * panel + together * panel;
            let mut take = Take::new(memory, len);
            let [k_rows, k_turned, v_rows] = [0; 3].map(|_| take.next(kv.operand()));
            let [q_columns, q_steps, o_columns, o_steps] = [0; 4].map(|_| take.next(q_ext.operand()));
            let [weights, slopes] = [0; 2].map(|_| take.next(panel));
            let kept = take.next(together * panel);
            let mut take = Take::new(sums, q_ext.operand() + 5 * BLOCK + 2 * q_ext.panels * SIDE);
            let d_q = take.next(q_ext.operand());
            let mut scores = [0; 2].map(|_| [0; 2].map(|_| take.next(BLOCK)));
            let result = take.next(BLOCK);
            let [lse, delta] = [0; 2].map(|_| take.next(q_ext.panels * SIDE));
            let [q, k, v] = [0, 1, 2].map(|part| shape.column(h, part));
            let column = h * shape.head;
            q_ext.load_right(qkv, start, q, Some(&mut *q_columns), Some(&mut *q_steps), |_, _, _| ());
            kv.load_left(qkv, start, k, k_rows, Some(&mut *k_turned));
            kv.load_left(qkv, start, v, v_rows, None);
            // Of each query, the product of its result and the gradient of that.
            delta.fill(0.0);
            let mut own = Aligned::default();
            let (columns, steps) = (Some(&mut *o_columns), Some(&mut *o_steps));
            q_ext.load_right(d_out, results.start, column, columns, steps, |panel, depth, d| {
                q_ext.load(out, results.start, column, panel, depth, &mut own.0);
                // SAFETY: two blocks; the machine has the instructions.
                unsafe { softmax::add_row_products(&d.0, &own.0, &mut delta[panel * SIDE..][..SIDE]) };
            });
            let (known, beyond) = lse.split_at_mut(results.len());
            known.copy_from_slice(&log_sum_exp[h * all + results.start..][..results.len()]);
            beyond.fill(f32::INFINITY); // no weight for queries beyond the end
            let scale = 1.0 / (shape.head as f32).sqrt();
            let [q_next, k_next, v_next] = [0, 1, 2].map(|part| (qkv, next.rows.clone(), shape.column(next.h, part)));
            let [o_next, d_next] = [out, d_out].map(|of| (of, next.results.clone(), next.h * shape.head));
            let parts = [q_next, k_next, v_next, d_next, o_next];
            let mut next_head = Prefetcher::new(&parts, shape.head, q_ext.panels * kv.panels);

            for first in (0..kv.panels).step_by(together) {
                let keys = first..(first + together).min(kv.panels);
                for j in keys.clone() {
                    let valid = SIDE.min(n - j * SIDE);
                    let score = |i: usize, [scores, d_scores]: &mut [&mut [f32]; 2]| {
                        let at = i * depth * BLOCK;
                        engine.multiply(
                            &k_rows[j * depth * BLOCK..],
                            &q_columns[at..],
                            depth,
                            scores,
                            Beta::Zero,
                        );
                        engine.multiply(
                            &v_rows[j * depth * BLOCK..],
                            &o_columns[at..],
                            depth,
                            d_scores,
                            Beta::Zero,
                        );
                    };
                    score(0, &mut scores[0]);
                    for i in 0..q_ext.panels {
                        let [now, next] = &mut scores;
                        if i + 1 < q_ext.panels {
                            score(i + 1, next);
                        }
                        next_head.advance();
                        let step = &mut kept[(i * keys.len() + j - first) * BLOCK..][..BLOCK];
                        // SAFETY: the machine has the instructions; all slices are blocks, or 32 values.
                        unsafe {
                            softmax::score_gradient(
                                now[0],
                                now[1],
                                &lse[i * SIDE..][..SIDE],
                                &delta[i * SIDE..][..SIDE],
                                shape.factor(),
                                valid,
                                &mut weights[i * BLOCK..][..BLOCK],
                                &mut slopes[i * BLOCK..][..BLOCK],
                                step,
                            );
                        }
                        std::mem::swap(now, next);
                    }
                    for c in 0..depth {
                        let columns = SIDE.min(shape.head - c * SIDE);
                        for (left, right, to, factor) in
                            [(&*slopes, &*q_steps, k, scale), (&*weights, &*o_steps, v, 1.0)]
                        {
                            engine.multiply(left, &right[c * panel..], q_ext.panels, result, Beta::Zero);
                            let (row, factors) = (start + j * SIDE, [factor; SIDE]);
                            // SAFETY: these columns of these rows belong to this task alone.
                            unsafe { d_qkv.write(result, valid, columns, &factors, row, to + c * SIDE) };
                        }
                    }
                }
                for i in 0..q_ext.panels {
                    for c in 0..depth {
                        let left = &k_turned[(c * kv.panels + first) * BLOCK..];
                        let target = &mut d_q[(i * depth + c) * BLOCK..][..BLOCK];
                        engine.multiply(
                            left,
                            &kept[i * keys.len() * BLOCK..],
                            keys.len(),
                            target,
                            Beta::of_k_block(first),
                        );
                    }
                }
            }
            for i in 0..kv.panels {
                for c in 0..depth {
                    let columns = SIDE.min(shape.head - c * SIDE);
                    let (valid, row) = (SIDE.min(n - i * SIDE), start + i * SIDE);
                    let block = match d_q.get_mut((i * depth + c) * BLOCK..) {
                        Some(block) if i < q_ext.panels => {
                            blocks::transpose_sums(&mut block[..BLOCK]);
                            &mut block[..BLOCK]
                        }
                        // Tokens that do not ask have no gradient of a query.
                        _ => {
                            result.fill(0.0);
                            &mut *result
                        }
                    };
                    // SAFETY: as above.
                    unsafe { d_qkv.write(block, valid, columns, &[scale; SIDE], row, q + c * SIDE) };
                }
            }
        });
    });
}

/// Sizes shared by both directions.
#[derive(Clone, Copy)]
struct Shape {
    tokens: usize,
    width: usize,
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

    /// First column of a head's query, key or value.
    fn column(&self, head: usize, part: usize) -> usize {
        part * self.width + head * self.head
    }

    /// What a product of query and key is multiplied with to be an exponent of 2.
    fn factor(&self) -> f32 {
        std::f32::consts::LOG2_E / (self.head as f32).sqrt()
    }
}

/// The head number `h` of one sequence: `rows` of what it is made from, and `results` of what attention gives.
struct Head {
    h: usize,
    rows: Range<usize>,
    results: Range<usize>,
}

/// Calls `task(engine, head, next)` for every head of every sequence that has rows, in parallel; `next` is the head that, as a
/// rule, the same thread will be given after this one.
fn for_each_head(varlen: Varlen, heads: usize, task: impl Fn(&MicroKernel, Head, Head) + Sync) {
    let all = varlen.batch() * heads;
    let head = |i: usize| {
        let (rows, results) = varlen.rows(i / heads);
        Head {
            h: i % heads,
            rows,
            results,
        }
    };
    (0..all).into_par_iter().for_each(|i| {
        let now = head(i);
        if !now.rows.is_empty() {
            task(&MicroKernel::start(), now, head((i + 1).min(all - 1)));
        }
    });
}
