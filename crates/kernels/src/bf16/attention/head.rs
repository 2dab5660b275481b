//! Packing one head of one sequence from a matrix in blocks, and writing results back.

use super::super::blocks::{self, Aligned, BLOCK, Blocks, SIDE};
use super::super::number::Bf16;
use super::super::prefetch::{Level, prefetch};
use super::softmax;
use crate::parallel::SharedMut;
use std::ops::Range;

/// The size of one head of one sequence: `rows` tokens and `columns` = `dh` columns.
pub struct HeadSize {
    rows: usize,
    columns: usize,
    /// Number of blocks of 32 tokens.
    pub panels: usize,
    /// Number of blocks of 32 columns, the k-blocks of `q·kᵀ`.
    pub k_blocks: usize,
}

impl HeadSize {
    pub fn new(rows: usize, columns: usize) -> Self {
        Self {
            rows,
            columns,
            panels: rows.div_ceil(SIDE),
            k_blocks: columns.div_ceil(SIDE),
        }
    }

    /// Number of elements of a packed operand.
    pub fn packed_len(&self) -> usize {
        self.panels * self.k_blocks * BLOCK
    }

    /// Copies block (`panel`, `k_block`) of a head, padded with zeros. The first element of the head is at (`start`, `column`) of `from`.
    pub fn copy_block(
        &self,
        from: Blocks,
        start: usize,
        column: usize,
        panel: usize,
        k_block: usize,
        out: &mut [Bf16],
    ) {
        let rows = SIDE.min(self.rows - panel * SIDE);
        let columns = SIDE.min(self.columns - k_block * SIDE);
        let (row, column) = (start + panel * SIDE, column + k_block * SIDE);
        out[rows * SIDE..BLOCK].fill(Bf16::default());
        if column.is_multiple_of(SIDE) && columns == SIDE {
            // The rows are in one block of the matrix, or in two blocks.
            let (upper, lower) = out[..rows * SIDE].split_at_mut(rows.min(SIDE - row % SIDE) * SIDE);
            upper.copy_from_slice(&from.block_tail(row, column)[..upper.len()]);
            if !lower.is_empty() {
                lower.copy_from_slice(&from.block_tail(row.next_multiple_of(SIDE), column)[..lower.len()]);
            }
            return;
        }
        for (r, out) in out.chunks_exact_mut(SIDE).take(rows).enumerate() {
            let in_first_block = SIDE - column % SIDE;
            let (left, right) = out[..columns].split_at_mut(in_first_block.min(columns));
            left.copy_from_slice(&from.block_tail(row + r, column)[..left.len()]);
            if !right.is_empty() {
                right.copy_from_slice(&from.block_tail(row + r, column + in_first_block)[..right.len()]);
            }
            out[columns..].fill(Bf16::default());
        }
    }

    /// Computes the softmax of 32 queries over all keys, without the division: writes `2^(factor·score − row_max)` to `probs`, block by
    /// block of keys, and returns the row sums.
    ///
    /// `score(j, out)` computes the scores of block `j` of keys. On entry, `scores[0]` must hold the scores of block 0. `row_max` must be
    /// near the largest `factor·score` of each query. `per_panel` is called once for each block of keys.
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
            let [current, next] = scores;
            // AMX computes the next scores while the vector units process the current ones.
            if j + 1 < self.panels {
                score(j + 1, next);
            }
            per_panel();
            // SAFETY: `engine()` is `Some`, because `score` uses the engine; `current` and `probs` are blocks, and `probs` is 64-byte
            // aligned.
            unsafe { softmax::exp_scores(current, self.rows - j * SIDE, factor, row_max, probs, &mut sums) };
            std::mem::swap(current, next);
        }
        // SAFETY: `engine()` is `Some`, because `score` uses the engine.
        unsafe { softmax::row_sums(&sums) }
    }

    /// Calls `visit(panel, k_block, block)` for every block of the head. The first element of the head is at (`start`, `column`) of `from`.
    /// Prefetches the next panel, which is elsewhere in memory.
    fn for_each_block(&self, from: Blocks, start: usize, column: usize, mut visit: impl FnMut(usize, usize, &Aligned)) {
        let mut block = Aligned::default();
        let end = start + self.rows;
        for panel in 0..self.panels {
            for k_block in 0..self.k_blocks {
                // The rows of the next panel are in one block of the matrix, or in two blocks.
                let row = start + (panel + 1) * SIDE;
                let below = row.next_multiple_of(SIDE);
                if row < end {
                    let rows = from.block_tail(row, column + k_block * SIDE);
                    prefetch(Level::L1, rows.as_ptr(), rows.len().div_ceil(SIDE));
                }
                if row < below && below < end {
                    let rows = from.block_tail(below, column + k_block * SIDE);
                    prefetch(Level::L1, rows.as_ptr(), row % SIDE);
                }
                self.copy_block(from, start, column, panel, k_block, &mut block.0);
                visit(panel, k_block, &block);
            }
        }
    }

    /// The position of a block in an operand that is packed panel by panel, because its inner dimension is the columns of the head.
    fn position_by_panel(&self, panel: usize, k_block: usize) -> Range<usize> {
        let start = (panel * self.k_blocks + k_block) * BLOCK;
        start..start + BLOCK
    }

    /// The position of a block in an operand that is packed k-block by k-block, because its inner dimension is the rows of the head.
    fn position_by_k_block(&self, panel: usize, k_block: usize) -> Range<usize> {
        let start = (k_block * self.panels + panel) * BLOCK;
        start..start + BLOCK
    }

    /// Packs the head as an lhs `[rows, columns]`, and optionally its transpose as an lhs `[columns, rows]`.
    pub fn pack_lhs(
        &self,
        from: Blocks,
        start: usize,
        column: usize,
        packed: &mut [Bf16],
        mut transposed: Option<&mut [Bf16]>,
    ) {
        self.for_each_block(from, start, column, |panel, k_block, block| {
            packed[self.position_by_panel(panel, k_block)].copy_from_slice(&block.0);
            if let Some(transposed) = &mut transposed {
                let out = transposed[self.position_by_k_block(panel, k_block)].as_mut_ptr();
                // SAFETY: both are 64-byte aligned blocks; `Blocks::new` has found an engine.
                unsafe { blocks::transpose_block(block.0.as_ptr(), out) };
            }
        });
    }

    /// Packs the head as an rhs `[rows, columns]` to `packed`, and its transpose as an rhs `[columns, rows]` to `transposed`; both are
    /// optional. Calls `visit(panel, k_block, block)` for each block.
    pub fn pack_rhs(
        &self,
        from: Blocks,
        start: usize,
        column: usize,
        mut transposed: Option<&mut [Bf16]>,
        mut packed: Option<&mut [Bf16]>,
        mut visit: impl FnMut(usize, usize, &Aligned),
    ) {
        self.for_each_block(from, start, column, |panel, k_block, block| {
            // SAFETY: all are 64-byte aligned blocks; `Blocks::new` has found an engine.
            unsafe {
                if let Some(transposed) = &mut transposed {
                    let out = transposed[self.position_by_panel(panel, k_block)].as_mut_ptr();
                    blocks::pack_block_transposed(block.0.as_ptr(), out);
                }
                if let Some(packed) = &mut packed {
                    let out = packed[self.position_by_k_block(panel, k_block)].as_mut_ptr();
                    blocks::pack_block(block.0.as_ptr(), 0..blocks::PAIRS, out);
                }
            }
            visit(panel, k_block, block);
        });
    }
}

/// A matrix in blocks that several tasks write. No two tasks write the same element.
#[derive(Clone, Copy)]
pub struct SharedBlocks {
    pub data: SharedMut<Bf16>,
    pub width: usize,
    /// Whether to write full rows of a block with non-temporal stores, for a matrix that is not read soon. Dropping the `MicroKernel` makes
    /// the stores visible to other threads.
    pub non_temporal: bool,
}

impl SharedBlocks {
    /// Multiplies row `r` of a block by `factors[r]`, and writes the first `rows` × `columns` values, rounded, to (`row`, `column`).
    ///
    /// # Safety
    /// `block` has 32 × 32 values. The written elements lie in the matrix, which is 64-byte aligned, and no other task accesses them.
    /// `engine()` is `Some`.
    pub unsafe fn write(
        self,
        block: &[f32],
        rows: usize,
        columns: usize,
        factors: &[f32; SIDE],
        row: usize,
        column: usize,
    ) {
        let offset = |row: usize, column: usize| {
            let block = row / SIDE * self.width.div_ceil(SIDE) + column / SIDE;
            block * BLOCK + row % SIDE * SIDE + column % SIDE
        };
        // SAFETY: the elements lie in the matrix, only this task accesses them, and there is an engine (caller).
        unsafe {
            if column.is_multiple_of(SIDE) && columns == SIDE {
                // The rows are in one block of the matrix, or in two blocks.
                let upper = rows.min(SIDE - row % SIDE);
                let out = self.data.ptr_at(offset(row, column));
                softmax::round_rows(block, &factors[..upper], out, self.non_temporal);
                if upper < rows {
                    let out = self.data.ptr_at(offset(row + upper, column));
                    softmax::round_rows(&block[upper * SIDE..], &factors[upper..rows], out, self.non_temporal);
                }
                return;
            }
            for (r, (values, factor)) in block.chunks_exact(SIDE).zip(factors).take(rows).enumerate() {
                for (c, value) in values[..columns].iter().enumerate() {
                    *self.data.ptr_at(offset(row + r, column + c)) = Bf16::from_f32(value * factor);
                }
            }
        }
    }
}
