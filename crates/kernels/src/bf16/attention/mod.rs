//! Multi-head self-attention over packed sequences ([`crate::attention`]), in bfloat16, on matrices in blocks.
//!
//! One task is one head of one sequence. A task packs queries, keys and values. The forward pass computes the scores and the softmax of 32
//! queries at a time. The division by the row sums is applied to the outputs, not to the probabilities. The backward pass recomputes the
//! scores of 32 keys and all queries at a time, transposed, so that each statistic of a query (log-sum-exp; dot product of output and
//! output gradient) is in the lane of the query.

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
use crate::memory::{BumpAllocator, Scratch};
use crate::parallel::SharedMut;
use head::{HeadSize, SharedBlocks};
use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::Range;

thread_local! {
    /// Packed operands and f32 sums of the current task.
    static SCRATCH: RefCell<[Scratch; 2]> = const { RefCell::new([Scratch::new(), Scratch::new()]) };
}

/// Writes `out [total_q, D]` (blocks) and the log-sum-exp to base 2, `[H, total_q]`, from `qkv [total_k, 3·D]`, whose rows are `q | k | v`.
/// The plain version is [`reference::attention_forward`](crate::reference::attention_forward).
///
/// # Panics
/// If the sizes do not fit, or `out` is not 64-byte aligned.
pub fn forward(qkv: Blocks, varlen: Varlen, heads: usize, out: &mut [Bf16], log_sum_exp: &mut [f32]) {
    /// A larger row sum means that the largest score of the first 32 keys was far below the largest score of all keys.
    const MAX_ROW_SUM: f32 = 1e30;
    let shape = Shape::new(qkv, varlen, heads);
    let total_q = varlen.total_q();
    blocks::check(out, total_q, shape.width);
    assert_eq!(log_sum_exp.len(), total_q * heads);
    blocks::zero_padding(out, total_q, shape.width);
    let (data, lse) = (SharedMut::new(out), SharedMut::new(log_sum_exp));
    let out = SharedBlocks {
        data,
        width: shape.width,
        non_temporal: false,
    };
    for_each_head(varlen, heads, |kernel, Head { h, rows, q_rows }, next| {
        if q_rows.is_empty() {
            return;
        }
        SCRATCH.with_borrow_mut(|[memory, sums]| {
            let k_size = HeadSize::new(rows.len(), shape.head_width);
            let q_size = HeadSize::new(q_rows.len(), shape.head_width);
            let (panel, k_blocks) = (k_size.panels * BLOCK, k_size.k_blocks);
            let mut scratch = BumpAllocator::new(memory, q_size.packed_len() + k_size.packed_len() * 2 + panel);
            let q = scratch.allocate(q_size.packed_len());
            let [k_t, v] = [(); 2].map(|_| scratch.allocate(k_size.packed_len()));
            let probs = scratch.allocate(panel);
            let mut sums = BumpAllocator::new(sums, 3 * BLOCK);
            let (mut scores, result) = ([(); 2].map(|_| sums.allocate(BLOCK)), sums.allocate(BLOCK));
            q_size.pack_lhs(qkv, rows.start, shape.column(h, 0), q, None);
            k_size.pack_rhs(qkv, rows.start, shape.column(h, 1), Some(k_t), None, |_, _, _| ());
            k_size.pack_rhs(qkv, rows.start, shape.column(h, 2), None, Some(v), |_, _, _| ());
            let regions = [0, 1, 2].map(|part| (qkv, next.rows.clone(), shape.column(next.h, part)));
            // Measured on AMX: prefetching makes heads with one k-block slower, because the products for their scores are too short.
            let regions = if k_blocks > 1 { &regions[..] } else { &[] };
            let mut prefetcher = prefetcher(regions, shape.head_width, q_size.panels * k_size.panels);
            // SAFETY: only the task of this head and sequence accesses these values.
            let lse = unsafe { std::slice::from_raw_parts_mut(lse.ptr_at(h * total_q + q_rows.start), q_rows.len()) };
            for (i, lse) in lse.chunks_mut(SIDE).enumerate() {
                let q = &q[i * k_blocks * BLOCK..];
                let score = |j: usize, scores: &mut [f32]| {
                    kernel.gemm_block(q, &k_t[j * k_blocks * BLOCK..], k_blocks, scores, Beta::Zero);
                };
                // Any value near the largest score prevents overflow; usually the largest score of the first 32 keys is near enough.
                score(0, scores[0]);
                let mut row_max = [f32::NEG_INFINITY; SIDE];
                // SAFETY: `kernel` holds an engine; `scores[0]` is a block.
                unsafe { softmax::update_row_max(scores[0], rows.len(), shape.log2_scale(), &mut row_max) };
                let mut row_sum = k_size.exp_scores(shape.log2_scale(), &score, &mut scores, &row_max, probs, || {
                    prefetcher.advance()
                });
                if row_sum.iter().any(|sum| !(sum.is_finite() && *sum < MAX_ROW_SUM)) {
                    for j in 1..k_size.panels {
                        score(j, scores[0]);
                        // SAFETY: `kernel` holds an engine; `scores[0]` is a block.
                        unsafe {
                            softmax::update_row_max(scores[0], rows.len() - j * SIDE, shape.log2_scale(), &mut row_max)
                        };
                    }
                    score(0, scores[0]);
                    row_sum = k_size.exp_scores(shape.log2_scale(), &score, &mut scores, &row_max, probs, || ());
                }
                for (lse, (max, sum)) in lse.iter_mut().zip(row_max.iter().zip(&row_sum)) {
                    *lse = max + sum.log2();
                }
                let factors = row_sum.map(|sum| 1.0 / sum);
                for c in 0..k_blocks {
                    kernel.gemm_block(probs, &v[c * panel..], k_size.panels, result, Beta::Zero);
                    let (columns, row) = (SIDE.min(shape.head_width - c * SIDE), q_rows.start + i * SIDE);
                    // SAFETY: these columns of these rows are written by this task only; `kernel` holds an engine.
                    unsafe {
                        out.write(
                            result,
                            lse.len(),
                            columns,
                            &factors,
                            row,
                            h * shape.head_width + c * SIDE,
                        )
                    };
                }
            }
        });
    });
}

/// Writes `d_qkv [total_k, 3·D]` (blocks) from `d_out [total_q, D]` and the results of [`forward`]. The plain version is
/// [`reference::attention_backward`](crate::reference::attention_backward).
///
/// # Panics
/// If the sizes do not fit, or `d_qkv` is not 64-byte aligned.
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
    /// Memory for the score gradients of a group of key blocks, in bytes. The query gradients are computed group by group.
    const D_SCORES_BYTES: usize = 512 << 10;
    let shape = Shape::new(qkv, varlen, heads);
    let total_q = varlen.total_q();
    for m in [d_out, out] {
        assert!(m.rows() == total_q && m.columns() == shape.width);
    }
    blocks::check(d_qkv, shape.tokens, 3 * shape.width);
    assert_eq!(log_sum_exp.len(), total_q * heads);
    blocks::zero_padding(d_qkv, shape.tokens, 3 * shape.width);
    let d_qkv = SharedBlocks {
        data: SharedMut::new(d_qkv),
        width: 3 * shape.width,
        non_temporal: true,
    };
    for_each_head(varlen, heads, |kernel, Head { h, rows, q_rows }, next| {
        if q_rows.is_empty() {
            zero_gradient(d_qkv, shape, h, rows);
            return;
        }
        SCRATCH.with_borrow_mut(|[memory, sums]| {
            let (n, start) = (rows.len(), rows.start);
            let k_size = HeadSize::new(n, shape.head_width);
            let q_size = HeadSize::new(q_rows.len(), shape.head_width);
            let (panel, k_blocks) = (q_size.panels * BLOCK, k_size.k_blocks);
            let group_len = (D_SCORES_BYTES / (panel * size_of::<Bf16>())).clamp(1, k_size.panels);
            let len = 3 * k_size.packed_len() + 4 * q_size.packed_len() + 2 * panel + group_len * panel;
            let mut scratch = BumpAllocator::new(memory, len);
            // The lhs of the products for the scores, the query gradients, and the gradients of the probabilities.
            let [k_lhs, k_t_lhs, v_lhs] = [(); 3].map(|_| scratch.allocate(k_size.packed_len()));
            // Queries and output gradients, each packed both transposed and untransposed.
            let [q_t, q, d_o_t, d_o] = [(); 4].map(|_| scratch.allocate(q_size.packed_len()));
            let [probs, d_scores] = [(); 2].map(|_| scratch.allocate(panel));
            let d_scores_packed = scratch.allocate(group_len * panel);
            let mut sums = BumpAllocator::new(sums, q_size.packed_len() + 5 * BLOCK + 2 * q_size.panels * SIDE);
            let d_q_t = sums.allocate(q_size.packed_len());
            let mut scores = [(); 2].map(|_| [(); 2].map(|_| sums.allocate(BLOCK)));
            let result = sums.allocate(BLOCK);
            let [lse, delta] = [(); 2].map(|_| sums.allocate(q_size.panels * SIDE));
            let [q_column, k_column, v_column] = [0, 1, 2].map(|part| shape.column(h, part));
            let column = h * shape.head_width;
            q_size.pack_rhs(qkv, start, q_column, Some(&mut *q_t), Some(&mut *q), |_, _, _| ());
            k_size.pack_lhs(qkv, start, k_column, k_lhs, Some(&mut *k_t_lhs));
            k_size.pack_lhs(qkv, start, v_column, v_lhs, None);
            // delta: for each query, the dot product of its output and the gradient of its output.
            delta.fill(0.0);
            let mut o = Aligned::default();
            q_size.pack_rhs(
                d_out,
                q_rows.start,
                column,
                Some(&mut *d_o_t),
                Some(&mut *d_o),
                |panel, k_block, d| {
                    q_size.copy_block(out, q_rows.start, column, panel, k_block, &mut o.0);
                    // SAFETY: `kernel` holds an engine; `d` and `o` are blocks, and `delta` has 32 values per panel.
                    unsafe { softmax::add_row_dots(&d.0, &o.0, &mut delta[panel * SIDE..][..SIDE]) };
                },
            );
            let (valid, padding) = lse.split_at_mut(q_rows.len());
            valid.copy_from_slice(&log_sum_exp[h * total_q + q_rows.start..][..q_rows.len()]);
            padding.fill(f32::INFINITY); // makes probabilities 0
            let scale = 1.0 / (shape.head_width as f32).sqrt();
            let [q_next, k_next, v_next] = [0, 1, 2].map(|part| (qkv, next.rows.clone(), shape.column(next.h, part)));
            let [o_next, d_next] = [out, d_out].map(|matrix| (matrix, next.q_rows.clone(), next.h * shape.head_width));
            let regions = [q_next, k_next, v_next, d_next, o_next];
            let mut prefetcher = prefetcher(&regions, shape.head_width, q_size.panels * k_size.panels);

            for first in (0..k_size.panels).step_by(group_len) {
                let keys = first..(first + group_len).min(k_size.panels);
                for j in keys.clone() {
                    let valid_rows = SIDE.min(n - j * SIDE);
                    let score = |i: usize, [scores, d_probs]: &mut [&mut [f32]; 2]| {
                        let (lhs, rhs) = (j * k_blocks * BLOCK, i * k_blocks * BLOCK);
                        kernel.gemm_block(&k_lhs[lhs..], &q_t[rhs..], k_blocks, scores, Beta::Zero);
                        kernel.gemm_block(&v_lhs[lhs..], &d_o_t[rhs..], k_blocks, d_probs, Beta::Zero);
                    };
                    score(0, &mut scores[0]);
                    for i in 0..q_size.panels {
                        let [current, next] = &mut scores;
                        if i + 1 < q_size.panels {
                            score(i + 1, next);
                        }
                        prefetcher.advance();
                        let packed = &mut d_scores_packed[(i * keys.len() + j - first) * BLOCK..][..BLOCK];
                        // SAFETY: `kernel` holds an engine; the slices are 64-byte aligned blocks, or 32 values.
                        unsafe {
                            softmax::score_gradient(
                                current[0],
                                current[1],
                                &lse[i * SIDE..][..SIDE],
                                &delta[i * SIDE..][..SIDE],
                                shape.log2_scale(),
                                valid_rows,
                                &mut probs[i * BLOCK..][..BLOCK],
                                &mut d_scores[i * BLOCK..][..BLOCK],
                                packed,
                            );
                        }
                        std::mem::swap(current, next);
                    }
                    for c in 0..k_blocks {
                        let columns = SIDE.min(shape.head_width - c * SIDE);
                        for (lhs, rhs, d_column, factor) in
                            [(&*d_scores, &*q, k_column, scale), (&*probs, &*d_o, v_column, 1.0)]
                        {
                            kernel.gemm_block(lhs, &rhs[c * panel..], q_size.panels, result, Beta::Zero);
                            let (row, factors) = (start + j * SIDE, [factor; SIDE]);
                            // SAFETY: these columns of these rows are written by this task only; `kernel` holds an engine.
                            unsafe { d_qkv.write(result, valid_rows, columns, &factors, row, d_column + c * SIDE) };
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
                    let columns = SIDE.min(shape.head_width - c * SIDE);
                    let (valid_rows, row) = (SIDE.min(n - i * SIDE), start + i * SIDE);
                    let block = d_q_t.as_chunks_mut::<BLOCK>().0.get_mut(i * k_blocks + c);
                    let block = match block {
                        Some(block) => {
                            // SAFETY: `kernel` holds an engine.
                            unsafe { blocks::transpose_in_place(block) };
                            &mut block[..]
                        }
                        // The query gradient of tokens that are not query tokens is zero.
                        None => {
                            result.fill(0.0);
                            &mut *result
                        }
                    };
                    // SAFETY: these columns of these rows are written by this task only; `kernel` holds an engine.
                    unsafe { d_qkv.write(block, valid_rows, columns, &[scale; SIDE], row, q_column + c * SIDE) };
                }
            }
        });
    });
}

/// Writes zeros to the gradient of one head of a sequence without query tokens.
fn zero_gradient(d_qkv: SharedBlocks, shape: Shape, h: usize, rows: Range<usize>) {
    for row in rows.clone().step_by(SIDE) {
        for part in 0..3 {
            for column in (0..shape.head_width).step_by(SIDE) {
                let (valid_rows, columns) = (SIDE.min(rows.end - row), SIDE.min(shape.head_width - column));
                let d_column = shape.column(h, part) + column;
                // SAFETY: these columns of these rows are written by this task only; `for_each_head` has started an engine.
                unsafe { d_qkv.write(&[0f32; BLOCK], valid_rows, columns, &[0.0; SIDE], row, d_column) };
            }
        }
    }
}

/// Returns a prefetcher of `head_width` columns of each region (matrix, rows, first column). `shares` is the number of calls of
/// [`Prefetcher::advance`].
fn prefetcher<'a>(
    regions: &'a [(Blocks<'a>, Range<usize>, usize)],
    head_width: usize,
    shares: usize,
) -> Prefetcher<'a, impl Iterator<Item = &'a [Bf16]> + Clone> {
    let runs = regions
        .iter()
        .flat_map(move |(from, rows, column)| from.contiguous_runs(rows.clone(), *column..column + head_width));
    Prefetcher::new(runs, shares)
}

/// The sizes of `qkv`.
#[derive(Clone, Copy)]
struct Shape {
    /// `T`
    tokens: usize,
    /// `D`
    width: usize,
    /// `dh`
    head_width: usize,
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
            head_width: width / heads,
        }
    }

    /// First column of the query (part 0), key (1) or value (2) of head `h`.
    fn column(&self, h: usize, part: usize) -> usize {
        part * self.width + h * self.head_width
    }

    /// The factor that turns the dot product of query and key into an exponent of 2.
    fn log2_scale(&self) -> f32 {
        std::f32::consts::LOG2_E / (self.head_width as f32).sqrt()
    }
}

/// Head `h` of one sequence: the rows of the sequence in `qkv`, and the rows of its outputs.
struct Head {
    h: usize,
    rows: Range<usize>,
    q_rows: Range<usize>,
}

/// Calls `task(kernel, head, next)` for every head of every non-empty sequence, in parallel. `next` is the head that the same thread
/// usually processes afterwards.
fn for_each_head(varlen: Varlen, heads: usize, task: impl Fn(&MicroKernel, Head, Head) + Sync) {
    let count = varlen.batch() * heads;
    let head = |i: usize| {
        let (rows, q_rows) = varlen.rows(i / heads);
        Head {
            h: i % heads,
            rows,
            q_rows,
        }
    };
    (0..count).into_par_iter().for_each(|i| {
        let current = head(i);
        if !current.rows.is_empty() {
            task(&MicroKernel::start(), current, head((i + 1).min(count - 1)));
        }
    });
}
