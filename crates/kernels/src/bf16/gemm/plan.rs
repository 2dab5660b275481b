//! Division of a product into tasks.

use super::super::rhs::RhsKind;
use std::ops::Range;

/// The tasks of a product, and the matrix that stays in L2. Sizes are counted in blocks.
pub(super) struct Plan {
    pub grid: Grid,
    /// Whether the sums stay in L2; otherwise packed columns of rhs stay in L2.
    pub output_stationary: bool,
}

impl Plan {
    /// Plans a product with a result of `rows` × `panels` blocks and `k_blocks` k-blocks.
    pub fn new(rows: usize, panels: usize, k_blocks: usize, rhs: RhsKind) -> Self {
        /// Blocks of packed rhs that stay in L2: 1.25 MiB.
        const L2_RHS: usize = 640;
        /// Blocks of sums that stay in L2, beside the groups of both operands: 672 KiB.
        const L2_SUMS: usize = 168;
        /// Maximum number of rows of blocks of an output-stationary task.
        const MAX_SUM_ROWS: usize = 32;
        /// With at least this number of k-blocks, only few columns of rhs fit into L2: 64 k-blocks take 128 KiB per panel.
        const MANY_K_BLOCKS: usize = 64;
        let threads = rayon::current_num_threads();
        // Returns the task size, at most `max`, that divides `total` into tasks of equal size.
        let task_size = |total: usize, max: usize| total.div_ceil(total.div_ceil(max.max(1)).max(1)).max(1);
        let output_stationary = match rhs {
            RhsKind::Activation => true,
            RhsKind::Packed => k_blocks >= MANY_K_BLOCKS && rows <= MAX_SUM_ROWS,
            // Each row of tasks packs the whole weight. Therefore the sums stay in L2 only if there is a single row of tasks.
            RhsKind::Weight { has_contiguous_rows } => has_contiguous_rows && k_blocks >= MANY_K_BLOCKS && rows <= 2,
        };
        let (mut rows_per_task, max_panels) = if output_stationary {
            let rows = task_size(rows, MAX_SUM_ROWS);
            (rows, L2_SUMS / rows)
        } else {
            (rows.max(1), L2_RHS / k_blocks.max(1))
        };
        // A multiple of the number of threads, so that each thread has the same number of tasks.
        let column_tasks = panels
            .div_ceil(max_panels.max(1))
            .next_multiple_of(threads)
            .clamp(1, panels.max(1));
        let panels_per_task = task_size(panels, panels.div_ceil(column_tasks));
        let column_tasks = panels.div_ceil(panels_per_task).max(1);
        // If there are fewer columns of tasks than threads, the rows are divided, too.
        let row_tasks = rows
            .div_ceil(rows_per_task)
            .max(threads.div_ceil(column_tasks))
            .clamp(1, rows.max(1));
        rows_per_task = task_size(rows, rows.div_ceil(row_tasks));
        let grid = Grid {
            rows,
            columns: panels,
            mc: rows_per_task,
            nc: panels_per_task,
        };
        Self {
            grid,
            output_stationary,
        }
    }
}

/// A result that is divided into tasks of the same size. Sizes are counted in blocks.
#[derive(Clone, Copy)]
pub(in crate::bf16) struct Grid {
    pub rows: usize,
    pub columns: usize,
    /// Rows per task, at least one; the last tasks may have fewer.
    pub mc: usize,
    /// Columns per task, at least one; the last tasks may have fewer.
    pub nc: usize,
}

impl Grid {
    /// The number of tasks.
    pub fn tasks(self) -> usize {
        self.rows.div_ceil(self.mc) * self.columns.div_ceil(self.nc)
    }

    /// The rows and columns of task `i`. Tasks with the same rows are consecutive.
    pub fn task(self, i: usize) -> (Range<usize>, Range<usize>) {
        let tasks_per_row = self.columns.div_ceil(self.nc);
        let range = |i: usize, size: usize, total: usize| i * size..((i + 1) * size).min(total);
        (
            range(i / tasks_per_row, self.mc, self.rows),
            range(i % tasks_per_row, self.nc, self.columns),
        )
    }
}
