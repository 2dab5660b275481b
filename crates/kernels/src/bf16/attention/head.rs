//! One head of one sequence: from a matrix in blocks to packed operands, and back.

use super::super::blocks::{self, Aligned, BLOCK, Blocks, SIDE};
use super::super::number::Bf16;
use super::super::prefetch::{Level, prefetch};
use super::softmax;
use crate::parallel::SharedMut;
use std::ops::Range;

/// The size of one head of one sequence, `rows` tokens × `dh`, in elements and in blocks.
pub struct Extent {
    rows: usize,
    columns: usize,
    /// Blocks of 32 tokens.
    pub panels: usize,
    /// Blocks of 32 columns: the k-blocks of `q·kᵀ`.
    pub k_blocks: usize,
}

impl Extent {
    pub fn new(rows: usize, columns: usize) -> Self {
        Self {
            rows,
            columns,
            panels: rows.div_ceil(SIDE),
            k_blocks: columns.div_ceil(SIDE),
        }
    }

    /// Elements of a packed operand.
    pub fn operand(&self) -> usize {
        self.panels * self.k_blocks * BLOCK
    }

    /// Copies block (`panel`, `k_block`) of the head whose first element is at (`start`, `column`) of the matrix.
    pub fn load(&self, from: Blocks, start: usize, column: usize, panel: usize, k_block: usize, out: &mut [Bf16]) {
        let rows = SIDE.min(self.rows - panel * SIDE);
        let columns = SIDE.min(self.columns - k_block * SIDE);
        let (row, column) = (start + panel * SIDE, column + k_block * SIDE);
        out[rows * SIDE..BLOCK].fill(Bf16::default());
        if column.is_multiple_of(SIDE) && columns == SIDE {
            // The rows are contiguous in one block, or in two.
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

    /// The online softmax of 32 queries over all keys, without its division: writes `2^(factor·score − row_max)` of each block of keys
    /// to `probs` and returns the row sums.
    ///
    /// `score(j, out)` computes the scores of block `j` of keys; `scores[0]` holds those of block 0. `row_max` is about the largest
    /// score of each query, times the factor. `per_panel` is called for each block of keys.
    pub fn exp_scores(
        &self,
        factor: f32,
        score: &impl Fn(usize, &mut [f32]),
        scores: &mut [&mut [f32]; 2],
        row_max: &[f32; SIDE],
        probs: &mut [Bf16],
        mut per_panel: impl FnMut(),
    ) -> [f32; SIDE] {
        let mut sums = softmax::RowSums::default();
        for (j, probs) in probs.chunks_exact_mut(BLOCK).enumerate() {
            let [now, next] = scores;
            // AMX computes the next scores while the vector units process these.
            if j + 1 < self.panels {
                score(j + 1, next);
            }
            per_panel();
            // SAFETY: `score` has used an engine; both are blocks, and `probs` begins at a cache line.
            unsafe { softmax::exp_scores(now, self.rows - j * SIDE, factor, row_max, probs, &mut sums) };
            std::mem::swap(now, next);
        }
        // SAFETY: `score` has used an engine.
        unsafe { softmax::row_sums(&sums) }
    }

    /// Calls `use_block(panel, k_block, block)` for every block of the head whose first element is at (`start`, `column`), and
    /// prefetches the next one, which lies far away in memory.
    fn each_block(&self, from: Blocks, start: usize, column: usize, mut use_block: impl FnMut(usize, usize, &Aligned)) {
        let mut block = Aligned::default();
        let end = start + self.rows;
        for panel in 0..self.panels {
            for k_block in 0..self.k_blocks {
                // The next rows lie in one block, or in two.
                let row = start + (panel + 1) * SIDE;
                let below = row.next_multiple_of(SIDE);
                if row < end {
                    let rows = from.rest(row, column + k_block * SIDE);
                    prefetch(Level::L1, rows.as_ptr(), rows.len().div_ceil(SIDE));
                }
                if row < below && below < end {
                    let rows = from.rest(below, column + k_block * SIDE);
                    prefetch(Level::L1, rows.as_ptr(), row % SIDE);
                }
                self.load(from, start, column, panel, k_block, &mut block.0);
                use_block(panel, k_block, &block);
            }
        }
    }

    /// The place of a block in an operand whose inner dimension are the columns: `k_blocks` blocks for each 32 rows.
    fn row_place(&self, panel: usize, k_block: usize) -> Range<usize> {
        let at = (panel * self.k_blocks + k_block) * BLOCK;
        at..at + BLOCK
    }

    /// The place of a block in an operand whose inner dimension are the rows: `panels` blocks for each 32 columns.
    fn column_place(&self, panel: usize, k_block: usize) -> Range<usize> {
        let at = (k_block * self.panels + panel) * BLOCK;
        at..at + BLOCK
    }

    /// Packs the head as lhs `[rows, columns]` and, if wanted, its transpose as lhs `[columns, rows]`.
    pub fn pack_lhs(
        &self,
        from: Blocks,
        start: usize,
        column: usize,
        rows: &mut [Bf16],
        mut transposed: Option<&mut [Bf16]>,
    ) {
        self.each_block(from, start, column, |panel, k_block, block| {
            rows[self.row_place(panel, k_block)].copy_from_slice(&block.0);
            if let Some(transposed) = &mut transposed {
                let out = transposed[self.column_place(panel, k_block)].as_mut_ptr();
                // SAFETY: both are blocks at cache lines; `Blocks::new` has found an engine.
                unsafe { blocks::transpose_block(block.0.as_ptr(), out) };
            }
        });
    }

    /// Packs the head as rhs: its transpose `[columns, rows]` to `transposed`, itself, `[rows, columns]`, to `rows`; either may be
    /// left out. `inspect` sees each block with its place.
    pub fn pack_rhs(
        &self,
        from: Blocks,
        start: usize,
        column: usize,
        mut transposed: Option<&mut [Bf16]>,
        mut rows: Option<&mut [Bf16]>,
        mut inspect: impl FnMut(usize, usize, &Aligned),
    ) {
        self.each_block(from, start, column, |panel, k_block, block| {
            // SAFETY: all are blocks at cache lines; `Blocks::new` has found an engine.
            unsafe {
                if let Some(transposed) = &mut transposed {
                    let out = transposed[self.row_place(panel, k_block)].as_mut_ptr();
                    blocks::pack_columns(block.0.as_ptr(), out);
                }
                if let Some(rows) = &mut rows {
                    let out = rows[self.column_place(panel, k_block)].as_mut_ptr();
                    blocks::pack_rows(block.0.as_ptr(), 0..blocks::PAIRS, out);
                }
            }
            inspect(panel, k_block, block);
        });
    }
}

/// A matrix in blocks that several tasks write, each its own rows and columns.
#[derive(Clone, Copy)]
pub struct Target {
    pub data: SharedMut<Bf16>,
    pub width: usize,
    /// Whether whole rows of blocks are written with non-temporal stores, because they are not read soon. Dropping the
    /// `MicroKernel` makes them visible to other threads.
    pub stream: bool,
}

impl Target {
    /// Rounds the first `rows` and `columns` of a block, row `r` times `factors[r]`, to the matrix at (`row`, `column`).
    ///
    /// # Safety
    /// These elements lie in the matrix, and no other task accesses them; there is an engine.
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
        // SAFETY: the elements lie in the matrix and belong to this task, and there is an engine (caller).
        unsafe {
            if column.is_multiple_of(SIDE) && columns == SIDE {
                // The rows are contiguous in one block, or in two.
                let upper = rows.min(SIDE - row % SIDE);
                let out = self.data.at(place(row, column));
                softmax::round_rows(block, &factors[..upper], out, self.stream);
                if upper < rows {
                    let out = self.data.at(place(row + upper, column));
                    softmax::round_rows(&block[upper * SIDE..], &factors[upper..rows], out, self.stream);
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
