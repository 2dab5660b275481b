//! Products of matrices in blocks. An epilogue processes each block of sums while it is in L1.
//!
//! A group of 256 inner elements (`KC` k-blocks) is multiplied at a time, so that 32 rows of lhs stay in L1. The shape determines which
//! matrix stays in L2:
//!
//! - Products with weights have a short inner dimension and are weight-stationary. A task packs some columns of the weight once and
//!   multiplies all rows of lhs with them. Idle threads steal rows from the tasks of other threads, because threads are not equally
//!   fast, for instance if two share a core.
//! - Gradients of weights have a long inner dimension, the tokens, and are output-stationary. The sums of a task stay in L2, and both
//!   operands are streamed.
//!
//! The order of additions does not depend on how the work is divided.

mod plan;
#[cfg(test)]
mod tests;

use super::blocks::{BLOCK, Blocks, PAIRS, SIDE};
use super::micro_kernel::MicroKernel;
use super::number::Bf16;
use super::rhs::{KC, PackedPanels, Packer, Rhs, RhsKind, RhsView};
use crate::mat::Beta;
use crate::memory::Scratch;
pub(super) use plan::Grid;
use plan::Plan;
use rayon::prelude::*;
use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Processes complete sums, for instance adds a bias, and stores the result.
pub trait Epilogue: Sync {
    /// The number of rows and the number of columns of the result.
    fn size(&self) -> (usize, usize);

    /// The block that [`Epilogue::process_rows`] reads for the sums at (`row`, `column`), to be prefetched; `None` if it reads no block.
    fn input_block(&self, _row: usize, _column: usize) -> Option<&[Bf16]> {
        None
    }

    /// Processes the rows `range` (within 0..32) of a block of sums. The first element of the block is at (`row`, `column`) of the result.
    /// Sums outside the result are zero.
    ///
    /// # Safety
    /// (`row`, `column`) lies in the result, and both are multiples of 32. A single thread calls this function for a block, with
    /// consecutive ranges from 0 to 32.
    unsafe fn process_rows(&self, row: usize, column: usize, sums: &mut [f32; BLOCK], range: Range<usize>);
}

/// Computes `lhs·rhs` and calls the epilogue for each block of sums. The plain version is [`reference::gemm`](crate::reference::gemm) with
/// rounded operands.
///
/// # Panics
/// If the sizes do not fit, or the CPU has no bfloat16 engine.
pub fn gemm(lhs: Blocks, rhs: Rhs, epilogue: &mut dyn Epilogue) {
    let (rows, n) = epilogue.size();
    assert_eq!(rows, lhs.rows(), "number of rows of the result");
    let rhs = rhs.view(lhs.columns(), n);
    if lhs.columns() == 0 {
        return store_zeros(rows, n, epilogue);
    }
    let plan = Plan::new(lhs.row_blocks(), n.div_ceil(SIDE), lhs.column_blocks(), rhs.kind());
    let epilogue = &*epilogue;
    if !plan.output_stationary {
        return run_weight_stationary(plan.grid, lhs, rhs, epilogue);
    }
    (0..plan.grid.tasks()).into_par_iter().for_each(|i| {
        let kernel = &MicroKernel::start();
        let product = Product {
            lhs,
            rhs,
            kernel,
            epilogue,
        };
        Task::new(plan.grid, i).run_output_stationary(&product);
    });
}

/// Computes the product for `k = 0`, whose sums are zero.
fn store_zeros(rows: usize, columns: usize, epilogue: &dyn Epilogue) {
    // Dropping a `MicroKernel` executes a store fence.
    let _store_fence = MicroKernel::start();
    for row in (0..rows).step_by(SIDE) {
        for column in (0..columns).step_by(SIDE) {
            // SAFETY: (`row`, `column`) lies in the result, and only this thread processes the block.
            unsafe { epilogue.process_rows(row, column, &mut [0.0; BLOCK], 0..SIDE) };
        }
    }
}

/// Runs weight-stationary tasks. Each task packs its columns once and multiplies all its rows of lhs with them. When no tasks are left,
/// idle threads steal rows from unfinished tasks.
fn run_weight_stationary(grid: Grid, lhs: Blocks, rhs: RhsView, epilogue: &dyn Epilogue) {
    /// Number of tasks per thread whose packed columns are in memory at the same time. Only large products have more tasks.
    const TASKS_PER_THREAD: usize = 2;
    thread_local! {
        /// Packed columns of these tasks. The product takes them out of the cell, because rayon may start another product on this thread
        /// while the first one waits for other threads.
        static PACKED: Cell<Scratch> = const { Cell::new(Scratch::new()) };
    }
    let threads = rayon::current_num_threads();
    let len = match rhs.kind() {
        RhsKind::Packed => 0,
        _ => grid.nc * lhs.column_blocks() * BLOCK,
    };
    let mut memory = PACKED.take();
    for first in (0..grid.tasks()).step_by(TASKS_PER_THREAD * threads) {
        let count = (grid.tasks() - first).min(TASKS_PER_THREAD * threads);
        let mut remaining = memory.slice_mut(count * len);
        let tasks: Vec<SharedTask> = (first..first + count)
            .map(|i| SharedTask::new(Task::new(grid, i)))
            .collect();
        let task_memory = std::iter::from_fn(|| remaining.split_off_mut(..len));
        let queue = Mutex::new(tasks.iter().zip(task_memory));
        let next_task = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
        (0..threads).into_par_iter().with_max_len(1).for_each(|_| {
            let kernel = &MicroKernel::start();
            let product = Product {
                lhs,
                rhs,
                kernel,
                epilogue,
            };
            while let Some((shared, memory)) = next_task() {
                let packed = shared
                    .packed
                    .get_or_init(|| rhs.packed_panels(shared.task.panels.clone(), memory));
                shared.multiply(&product, packed);
            }
            for shared in &tasks {
                if let Some(packed) = shared.packed_for_stealing() {
                    shared.multiply(&product, packed);
                }
            }
        });
    }
    PACKED.set(memory);
}

/// A task whose columns are packed by one thread and whose rows are multiplied by any thread, one row of blocks at a time.
struct SharedTask<'m> {
    task: Task,
    packed: OnceLock<PackedPanels<'m>>,
    next_row: AtomicUsize,
}

impl<'m> SharedTask<'m> {
    fn new(task: Task) -> Self {
        Self {
            packed: OnceLock::new(),
            next_row: AtomicUsize::new(task.rows.start),
            task,
        }
    }

    /// The packed columns, if they are complete and enough rows are left to pay for reading the columns into another L2.
    fn packed_for_stealing(&self) -> Option<&PackedPanels<'m>> {
        const MIN_ROWS: usize = 16;
        let remaining = self.task.rows.end.saturating_sub(self.next_row.load(Ordering::Relaxed));
        self.packed.get().filter(|_| remaining >= MIN_ROWS)
    }

    /// Multiplies rows until no rows are left.
    fn multiply(&self, product: &Product, packed: &PackedPanels) {
        let rows = std::iter::from_fn(|| Some(self.next_row.fetch_add(1, Ordering::Relaxed)));
        let rows = rows.take_while(|row| *row < self.task.rows.end);
        self.task.multiply_rows(product, packed, rows);
    }
}

/// Number of elements that the product of one group with one panel prefetches: 2 KiB. The products with eight panels prefetch the whole
/// next group of lhs.
const PREFETCH_LEN: usize = KC * 128;

thread_local! {
    /// Packed rhs and sums of the current task.
    static SCRATCH: RefCell<[Scratch; 2]> = const { RefCell::new([Scratch::new(), Scratch::new()]) };
}

/// The part of the result that a task computes: rows of blocks, and panels of 32 columns.
struct Task {
    rows: Range<usize>,
    panels: Range<usize>,
}

/// The operands and epilogue of a product, which all tasks share, and the micro-kernel of the calling thread.
struct Product<'a> {
    lhs: Blocks<'a>,
    rhs: RhsView<'a>,
    kernel: &'a MicroKernel,
    epilogue: &'a dyn Epilogue,
}

impl Task {
    fn new(grid: Grid, i: usize) -> Self {
        let (rows, panels) = grid.task(i);
        Self { rows, panels }
    }

    /// Multiplies rows of blocks with the packed columns of the task.
    fn multiply_rows(&self, product: &Product, packed: &PackedPanels, rows: impl Iterator<Item = usize>) {
        let k_blocks = product.lhs.column_blocks();
        SCRATCH.with_borrow_mut(|[_, sums]| {
            let sums = sums.slice_mut(self.panels.len() * BLOCK);
            for row in rows {
                for first in (0..k_blocks).step_by(KC) {
                    let is_last = first + KC >= k_blocks;
                    let next = if is_last { (row + 1, 0) } else { (row, first + KC) };
                    let per_panel = |panel: usize| {
                        let column = (self.panels.start + panel) * SIDE;
                        is_last
                            .then(|| product.epilogue.input_block(row * SIDE, column))
                            .flatten()
                    };
                    self.multiply(product, packed, (row, first), next, per_panel, sums);
                }
            }
        });
    }

    /// Computes all sums of the task, one group of k-blocks after the other. The next group of rhs is packed during the products with the
    /// current group.
    fn run_output_stationary(&self, product: &Product) {
        let k_blocks = product.lhs.column_blocks();
        let rhs = if self.rows.start > 0 {
            product.rhs.without_sums()
        } else {
            product.rhs
        };
        let packed = rhs.packed_from(self.panels.start);
        let k_range = |first: usize| first.min(k_blocks)..(first + KC).min(k_blocks);
        SCRATCH.with_borrow_mut(|[memory, sums]| {
            let row_len = self.panels.len() * BLOCK;
            let sums = sums.slice_mut(self.rows.len() * row_len);
            let mut packer = packed.is_none().then(|| Packer::new(rhs, self.panels.clone(), 0));
            let len = packer
                .as_ref()
                .map_or(0, |_| self.panels.len() * KC.min(k_blocks) * BLOCK);
            let (mut current, mut upcoming) = memory.slice_mut(2 * len).split_at_mut(len);
            if let Some(packer) = &mut packer {
                packer.advance(usize::MAX, k_range(0), current);
            }
            for first in (0..k_blocks).step_by(KC) {
                let ready = PackedPanels::new(current, self.panels.len(), k_range(first));
                let panels = packed.as_ref().unwrap_or(&ready);
                let next = k_range(first + KC);
                // Pairs of rows to pack per product.
                let pairs = (next.len() * PAIRS).div_ceil(self.rows.len());
                for (row, sums) in self.rows.clone().zip(sums.chunks_exact_mut(row_len)) {
                    let is_last = row + 1 == self.rows.end;
                    let next_lhs = if is_last {
                        (self.rows.start, next.start)
                    } else {
                        (row + 1, first)
                    };
                    let per_panel = |_| {
                        let packer = packer.as_mut()?;
                        packer.advance(pairs, next.clone(), upcoming);
                        packer.block_after_next()
                    };
                    self.multiply(product, panels, (row, first), next_lhs, per_panel, sums);
                }
                std::mem::swap(&mut current, &mut upcoming);
            }
        });
    }

    /// Multiplies a group of lhs with all panels, and prefetches the next group. A group is given as (row of blocks, first k-block). The
    /// epilogue processes the complete sums of a panel in slices, during the product with the next panel. `per_panel(panel)` is called once
    /// for each panel and returns a block to prefetch.
    fn multiply<'a>(
        &self,
        product: &Product<'a>,
        packed: &PackedPanels,
        (row, first): (usize, usize),
        (next_row, next_first): (usize, usize),
        mut per_panel: impl FnMut(usize) -> Option<&'a [Bf16]>,
        sums: &mut [f32],
    ) {
        let lhs = group(product.lhs, row, first);
        let next = if next_row < self.rows.end && next_first < product.lhs.column_blocks() {
            group(product.lhs, next_row, next_first)
        } else {
            &[]
        };
        let prefetch_len = next.len().div_ceil(self.panels.len()).max(PREFETCH_LEN);
        let k_blocks = lhs.len() / BLOCK;
        let slice_rows = SIDE.div_ceil(k_blocks);
        let finish = |(panel, sums): &mut (usize, &mut [f32; BLOCK]), rows| {
            // SAFETY: only this thread computes this row of blocks in these columns of the result, and ranges of rows are consecutive.
            unsafe {
                product
                    .epilogue
                    .process_rows(row * SIDE, (self.panels.start + *panel) * SIDE, sums, rows)
            };
        };
        // The complete sums that the epilogue processes during the next product.
        let mut complete = None;
        for (panel, sums) in sums.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
            let prefetch = [next.get(panel * prefetch_len..), per_panel(panel)].map(|block| block.unwrap_or(lhs));
            let rhs = packed.group(first, panel);
            product.kernel.gemm_block_interleaved(
                lhs,
                rhs,
                SIDE.min(product.lhs.rows() - row * SIDE),
                k_blocks,
                sums,
                Beta::of_k_block(first),
                prefetch,
                |k_block| {
                    if let Some(block) = &mut complete {
                        finish(
                            block,
                            SIDE.min(k_block * slice_rows)..SIDE.min((k_block + 1) * slice_rows),
                        );
                    }
                },
            );
            if first + KC >= product.lhs.column_blocks() {
                complete = Some((panel, sums));
            }
        }
        if let Some(mut block) = complete {
            finish(&mut block, 0..SIDE);
        }
    }
}

/// Returns the group of k-blocks from `first` on, of a row of blocks of lhs.
fn group(lhs: Blocks<'_>, row: usize, first: usize) -> &[Bf16] {
    &lhs.blocks_from(row, first)[..KC.min(lhs.column_blocks() - first) * BLOCK]
}
