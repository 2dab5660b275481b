//! Multi-head self-attention over packed sequences ([`crate::attention`]) on matrices in blocks.
//!
//! One task is one head of one sequence: its queries, keys and values are brought into operands of the matrix kernels, and
//! scores exist for 32 rows at a time. Forward, a row of blocks of scores gets its softmax without the division, which is
//! done to the 32 results. Backward, 32 keys meet all queries: scores are computed again, transposed, so that what the
//! forward pass kept for each query (logarithm of the sum, dot product of result and gradient) lies along the registers.

use super::Bf16;
use super::blocks::{self, Aligned, BLOCK, Blocks, SIDE};
use super::kernel::{Engine, Kernel};
use crate::attention::Queries;
use crate::memory::Scratch;
use crate::parallel::SharedMut;
use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::Range;

thread_local! {
    /// Operands and sums of the head in work.
    static SCRATCH: RefCell<[Scratch; 2]> = const { RefCell::new([Scratch::new(), Scratch::new()]) };
}

/// Writes `out [results, width]` (blocks) and `log_sum_exp [heads, results]` from `qkv [tokens, 3·width]`, each row
/// `q | k | v`; sequence `s` owns the rows `offsets[s]..offsets[s+1]`, and `results` are as `queries` says. The logarithm is
/// to base 2. With [`Queries::First`], no sequence may be empty.
///
/// # Panics
/// If the sizes do not fit, or the machine does not multiply bfloat16.
pub fn forward(
    qkv: Blocks,
    offsets: &[usize],
    heads: usize,
    queries: Queries,
    out: &mut [Bf16],
    log_sum_exp: &mut [f32],
) {
    /// A sum of weights beyond this means that the first scores were far from the largest.
    const FAR: f32 = 1e30;
    let shape = Shape::new(qkv, offsets, heads);
    let all = queries.rows(offsets);
    assert!(out.len() >= blocks::len(all, shape.width) && log_sum_exp.len() == all * heads);
    blocks::clear_edges(out, all, shape.width);
    let (data, lse) = (SharedMut::new(out), SharedMut::new(log_sum_exp));
    let out = Target {
        data,
        width: shape.width,
    };
    for_each_head(offsets, heads, queries, |engine, h, rows, results| {
        SCRATCH.with_borrow_mut(|[memory, sums]| {
            let lengths = Lengths::new(rows.len(), shape.head);
            let asking = Lengths::new(results.len(), shape.head);
            let panel = lengths.panels * BLOCK;
            let mut take = Take::new(memory, asking.operand() + lengths.operand() * 2 + panel);
            let q = take.next(asking.operand());
            let [k, v] = [0; 2].map(|_| take.next(lengths.operand()));
            let weights = take.next(panel);
            let mut take = Take::new(sums, 3 * BLOCK);
            let (mut scores, result) = ([0; 2].map(|_| take.next(BLOCK)), take.next(BLOCK));
            asking.load_left(qkv, rows.start, shape.column(h, 0), q, None);
            lengths.load_right(qkv, rows.start, shape.column(h, 1), Some(k), None, |_, _, _| ());
            lengths.load_right(qkv, rows.start, shape.column(h, 2), None, Some(v), |_, _, _| ());
            // SAFETY: one task per sequence and head, each with its own part of the row.
            let lse = unsafe { std::slice::from_raw_parts_mut(lse.at(h * all + results.start), results.len()) };
            for (i, lse) in lse.chunks_mut(SIDE).enumerate() {
                let q = &q[i * lengths.depth * BLOCK..];
                let score = |j: usize, scores: &mut [f32]| {
                    engine.multiply(q, &k[j * lengths.depth * BLOCK..], lengths.depth, scores, false);
                };
                // Any number near the largest score will do for the softmax: the first block's.
                score(0, scores[0]);
                let mut top = [f32::NEG_INFINITY; SIDE];
                // SAFETY: the machine has the instructions; a block.
                unsafe { x86::raise_to_maxima(scores[0], rows.len(), shape.factor(), &mut top) };
                let mut totals = lengths.weigh(&shape, &score, &mut scores, &top, weights);
                if totals.iter().any(|total| !(total.is_finite() && *total < FAR)) {
                    for j in 1..lengths.panels {
                        score(j, scores[0]);
                        // SAFETY: as above.
                        unsafe { x86::raise_to_maxima(scores[0], rows.len() - j * SIDE, shape.factor(), &mut top) };
                    }
                    totals = lengths.weigh(&shape, &score, &mut scores, &top, weights);
                }
                for (lse, (top, total)) in lse.iter_mut().zip(top.iter().zip(&totals)) {
                    *lse = top + total.log2();
                }
                let factors = totals.map(|total| 1.0 / total);
                for c in 0..lengths.depth {
                    engine.multiply(weights, &v[c * panel..], lengths.panels, result, false);
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
    offsets: &[usize],
    heads: usize,
    queries: Queries,
    d_qkv: &mut [Bf16],
) {
    /// Bytes of score gradients that are kept until they are multiplied with the keys.
    const KEPT: usize = 512 << 10;
    let shape = Shape::new(qkv, offsets, heads);
    let all = queries.rows(offsets);
    for m in [d_out, out] {
        assert!(m.rows() == all && m.columns() == shape.width);
    }
    assert!(d_qkv.len() >= blocks::len(shape.tokens, 3 * shape.width) && log_sum_exp.len() == all * heads);
    blocks::clear_edges(d_qkv, shape.tokens, 3 * shape.width);
    let d_qkv = Target {
        data: SharedMut::new(d_qkv),
        width: 3 * shape.width,
    };
    for_each_head(offsets, heads, queries, |engine, h, rows, results| {
        SCRATCH.with_borrow_mut(|[memory, sums]| {
            let (n, start) = (rows.len(), rows.start);
            let lengths = Lengths::new(n, shape.head);
            let asking = Lengths::new(results.len(), shape.head);
            let (panel, depth) = (asking.panels * BLOCK, lengths.depth);
            let together = (KEPT / (panel * size_of::<Bf16>())).clamp(1, lengths.panels);
            let len = 3 * lengths.operand() + 4 * asking.operand() + 2 * panel + together * panel;
            let mut take = Take::new(memory, len);
            let [k_rows, k_turned, v_rows] = [0; 3].map(|_| take.next(lengths.operand()));
            let [q_columns, q_steps, o_columns, o_steps] = [0; 4].map(|_| take.next(asking.operand()));
            let [weights, slopes] = [0; 2].map(|_| take.next(panel));
            let kept = take.next(together * panel);
            let mut take = Take::new(sums, asking.operand() + 5 * BLOCK + 2 * asking.panels * SIDE);
            let d_q = take.next(asking.operand());
            let mut scores = [0; 2].map(|_| [0; 2].map(|_| take.next(BLOCK)));
            let result = take.next(BLOCK);
            let [lse, delta] = [0; 2].map(|_| take.next(asking.panels * SIDE));
            let [q, k, v] = [0, 1, 2].map(|part| shape.column(h, part));
            let column = h * shape.head;
            asking.load_right(qkv, start, q, Some(&mut *q_columns), Some(&mut *q_steps), |_, _, _| ());
            lengths.load_left(qkv, start, k, k_rows, Some(&mut *k_turned));
            lengths.load_left(qkv, start, v, v_rows, None);
            // Of each query, the product of its result and the gradient of that.
            delta.fill(0.0);
            let mut own = Aligned::default();
            let (columns, steps) = (Some(&mut *o_columns), Some(&mut *o_steps));
            asking.load_right(d_out, results.start, column, columns, steps, |panel, depth, d| {
                asking.load(out, results.start, column, panel, depth, &mut own.0);
                // SAFETY: two blocks; the machine has the instructions.
                unsafe { x86::add_row_products(&d.0, &own.0, &mut delta[panel * SIDE..][..SIDE]) };
            });
            let (known, beyond) = lse.split_at_mut(results.len());
            known.copy_from_slice(&log_sum_exp[h * all + results.start..][..results.len()]);
            beyond.fill(f32::INFINITY); // no weight for queries beyond the end
            let scale = 1.0 / (shape.head as f32).sqrt();

            for first in (0..lengths.panels).step_by(together) {
                let keys = first..(first + together).min(lengths.panels);
                for j in keys.clone() {
                    let valid = SIDE.min(n - j * SIDE);
                    let score = |i: usize, [scores, d_scores]: &mut [&mut [f32]; 2]| {
                        let at = i * depth * BLOCK;
                        engine.multiply(&k_rows[j * depth * BLOCK..], &q_columns[at..], depth, scores, false);
                        engine.multiply(&v_rows[j * depth * BLOCK..], &o_columns[at..], depth, d_scores, false);
                    };
                    score(0, &mut scores[0]);
                    for i in 0..asking.panels {
                        let [now, next] = &mut scores;
                        if i + 1 < asking.panels {
                            score(i + 1, next);
                        }
                        let step = &mut kept[(i * keys.len() + j - first) * BLOCK..][..BLOCK];
                        // SAFETY: the machine has the instructions; all slices are blocks, or 32 values.
                        unsafe {
                            x86::score_gradient(
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
                            engine.multiply(left, &right[c * panel..], asking.panels, result, false);
                            let (row, factors) = (start + j * SIDE, [factor; SIDE]);
                            // SAFETY: these columns of these rows belong to this task alone.
                            unsafe { d_qkv.write(result, valid, columns, &factors, row, to + c * SIDE) };
                        }
                    }
                }
                for i in 0..asking.panels {
                    for c in 0..depth {
                        let left = &k_turned[(c * lengths.panels + first) * BLOCK..];
                        let target = &mut d_q[(i * depth + c) * BLOCK..][..BLOCK];
                        engine.multiply(left, &kept[i * keys.len() * BLOCK..], keys.len(), target, first > 0);
                    }
                }
            }
            for i in 0..lengths.panels {
                for c in 0..depth {
                    let columns = SIDE.min(shape.head - c * SIDE);
                    let (valid, row) = (SIDE.min(n - i * SIDE), start + i * SIDE);
                    let block = match d_q.get_mut((i * depth + c) * BLOCK..) {
                        Some(block) if i < asking.panels => {
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
    fn new(qkv: Blocks, offsets: &[usize], heads: usize) -> Self {
        let (tokens, width) = (qkv.rows(), qkv.columns() / 3);
        assert!(
            offsets.first() == Some(&0) && offsets.is_sorted() && offsets.last() == Some(&tokens),
            "offsets do not cover the rows"
        );
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

/// Calls `task(engine, head, rows, results)` for every head of every sequence that has rows, in parallel; `results` are its
/// rows in what attention gives.
fn for_each_head(
    offsets: &[usize],
    heads: usize,
    queries: Queries,
    task: impl Fn(&Engine, usize, Range<usize>, Range<usize>) + Sync,
) {
    let kernel = Kernel::pick();
    let sequences = offsets.len() - 1;
    (0..sequences * heads).into_par_iter().for_each(|i| {
        let rows = offsets[i / heads]..offsets[i / heads + 1];
        if !rows.is_empty() {
            let results = queries.of(i / heads, &rows);
            task(&kernel.start(), i % heads, rows, results);
        }
    });
}

/// Pieces of one memory, one after the other.
struct Take<'a, T>(&'a mut [T]);

impl<'a, T: crate::aligned::Plain> Take<'a, T> {
    fn new(memory: &'a mut Scratch, len: usize) -> Self {
        Self(memory.take(len))
    }

    fn next(&mut self, len: usize) -> &'a mut [T] {
        let (head, tail) = std::mem::take(&mut self.0).split_at_mut(len);
        self.0 = tail;
        head
    }
}

/// One head of one sequence in blocks: `panels` for its rows, `depth` for its columns.
struct Lengths {
    rows: usize,
    columns: usize,
    panels: usize,
    depth: usize,
}

impl Lengths {
    fn new(rows: usize, columns: usize) -> Self {
        Self {
            rows,
            columns,
            panels: rows.div_ceil(SIDE),
            depth: columns.div_ceil(SIDE),
        }
    }

    fn operand(&self) -> usize {
        self.panels * self.depth * BLOCK
    }

    /// Copies the block at local (`panel`, `depth`) out of the columns from `column` and the rows from `start`.
    fn load(&self, from: Blocks, start: usize, column: usize, panel: usize, depth: usize, out: &mut [Bf16]) {
        let rows = SIDE.min(self.rows - panel * SIDE);
        let columns = SIDE.min(self.columns - depth * SIDE);
        let (row, column) = (start + panel * SIDE, column + depth * SIDE);
        out[rows * SIDE..BLOCK].fill(Bf16::default());
        if column.is_multiple_of(SIDE) && columns == SIDE {
            // The rows lie one after the other in one block, or in two.
            let (upper, lower) = out[..rows * SIDE].split_at_mut(rows.min(SIDE - row % SIDE) * SIDE);
            upper.copy_from_slice(&from.rest(row, column)[..upper.len()]);
            if !lower.is_empty() {
                lower.copy_from_slice(&from.rest(row.next_multiple_of(SIDE), column)[..lower.len()]);
            }
            return;
        }
        for (r, out) in out.chunks_exact_mut(SIDE).take(rows).enumerate() {
            let near = SIDE - column % SIDE;
            let (left, right) = out[..columns].split_at_mut(near.min(columns));
            left.copy_from_slice(&from.rest(row + r, column)[..left.len()]);
            if !right.is_empty() {
                right.copy_from_slice(&from.rest(row + r, column + near)[..right.len()]);
            }
            out[columns..].fill(Bf16::default());
        }
    }

    /// Weights of all keys for 32 queries, without their division by the totals, which are returned. `score(j, out)` gives
    /// the scores of the keys of panel `j`; `top` is about the largest score of each query, times the factor.
    fn weigh(
        &self,
        shape: &Shape,
        score: &impl Fn(usize, &mut [f32]),
        scores: &mut [&mut [f32]; 2],
        top: &[f32; SIDE],
        weights: &mut [Bf16],
    ) -> [f32; SIDE] {
        let mut sums = x86::Rows::default();
        score(0, scores[0]);
        for (j, weights) in weights.chunks_exact_mut(BLOCK).enumerate() {
            let [now, next] = scores;
            // The matrix unit works on the next scores while the vector units are busy with these.
            if j + 1 < self.panels {
                score(j + 1, next);
            }
            // SAFETY: the machine has the instructions; all are blocks.
            unsafe { x86::weigh(now, self.rows - j * SIDE, shape.factor(), top, weights, &mut sums) };
            std::mem::swap(now, next);
        }
        // SAFETY: the machine has the instructions.
        unsafe { x86::totals(&sums) }
    }

    /// Calls `use_block(panel, depth, block)` for every block of the columns from `column` and the rows from `start`, and
    /// fetches the next one meanwhile: they lie far apart.
    fn each_block(&self, from: Blocks, start: usize, column: usize, mut use_block: impl FnMut(usize, usize, &Aligned)) {
        let mut block = Aligned::default();
        for panel in 0..self.panels {
            for depth in 0..self.depth {
                let (row, column) = (start + (panel + 1) * SIDE, column + depth * SIDE);
                if row < start + self.rows {
                    fetch(from.rest(row, column));
                    if !row.is_multiple_of(SIDE) && row.next_multiple_of(SIDE) < start + self.rows {
                        let below = from.rest(row.next_multiple_of(SIDE), column);
                        fetch(&below[..row % SIDE * SIDE]);
                    }
                }
                self.load(from, start, column - depth * SIDE, panel, depth, &mut block.0);
                use_block(panel, depth, &block);
            }
        }
    }

    /// A block of a left operand `[rows, columns]`: panels of `depth` steps.
    fn row_place(&self, panel: usize, depth: usize) -> Range<usize> {
        let at = (panel * self.depth + depth) * BLOCK;
        at..at + BLOCK
    }

    /// A block of a left operand `[columns, rows]` or a right operand `[rows, columns]`: for each 32 columns, `panels` steps.
    fn column_place(&self, panel: usize, depth: usize) -> Range<usize> {
        let at = (depth * self.panels + panel) * BLOCK;
        at..at + BLOCK
    }

    /// Left operand `[rows, columns]`, and, if wanted, that of the transpose.
    fn load_left(&self, from: Blocks, start: usize, column: usize, rows: &mut [Bf16], mut turned: Option<&mut [Bf16]>) {
        self.each_block(from, start, column, |panel, depth, block| {
            rows[self.row_place(panel, depth)].copy_from_slice(&block.0);
            if let Some(turned) = &mut turned {
                let out = turned[self.column_place(panel, depth)].as_mut_ptr();
                // SAFETY: two blocks at cache lines; the machine has the instructions.
                unsafe { blocks::transpose_block(block.0.as_ptr(), out) };
            }
        });
    }

    /// Right operands: `columns`, the transpose `[columns, rows]`, and `steps`, `[rows, columns]`; either may be left out.
    /// `also` sees each block with its place.
    fn load_right(
        &self,
        from: Blocks,
        start: usize,
        column: usize,
        mut columns: Option<&mut [Bf16]>,
        mut steps: Option<&mut [Bf16]>,
        mut also: impl FnMut(usize, usize, &Aligned),
    ) {
        self.each_block(from, start, column, |panel, depth, block| {
            // SAFETY: blocks at cache lines; the machine has the instructions.
            unsafe {
                if let Some(columns) = &mut columns {
                    let out = columns[self.row_place(panel, depth)].as_mut_ptr();
                    blocks::step_of_columns(block.0.as_ptr(), out);
                }
                if let Some(steps) = &mut steps {
                    let out = steps[self.column_place(panel, depth)].as_mut_ptr();
                    blocks::step_of_rows(block.0.as_ptr(), out);
                }
            }
            also(panel, depth, block);
        });
    }
}

/// Brings memory into the first cache.
fn fetch(memory: &[Bf16]) {
    for line in (0..size_of_val(memory)).step_by(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        #[allow(unused_unsafe, reason = "it was unsafe before Rust 1.95")]
        // SAFETY: a prefetch has no effect that can be seen.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(memory.as_ptr().cast::<i8>().wrapping_add(line));
        }
    }
}

/// A matrix in blocks that several tasks write to, each to its own rows and columns.
#[derive(Clone, Copy)]
struct Target {
    data: SharedMut<Bf16>,
    width: usize,
}

impl Target {
    /// Writes the first `rows` and `columns` of a block, row `r` times `factors[r]`, to the rows from `row` and the columns
    /// from `column`.
    ///
    /// # Safety
    /// The place lies in the matrix and belongs to the caller alone; the machine has the instructions.
    unsafe fn write(
        self,
        block: &[f32],
        rows: usize,
        columns: usize,
        factors: &[f32; SIDE],
        row: usize,
        column: usize,
    ) {
        let place = |row: usize, column: usize| {
            let block = row / SIDE * self.width.div_ceil(SIDE) + column / SIDE;
            block * BLOCK + row % SIDE * SIDE + column % SIDE
        };
        // SAFETY: by the contract.
        unsafe {
            if column.is_multiple_of(SIDE) && columns == SIDE {
                // The rows lie one after the other in one block, or in two.
                let upper = rows.min(SIDE - row % SIDE);
                x86::round_rows(block, &factors[..upper], self.data.at(place(row, column)));
                if upper < rows {
                    let out = self.data.at(place(row + upper, column));
                    x86::round_rows(&block[upper * SIDE..], &factors[upper..rows], out);
                }
                return;
            }
            for (r, (values, factor)) in block.chunks_exact(SIDE).zip(factors).take(rows).enumerate() {
                for (c, value) in values[..columns].iter().enumerate() {
                    *self.data.at(place(row + r, column + c)) = Bf16::from_f32(value * factor);
                }
            }
        }
    }
}

mod x86 {
    use super::super::blocks::masks;
    use super::super::math::exp2;
    use super::super::vectors::{round2, transpose, widen, zip};
    use super::{Bf16, SIDE};
    use std::arch::x86_64::*;

    /// A register for each of 32 rows.
    pub struct Rows([__m512; SIDE]);

    impl Default for Rows {
        fn default() -> Self {
            // SAFETY: zeros are numbers.
            unsafe { std::mem::zeroed() }
        }
    }

    /// `top[r] = max(top[r], factor · the largest score of row r)`, of the first `keys` columns.
    ///
    /// # Safety
    /// `scores` is a block.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq")]
    pub unsafe fn raise_to_maxima(scores: &[f32], keys: usize, factor: f32, top: &mut [f32; SIDE]) {
        let lowest = _mm512_set1_ps(f32::NEG_INFINITY);
        let [low, high] = masks(keys);
        // SAFETY: a block has 32 rows of 32.
        let rows = std::array::from_fn(|r| unsafe {
            let row = scores.as_ptr().add(r * SIDE);
            let left = _mm512_mask_mov_ps(lowest, low, _mm512_loadu_ps(row));
            _mm512_mask_max_ps(left, high, left, _mm512_loadu_ps(row.add(16)))
        });
        let largest = across(rows, |a, b| _mm512_max_ps(a, b));
        for (top, largest) in top.iter_mut().zip(largest) {
            // The clamp keeps infinite scores from becoming differences of infinities.
            *top = top.max((largest * factor).clamp(f32::MIN, f32::MAX));
        }
    }

    /// `2^(factor·score − top of the row)`, rounded, to `weights`, and added to `sums`. Columns from `keys` on have no weight.
    ///
    /// # Safety
    /// `scores` is a block, `weights` one at a cache line.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16")]
    pub unsafe fn weigh(
        scores: &[f32],
        keys: usize,
        factor: f32,
        top: &[f32; SIDE],
        weights: &mut [Bf16],
        sums: &mut Rows,
    ) {
        let factor = _mm512_set1_ps(factor);
        let masks = masks(keys);
        for r in 0..SIDE {
            // SAFETY: a block has 32 rows of 32.
            unsafe {
                let row = scores.as_ptr().add(r * SIDE);
                let top = _mm512_set1_ps(top[r]);
                let mut p = [0, 1].map(|half| {
                    // Not fused: the largest score has to give exactly 0, however large it is.
                    let s = _mm512_mul_ps(_mm512_loadu_ps(row.add(16 * half)), factor);
                    exp2(_mm512_sub_ps(s, top))
                });
                if keys < SIDE {
                    p = [0, 1].map(|half| _mm512_maskz_mov_ps(masks[half], p[half]));
                }
                sums.0[r] = _mm512_add_ps(sums.0[r], _mm512_add_ps(p[0], p[1]));
                _mm512_store_si512(weights.as_mut_ptr().add(r * SIDE).cast(), round2(p[0], p[1]));
            }
        }
    }

    /// The sum of each row's register.
    ///
    /// # Safety
    /// The machine has the instructions.
    #[target_feature(enable = "avx512f,avx512bw")]
    pub unsafe fn totals(sums: &Rows) -> [f32; SIDE] {
        across(sums.0, |a, b| _mm512_add_ps(a, b))
    }

    /// Reduces each of 32 registers to one number.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn across(rows: [__m512; SIDE], fold: impl Fn(__m512, __m512) -> __m512) -> [f32; SIDE] {
        let mut out = [0f32; SIDE];
        for half in [0, 16] {
            let turned = transpose(std::array::from_fn(|r| _mm512_castps_si512(rows[half + r])));
            let mut all = _mm512_castsi512_ps(turned[0]);
            for row in &turned[1..] {
                all = fold(all, _mm512_castsi512_ps(*row));
            }
            // SAFETY: sixteen of 32 values.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr().add(half), all) };
        }
        out
    }

    /// From scores and their gradients before the softmax, both with keys as rows and queries as columns: weights
    /// `p = 2^(factor·score − lse)`, slopes `p·(d − delta)`, both rounded, and the slopes once more as a step. Rows from
    /// `keys` on are zero.
    ///
    /// # Safety
    /// `scores`, `d_scores` and the results are blocks at cache lines, `lse` and `delta` 32 values.
    #[allow(clippy::too_many_arguments)]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16")]
    pub unsafe fn score_gradient(
        scores: &[f32],
        d_scores: &[f32],
        lse: &[f32],
        delta: &[f32],
        factor: f32,
        keys: usize,
        weights: &mut [Bf16],
        slopes: &mut [Bf16],
        step: &mut [Bf16],
    ) {
        let factor = _mm512_set1_ps(factor);
        // SAFETY: by the contract.
        unsafe {
            let lse = [0, 16].map(|c| _mm512_loadu_ps(lse.as_ptr().add(c)));
            let delta = [0, 16].map(|c| _mm512_loadu_ps(delta.as_ptr().add(c)));
            for pair in 0..16 {
                let pair_slopes = [2 * pair, 2 * pair + 1].map(|r| {
                    let (mut p, mut d) = (_mm512_setzero_si512(), _mm512_setzero_si512());
                    if r < keys {
                        let parts = [0, 1].map(|half| {
                            let at = r * SIDE + 16 * half;
                            let s = _mm512_fmsub_ps(_mm512_loadu_ps(scores.as_ptr().add(at)), factor, lse[half]);
                            let p = exp2(s);
                            let d = _mm512_sub_ps(_mm512_loadu_ps(d_scores.as_ptr().add(at)), delta[half]);
                            (p, _mm512_mul_ps(p, d))
                        });
                        p = round2(parts[0].0, parts[1].0);
                        d = round2(parts[0].1, parts[1].1);
                    }
                    _mm512_store_si512(weights.as_mut_ptr().add(r * SIDE).cast(), p);
                    _mm512_store_si512(slopes.as_mut_ptr().add(r * SIDE).cast(), d);
                    d
                });
                let [low, high] = zip(pair_slopes[0], pair_slopes[1]);
                _mm512_store_si512(step.as_mut_ptr().add(pair * SIDE).cast(), low);
                _mm512_store_si512(step.as_mut_ptr().add(512 + pair * SIDE).cast(), high);
            }
        }
    }

    /// `out[r] += Σ_c a[r, c] · b[r, c]` of two blocks.
    ///
    /// # Safety
    /// `a` and `b` are blocks, `out` has 32 values.
    #[target_feature(enable = "avx512f,avx512bw")]
    pub unsafe fn add_row_products(a: &[Bf16], b: &[Bf16], out: &mut [f32]) {
        for (r, out) in out.iter_mut().enumerate() {
            // SAFETY: by the contract.
            let [a, b] = [a, b].map(|m| unsafe { widen(_mm512_loadu_si512(m.as_ptr().add(r * SIDE).cast())) });
            *out += _mm512_reduce_add_ps(_mm512_fmadd_ps(a[0], b[0], _mm512_mul_ps(a[1], b[1])));
        }
    }

    /// Rows of 32 values, each times its factor, rounded.
    ///
    /// # Safety
    /// `values` has a row for each of `factors`, `out` room for as many.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub unsafe fn round_rows(values: &[f32], factors: &[f32], out: *mut Bf16) {
        for (r, factor) in factors.iter().enumerate() {
            let factor = _mm512_set1_ps(*factor);
            // SAFETY: by the contract.
            unsafe {
                let row = values.as_ptr().add(r * SIDE);
                let [low, high] = [0, 16].map(|c| _mm512_mul_ps(_mm512_loadu_ps(row.add(c)), factor));
                _mm512_storeu_si512(out.add(r * SIDE).cast(), round2(low, high));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Support, support};
    use super::*;
    use crate::aligned::AlignedVec;

    fn values(n: usize, seed: usize) -> Vec<f32> {
        (0..n)
            .map(|i| Bf16::from_f32((((i + seed) * 7919) % 1009) as f32 / 400.0 - 1.25).to_f32())
            .collect()
    }

    fn in_blocks(x: &[f32], rows: usize, columns: usize) -> AlignedVec<Bf16> {
        let mut out = AlignedVec::zeroed(blocks::len(rows, columns));
        blocks::from_f32(x, rows, columns, out.as_mut_slice());
        out
    }

    /// Root of the mean square of the difference, over that of what is wanted.
    fn distance(got: &[f32], want: &[f32]) -> f32 {
        let squares = |f: &dyn Fn(usize) -> f32| (0..got.len()).map(|i| (f(i) as f64).powi(2)).sum::<f64>();
        assert!(got.iter().all(|v| v.is_finite()));
        (squares(&|i| got[i] - want[i]) / squares(&|i| want[i])).sqrt() as f32
    }

    #[test]
    fn both_directions_are_those_of_f32_up_to_rounding() {
        if support() == Support::None {
            return;
        }
        for (head, heads, offsets) in [
            (64, 2, vec![0, 245, 245, 250, 300]),
            (32, 3, vec![0, 70]),
            (16, 3, vec![0, 33, 90]),
            (80, 2, vec![0, 40]),
            (128, 1, vec![0, 65]),
            (12, 5, vec![0, 50, 51]),
            (64, 1, vec![0, 1100]), // score gradients in several portions
        ] {
            let (tokens, width) = (offsets[offsets.len() - 1], head * heads);
            let (qkv, d_out) = (values(tokens * 3 * width, 1), values(tokens * width, 2));
            let (mut want, mut want_lse) = (vec![0f32; tokens * width], vec![0f32; tokens * heads]);
            crate::attention::forward(&qkv, &offsets, heads, Queries::All, &mut want, &mut want_lse);
            let mut want_d = vec![0f32; qkv.len()];
            let (all, d) = (Queries::All, &mut want_d);
            crate::attention::backward(&d_out, &qkv, &want, &want_lse, &offsets, heads, all, d);

            let qkv = in_blocks(&qkv, tokens, 3 * width);
            let qkv = Blocks::new(qkv.as_slice(), tokens, 3 * width);
            let d_out = in_blocks(&d_out, tokens, width);
            let d_out = Blocks::new(d_out.as_slice(), tokens, width);
            let junk = |columns| in_blocks(&vec![f32::NAN; tokens * columns], tokens, columns);
            let (mut out, mut lse) = (junk(width), vec![f32::NAN; tokens * heads]);
            forward(qkv, &offsets, heads, Queries::All, out.as_mut_slice(), &mut lse);
            let mut got = vec![0f32; tokens * width];
            blocks::to_f32(Blocks::new(out.as_slice(), tokens, width), &mut got);
            assert!(
                distance(&got, &want) < Bf16::EPSILON,
                "head {head}: {}",
                distance(&got, &want)
            );
            for (got, want) in lse.iter().zip(&want_lse) {
                assert!((got * std::f32::consts::LN_2 - want).abs() < 1e-3 * want.abs().max(1.0));
            }
            let mut d_qkv = junk(3 * width);
            let out = Blocks::new(out.as_slice(), tokens, width);
            backward(
                d_out,
                qkv,
                out,
                &lse,
                &offsets,
                heads,
                Queries::All,
                d_qkv.as_mut_slice(),
            );
            let mut got = vec![0f32; tokens * 3 * width];
            blocks::to_f32(Blocks::new(d_qkv.as_slice(), tokens, 3 * width), &mut got);
            // Query, key and value each: their gradients differ in size.
            for part in 0..3 {
                let pick = |x: &[f32]| -> Vec<f32> {
                    x.chunks_exact(3 * width)
                        .flat_map(|row| row[part * width..][..width].to_vec())
                        .collect()
                };
                let d = distance(&pick(&got), &pick(&want_d));
                assert!(d < 3.0 * Bf16::EPSILON, "head {head}, part {part}: {d}");
            }
        }
    }

    #[test]
    fn first_tokens_alone_get_what_they_get_among_all() {
        if support() == Support::None {
            return;
        }
        let (head, heads, offsets) = (32, 2, [0, 40, 41, 110]);
        let (tokens, width, sequences) = (110, head * heads, 3);
        let (qkv, d_first) = (values(tokens * 3 * width, 1), values(sequences * width, 2));
        let mut d_all = vec![0f32; tokens * width];
        for s in 0..sequences {
            d_all[offsets[s] * width..][..width].copy_from_slice(&d_first[s * width..][..width]);
        }
        let qkv = in_blocks(&qkv, tokens, 3 * width);
        let qkv = Blocks::new(qkv.as_slice(), tokens, 3 * width);
        let run = |queries: Queries, rows: usize, d_out: &[f32]| {
            let (mut out, mut lse) = (
                in_blocks(&vec![0.0; rows * width], rows, width),
                vec![0f32; rows * heads],
            );
            forward(qkv, &offsets, heads, queries, out.as_mut_slice(), &mut lse);
            let out = Blocks::new(out.as_slice(), rows, width);
            let mut values = vec![0f32; rows * width];
            blocks::to_f32(out, &mut values);
            let (d_out, mut d_qkv) = (
                in_blocks(d_out, rows, width),
                AlignedVec::zeroed(blocks::len(tokens, 3 * width)),
            );
            let d_out = Blocks::new(d_out.as_slice(), rows, width);
            backward(d_out, qkv, out, &lse, &offsets, heads, queries, d_qkv.as_mut_slice());
            let mut d = vec![0f32; tokens * 3 * width];
            blocks::to_f32(Blocks::new(d_qkv.as_slice(), tokens, 3 * width), &mut d);
            (values, d)
        };
        let (all, want) = run(Queries::All, tokens, &d_all);
        let (first, got) = run(Queries::First, sequences, &d_first);
        for s in 0..sequences {
            assert_eq!(first[s * width..][..width], all[offsets[s] * width..][..width]);
        }
        assert!(distance(&got, &want) < 1e-6);
    }

    #[test]
    fn first_scores_may_be_far_from_the_largest() {
        if support() == Support::None {
            return;
        }
        let (tokens, head) = (70, 16);
        let row = |i: usize| -> Vec<f32> {
            let key = if i == 40 { 8.0 } else { -8.0 };
            [[8.0f32; 16], [key; 16], [i as f32; 16]].concat()
        };
        let qkv = in_blocks(&(0..tokens).flat_map(row).collect::<Vec<_>>(), tokens, 3 * head);
        let (mut out, mut lse) = (in_blocks(&vec![0.0; tokens * head], tokens, head), vec![0f32; tokens]);
        forward(
            Blocks::new(qkv.as_slice(), tokens, 3 * head),
            &[0, tokens],
            1,
            Queries::All,
            out.as_mut_slice(),
            &mut lse,
        );
        let mut values = vec![0f32; tokens * head];
        blocks::to_f32(Blocks::new(out.as_slice(), tokens, head), &mut values);
        assert!(values.iter().all(|v| *v == 40.0), "{values:?}");
        let largest = 8.0 * 8.0 * 16.0 / 4.0 * std::f32::consts::LOG2_E;
        assert!(lse.iter().all(|v| (v - largest).abs() < 1e-3), "{lse:?}");
    }

    #[test]
    fn large_scores_do_not_overflow() {
        if support() == Support::None {
            return;
        }
        let row = |q: f32, v: f32| -> Vec<f32> { [[q; 16], [1e18; 16], [v; 16]].concat() };
        let qkv = in_blocks(&[row(1e18, 1.0), row(-1e18, 2.0)].concat(), 2, 48);
        let qkv = Blocks::new(qkv.as_slice(), 2, 48);
        let (mut out, mut lse) = (in_blocks(&[0.0; 32], 2, 16), [0f32; 2]);
        forward(qkv, &[0, 2], 1, Queries::All, out.as_mut_slice(), &mut lse);
        let mut values = [0f32; 32];
        blocks::to_f32(Blocks::new(out.as_slice(), 2, 16), &mut values);
        assert!(values.iter().all(|v| *v == 1.5), "{values:?}");
    }
}
