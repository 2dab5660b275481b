//! Multi-head self-attention over packed sequences (Vaswani et al. 2017, eq. 1), without a mask.
//!
//! `qkv` is `[tokens, 3·width]`, each row `q | k | v`, each of those `heads` times `width/heads` values. Tokens attend within
//! their sequence only. Scores exist for one sequence
//! and head at a time; the backward pass computes them again from the saved log-sum-exp of each row.

use crate::gemm::{Threads, View, gemm};
use crate::math::{exp, max, sum, sum2};
use crate::parallel::SharedMut;
use crate::simd::multiversion;
use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::Range;

thread_local! {
    /// Scores and their gradient for the sequence and head in work; kept, so that pages are faulted in once.
    static SCRATCH: RefCell<[Vec<f32>; 4]> = const { RefCell::new([Vec::new(), Vec::new(), Vec::new(), Vec::new()]) };
}

/// Packed sequences, and which of their tokens ask: the first few of each, or all.
///
/// Sequence `s` owns the rows `offsets[s]..offsets[s+1]`. What its asking tokens are given are the rows
/// `asking[s]..asking[s+1]` of the results.
#[derive(Clone, Copy, Debug)]
pub struct Sequences<'a> {
    offsets: &'a [usize],
    asking: &'a [usize],
}

impl<'a> Sequences<'a> {
    /// All tokens ask: results have a row for each.
    ///
    /// # Panics
    /// If the offsets are not ascending from 0.
    pub fn all(offsets: &'a [usize]) -> Self {
        Self::leading(offsets, offsets)
    }

    /// The first `asking[s+1] − asking[s]` tokens of each sequence ask.
    ///
    /// # Panics
    /// If the offsets are not ascending from 0, or more tokens ask than there are.
    pub fn leading(offsets: &'a [usize], asking: &'a [usize]) -> Self {
        assert!(
            [offsets, asking].iter().all(|o| o.first() == Some(&0) && o.is_sorted()),
            "offsets are not ascending from 0"
        );
        let mut sequences = offsets.windows(2).zip(asking.windows(2));
        assert!(
            offsets.len() == asking.len() && sequences.all(|(all, asking)| asking[1] - asking[0] <= all[1] - all[0]),
            "more tokens ask than there are"
        );
        Self { offsets, asking }
    }

    /// Rows of all sequences.
    pub fn tokens(&self) -> usize {
        self.offsets[self.offsets.len() - 1]
    }

    /// Rows of the results.
    pub fn results(&self) -> usize {
        self.asking[self.asking.len() - 1]
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Rows of a sequence, and rows of its results.
    pub(crate) fn of(&self, sequence: usize) -> (Range<usize>, Range<usize>) {
        let range = |offsets: &[usize]| offsets[sequence]..offsets[sequence + 1];
        (range(self.offsets), range(self.asking))
    }
}

/// Sizes shared by both directions.
#[derive(Clone, Copy)]
struct Shape {
    width: usize,
    head: usize,
    scale: f32,
}

impl Shape {
    fn new(qkv: &[f32], sequences: Sequences, heads: usize) -> Self {
        let tokens = sequences.tokens();
        assert!(
            tokens > 0 && qkv.len().is_multiple_of(3 * tokens),
            "qkv does not fit the offsets"
        );
        let width = qkv.len() / (3 * tokens);
        assert!(
            heads > 0 && width.is_multiple_of(heads),
            "width {width} is not divisible by {heads} heads"
        );
        let head = width / heads;
        Self {
            width,
            head,
            scale: 1.0 / (head as f32).sqrt(),
        }
    }

    /// `part` 0, 1 or 2 (query, key, value) of one head in the rows of one sequence.
    fn part<'a>(&self, qkv: &'a [f32], rows: Range<usize>, head: usize, part: usize) -> View<'a> {
        let start = rows.start * 3 * self.width + part * self.width + head * self.head;
        View::new(&qkv[start..], rows.len(), self.head, 3 * self.width)
    }
}

/// Calls `task(head, rows, results)` for every head of every sequence that has rows, in parallel; `results` are its rows in
/// what attention gives.
fn for_each_head(sequences: Sequences, heads: usize, task: impl Fn(usize, Range<usize>, Range<usize>) + Sync) {
    (0..sequences.len() * heads).into_par_iter().for_each(|i| {
        let (rows, results) = sequences.of(i / heads);
        if !rows.is_empty() {
            task(i % heads, rows, results);
        }
    });
}

/// Writes `out [results, width]` and `log_sum_exp [heads, results]`.
pub fn forward(qkv: &[f32], sequences: Sequences, heads: usize, out: &mut [f32], log_sum_exp: &mut [f32]) {
    let shape = Shape::new(qkv, sequences, heads);
    let all = sequences.results();
    assert!(out.len() == all * shape.width && log_sum_exp.len() == all * heads);
    let (out, lse) = (SharedMut::new(out), SharedMut::new(log_sum_exp));
    for_each_head(sequences, heads, |h, rows, results| {
        let (n, asking) = (rows.len(), results.len());
        if asking == 0 {
            return;
        }
        SCRATCH.with_borrow_mut(|[scores, result, ..]| {
            let (scores, result) = (sized(scores, asking * n), sized(result, asking * shape.head));
            let [q, k, v] = [asking, n, n].map(|len| rows.start..rows.start + len);
            let [q, k, v] = [(0, q), (1, k), (2, v)].map(|(p, rows)| shape.part(qkv, rows, h, p));
            gemm(scores, n, false, shape.scale, q, k.transposed(), Threads::One);
            // SAFETY: one task per sequence and head, each with its own part of the row.
            let lse = unsafe { std::slice::from_raw_parts_mut(lse.at(h * all + results.start), asking) };
            softmax_rows(scores, n, lse);
            gemm(
                result,
                shape.head,
                false,
                1.0,
                View::new(scores, asking, n, n),
                v,
                Threads::One,
            );
            for (i, row) in result.chunks_exact(shape.head).enumerate() {
                // SAFETY: these columns of these rows belong to this task alone.
                let target = unsafe {
                    let start = out.at((results.start + i) * shape.width + h * shape.head);
                    std::slice::from_raw_parts_mut(start, shape.head)
                };
                target.copy_from_slice(row);
            }
        });
    });
}

/// Writes `d_qkv [tokens, 3·width]` from `d_out [results, width]`, given what [`forward`] wrote.
#[allow(clippy::too_many_arguments)]
pub fn backward(
    d_out: &[f32],
    qkv: &[f32],
    out: &[f32],
    log_sum_exp: &[f32],
    sequences: Sequences,
    heads: usize,
    d_qkv: &mut [f32],
) {
    let shape = Shape::new(qkv, sequences, heads);
    let all = sequences.results();
    assert!(d_out.len() == out.len() && out.len() == all * shape.width && d_qkv.len() == qkv.len());
    let d_qkv = SharedMut::new(d_qkv);
    for_each_head(sequences, heads, |h, rows, results| {
        let (n, asking) = (rows.len(), results.len());
        let write = |part: usize, values: &[f32]| {
            for (i, row) in values.chunks_exact(shape.head).enumerate() {
                // SAFETY: these columns of these rows belong to this task alone.
                let target = unsafe {
                    let column = part * shape.width + h * shape.head;
                    std::slice::from_raw_parts_mut(d_qkv.at((rows.start + i) * 3 * shape.width + column), shape.head)
                };
                target.copy_from_slice(row);
            }
        };
        if asking == 0 {
            return (0..3).for_each(|part| write(part, &vec![0.0; n * shape.head]));
        }
        SCRATCH.with_borrow_mut(|[p, ds, result, delta]| {
            let (p, ds, delta) = (sized(p, asking * n), sized(ds, asking * n), sized(delta, asking));
            let [q, k, v] = [asking, n, n].map(|len| rows.start..rows.start + len);
            let [q, k, v] = [(0, q), (1, k), (2, v)].map(|(p, rows)| shape.part(qkv, rows, h, p));
            let start = results.start * shape.width + h * shape.head;
            let (d_o, o) = (&d_out[start..], &out[start..]);
            let d_out = View::new(d_o, asking, shape.head, shape.width);
            gemm(p, n, false, shape.scale, q, k.transposed(), Threads::One);
            gemm(ds, n, false, 1.0, d_out, v.transposed(), Threads::One);
            for (i, delta) in delta.iter_mut().enumerate() {
                let row = i * shape.width..i * shape.width + shape.head;
                *delta = sum2(&d_o[row.clone()], &o[row], |a, b| a * b);
            }
            score_gradient(p, ds, &log_sum_exp[h * all + results.start..], delta, shape.scale);
            let result = sized(result, n * shape.head);
            let (p, ds) = (View::new(p, asking, n, n), View::new(ds, asking, n, n));
            for (part, a, b) in [(0, ds, k), (1, ds.transposed(), q), (2, p.transposed(), d_out)] {
                result.fill(0.0); // tokens that do not ask have no gradient of a query
                gemm(result, shape.head, false, 1.0, a, b, Threads::One);
                write(part, result);
            }
        });
    });
}

fn sized(v: &mut Vec<f32>, n: usize) -> &mut [f32] {
    if v.len() < n {
        v.resize(n, 0.0);
    }
    &mut v[..n]
}

multiversion! {
/// Softmax of each row of `scores [n, n]` in place; the log-sum-exp of each goes to `lse`.
fn softmax_rows(scores: &mut [f32], n: usize, lse: &mut [f32]) {
    for (row, lse) in scores.chunks_exact_mut(n).zip(lse) {
        let top = max(row);
        for v in row.iter_mut() {
            *v = exp(*v - top);
        }
        let total = sum(row, |v| v);
        let factor = 1.0 / total;
        for v in row.iter_mut() {
            *v *= factor;
        }
        *lse = top + total.ln();
    }
}
}

multiversion! {
/// From scores in `p` and `dp = d_out·vᵀ` in `ds` to probabilities in `p` and `ds = p ∘ (dp − delta) · scale`.
fn score_gradient(p: &mut [f32], ds: &mut [f32], lse: &[f32], delta: &[f32], scale: f32) {
    let n = p.len() / delta.len();
    for (i, (p, ds)) in p.chunks_exact_mut(n).zip(ds.chunks_exact_mut(n)).enumerate() {
        let (l, d) = (lse[i], delta[i]);
        for (p, ds) in p.iter_mut().zip(ds) {
            *p = exp(*p - l);
            *ds = *p * (*ds - d) * scale;
        }
    }
}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(i: usize) -> f32 {
        ((i * 7919) % 1009) as f32 / 500.0 - 1.0
    }

    fn plain(qkv: &[f32], offsets: &[usize], heads: usize, width: usize) -> Vec<f32> {
        let (head, mut out) = (width / heads, vec![0f32; qkv.len() / 3]);
        for w in offsets.windows(2) {
            for h in 0..heads {
                let at = |row: usize, part: usize, c: usize| qkv[row * 3 * width + part * width + h * head + c] as f64;
                for i in w[0]..w[1] {
                    let score = |j| (0..head).map(|c| at(i, 0, c) * at(j, 1, c)).sum::<f64>() / (head as f64).sqrt();
                    let weights: Vec<f64> = (w[0]..w[1]).map(|j| score(j).exp()).collect();
                    let total: f64 = weights.iter().sum();
                    for c in 0..head {
                        let sum: f64 = (w[0]..w[1]).zip(&weights).map(|(j, p)| p * at(j, 2, c)).sum();
                        out[i * width + h * head + c] = (sum / total) as f32;
                    }
                }
            }
        }
        out
    }

    #[test]
    fn equals_the_plain_statement_and_its_finite_differences() {
        let (heads, width, offsets) = (2, 12, [0, 3, 3, 10]);
        let tokens = offsets[3];
        let qkv: Vec<f32> = (0..tokens * 3 * width).map(value).collect();
        let d_out: Vec<f32> = (0..tokens * width).map(|i| value(i + 5)).collect();
        let (mut out, mut lse) = (vec![0f32; tokens * width], vec![0f32; tokens * heads]);
        forward(&qkv, Sequences::all(&offsets), heads, &mut out, &mut lse);
        for (got, want) in out.iter().zip(plain(&qkv, &offsets, heads, width)) {
            assert!((got - want).abs() < 1e-6);
        }
        let mut d_qkv = vec![f32::NAN; qkv.len()];
        backward(&d_out, &qkv, &out, &lse, Sequences::all(&offsets), heads, &mut d_qkv);
        let loss = |q: &[f32]| -> f64 {
            plain(q, &offsets, heads, width)
                .iter()
                .zip(&d_out)
                .map(|(a, b)| *a as f64 * *b as f64)
                .sum()
        };
        for i in 0..qkv.len() {
            let mut nudged = qkv.clone();
            nudged[i] += 1e-2;
            let plus = loss(&nudged);
            nudged[i] -= 2e-2;
            let want = ((plus - loss(&nudged)) / 2e-2) as f32;
            assert!((d_qkv[i] - want).abs() < 1e-3, "{i}: {} against {want}", d_qkv[i]);
        }
    }

    #[test]
    fn leading_tokens_alone_get_what_they_get_among_all() {
        let (heads, width, offsets) = (2, 12, [0, 3, 4, 10]);
        let qkv: Vec<f32> = (0..10 * 3 * width).map(value).collect();
        let (mut all, mut lse) = (vec![0f32; 10 * width], vec![0f32; 10 * heads]);
        forward(&qkv, Sequences::all(&offsets), heads, &mut all, &mut lse);
        for asking in [[0, 1, 2, 3], [0, 2, 2, 6], [0, 0, 1, 7], [0; 4]] {
            let results = asking[3];
            let d_leading: Vec<f32> = (0..results * width).map(|i| value(i + 5)).collect();
            let pick = |s: usize| {
                let count = (asking[s + 1] - asking[s]) * width;
                (
                    offsets[s] * width..offsets[s] * width + count,
                    asking[s] * width..asking[s] * width + count,
                )
            };
            let mut d_all = vec![0f32; 10 * width];
            for (among, alone) in (0..3).map(pick) {
                d_all[among].copy_from_slice(&d_leading[alone]);
            }
            let mut want = vec![f32::NAN; qkv.len()];
            let mut lse = vec![0f32; 10 * heads];
            forward(&qkv, Sequences::all(&offsets), heads, &mut all, &mut lse);
            backward(&d_all, &qkv, &all, &lse, Sequences::all(&offsets), heads, &mut want);

            let sequences = Sequences::leading(&offsets, &asking);
            let (mut leading, mut lse) = (vec![0f32; results * width], vec![0f32; results * heads]);
            forward(&qkv, sequences, heads, &mut leading, &mut lse);
            for (among, alone) in (0..3).map(pick) {
                assert_eq!(leading[alone], all[among]);
            }
            let mut got = vec![f32::NAN; qkv.len()];
            backward(&d_leading, &qkv, &leading, &lse, sequences, heads, &mut got);
            for (got, want) in got.iter().zip(&want) {
                assert!((got - want).abs() < 1e-6, "{got} {want}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "more tokens ask than there are")]
    fn no_more_tokens_ask_than_there_are() {
        Sequences::leading(&[0, 3, 4], &[0, 1, 3]);
    }

    #[test]
    fn large_scores_do_not_overflow() {
        let qkv = vec![1e18f32, 1e18, 1.0, -1e18, 1e18, 2.0];
        let (mut out, mut lse) = (vec![0f32; 2], vec![0f32; 2]);
        forward(&qkv, Sequences::all(&[0, 2]), 1, &mut out, &mut lse);
        assert!(out.iter().all(|v| v.is_finite()));
    }
}
