//! How a product is divided into tasks.

use super::super::rhs::Reuse;
use std::ops::Range;

/// The tasks of a product, and which matrix stays in L2. Sizes are counted in blocks.
pub(super) struct Plan {
    pub grid: Grid,
    /// Whether the sums stay in L2 while both operands stream past; otherwise columns of rhs do.
    pub output_stationary: bool,
}

impl Plan {
    /// Of a result of `rows` × `panels` blocks with `k_blocks` k-blocks.
    pub fn new(rows: usize, panels: usize, k_blocks: usize, rhs: Reuse) -> Self {
        /// Blocks of packed rhs that stay in L2: 1.25 MiB.
        const L2_RHS: usize = 640;
        /// Blocks of sums that stay in L2 beside the groups of both operands: 672 KiB, in at most so many rows.
        const L2_SUMS: usize = 168;
        const SUM_ROWS: usize = 32;
        /// k-blocks from which only few columns fit into L2: 64 of them take 128 KiB per panel.
        const LONG: usize = 64;
        let threads = rayon::current_num_threads();
        let share = |all: usize, most: usize| all.div_ceil(all.div_ceil(most.max(1)).max(1)).max(1);
        let output_stationary = match rhs {
            Reuse::Activation => true,
            Reuse::Packed => k_blocks >= LONG && rows <= SUM_ROWS,
            // The weight would be packed again for each task with other rows, unless there is one task with all rows.
            Reuse::Weight { by_rows } => by_rows && k_blocks >= LONG && rows <= 2,
        };
        let (mut rows_per_task, fit) = if output_stationary {
            let rows = share(rows, SUM_ROWS);
            (rows, L2_SUMS / rows)
        } else {
            (rows.max(1), L2_RHS / k_blocks.max(1))
        };
        // Equal shares for all threads.
        let column_tasks = panels
            .div_ceil(fit.max(1))
            .next_multiple_of(threads)
            .clamp(1, panels.max(1));
        let panels_per_task = share(panels, panels.div_ceil(column_tasks));
        let column_tasks = panels.div_ceil(panels_per_task).max(1);
        // Where there are few columns, rows are divided, too.
        let row_tasks = rows
            .div_ceil(rows_per_task)
            .max(threads.div_ceil(column_tasks))
            .clamp(1, rows.max(1));
        rows_per_task = share(rows, rows.div_ceil(row_tasks));
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

/// A result in tasks of the same size. Sizes are counted in blocks.
#[derive(Clone, Copy)]
pub(in crate::bf16) struct Grid {
    pub rows: usize,
    pub columns: usize,
    /// Rows of a task, at least one; the last tasks may have fewer.
    pub mc: usize,
    /// Columns of a task, at least one; the last tasks may have fewer.
    pub nc: usize,
}

impl Grid {
    /// Number of tasks.
    pub fn tasks(self) -> usize {
        self.rows.div_ceil(self.mc) * self.columns.div_ceil(self.nc)
    }

    /// Rows and columns of task `i`; tasks with the same rows are consecutive.
    pub fn task(self, i: usize) -> (Range<usize>, Range<usize>) {
        let per_row = self.columns.div_ceil(self.nc);
        let range = |i: usize, size: usize, all: usize| i * size..((i + 1) * size).min(all);
        (
            range(i / per_row, self.mc, self.rows),
            range(i % per_row, self.nc, self.columns),
        )
    }
}
