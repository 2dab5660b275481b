//! One head of one sequence: out of a matrix in blocks into operands, and back.

use super::super::blocks::{self, Aligned, BLOCK, Blocks, SIDE};
use super::super::number::Bf16;
use super::super::prefetch::{Level, prefetch};
use super::softmax;
use crate::parallel::SharedMut;
use std::ops::Range;

/// One head of one sequence in blocks: `panels` for its rows, `depth` for its columns.
pub struct Extent {
    rows: usize,
    columns: usize,
    pub panels: usize,
    pub depth: usize,
}

impl Extent {
    pub fn new(rows: usize, columns: usize) -> Self {
        Self {
            rows,
            columns,
            panels: rows.div_ceil(SIDE),
            depth: columns.div_ceil(SIDE),
        }
    }

    pub fn operand(&self) -> usize {
        self.panels * self.depth * BLOCK
    }

    /// Copies the block at local (`panel`, `depth`) out of the columns from `column` and the rows from `start`.
    pub fn load(&self, from: Blocks, start: usize, column: usize, panel: usize, depth: usize, out: &mut [Bf16]) {
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

    /// Weights of all keys for 32 queries, without their division by the row_sums, which are returned. `score(j, out)` gives
    /// the scores of the keys of panel `j`, and `scores[0]` holds those of the first; `top` is about the largest score of each
    /// query, times the factor. `beside` is called for each panel.
    pub fn weigh(
        &self,
        factor: f32,
        score: &impl Fn(usize, &mut [f32]),
        scores: &mut [&mut [f32]; 2],
        top: &[f32; SIDE],
        weights: &mut [Bf16],
        mut beside: impl FnMut(),
    ) -> [f32; SIDE] {
        let mut sums = softmax::Rows::default();
        for (j, weights) in weights.chunks_exact_mut(BLOCK).enumerate() {
            let [now, next] = scores;
            // The matrix unit works on the next scores while the vector units are busy with these.
            if j + 1 < self.panels {
                score(j + 1, next);
            }
            beside();
            // SAFETY: the machine has the instructions; all are blocks.
            unsafe { softmax::exp_scores(now, self.rows - j * SIDE, factor, top, weights, &mut sums) };
            std::mem::swap(now, next);
        }
        // SAFETY: the machine has the instructions.
        unsafe { softmax::row_sums(&sums) }
    }

    /// Calls `use_block(panel, depth, block)` for every block of the columns from `column` and the rows from `start`, and
    /// fetches the next one meanwhile: they lie far apart.
    fn each_block(&self, from: Blocks, start: usize, column: usize, mut use_block: impl FnMut(usize, usize, &Aligned)) {
        let mut block = Aligned::default();
        let end = start + self.rows;
        for panel in 0..self.panels {
            for depth in 0..self.depth {
                // The rows that come next lie in one block, or in two.
                let (row, below) = (
                    start + (panel + 1) * SIDE,
                    (start + (panel + 1) * SIDE).next_multiple_of(SIDE),
                );
                if row < end {
                    let rows = from.rest(row, column + depth * SIDE);
                    prefetch(Level::L1, rows.as_ptr(), rows.len().div_ceil(SIDE));
                }
                if row < below && below < end {
                    prefetch(Level::L1, from.rest(below, column + depth * SIDE).as_ptr(), row % SIDE);
                }
                self.load(from, start, column, panel, depth, &mut block.0);
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
    pub fn load_left(
        &self,
        from: Blocks,
        start: usize,
        column: usize,
        rows: &mut [Bf16],
        mut turned: Option<&mut [Bf16]>,
    ) {
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
    pub fn load_right(
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
                    blocks::step_of_rows(block.0.as_ptr(), 0..blocks::PAIRS, out);
                }
            }
            also(panel, depth, block);
        });
    }
}

/// A matrix in blocks that several tasks write to, each to its own rows and columns.
#[derive(Clone, Copy)]
pub struct Target {
    pub data: SharedMut<Bf16>,
    pub width: usize,
    /// Whether whole rows of blocks are written past the caches: much of what nobody reads soon. [`super::MicroKernel`] sees to it that
    /// other threads see them.
    pub streamed: bool,
}

impl Target {
    /// Writes the first `rows` and `columns` of a block, row `r` times `factors[r]`, to the rows from `row` and the columns
    /// from `column`.
    ///
    /// # Safety
    /// The place lies in the matrix and belongs to the caller alone; the machine has the instructions.
    pub unsafe fn write(
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
                let out = self.data.at(place(row, column));
                softmax::round_rows(block, &factors[..upper], out, self.streamed);
                if upper < rows {
                    let out = self.data.at(place(row + upper, column));
                    softmax::round_rows(&block[upper * SIDE..], &factors[upper..rows], out, self.streamed);
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
