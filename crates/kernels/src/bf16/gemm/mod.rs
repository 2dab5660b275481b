//! Products of matrices in blocks; an epilogue processes each block of sums while it is in L1.
//!
//! Both operands are taken 256 inner elements at a time (`KC`), so that 32 rows of lhs stay in L1. What stays in L2 depends on
//! the shape. Products with weights have a short inner dimension and are weight-stationary: a task packs some columns of the weight
//! once and multiplies every row of lhs with them; threads without columns left take rows of the others' tasks, since threads that
//! share a core or a machine are not equally fast. Gradients of weights have a long inner dimension, the tokens, and are
//! output-stationary: the sums of a task stay in L2, and both operands stream past. The order of additions does not depend on how
//! the work is divided.

mod plan;
#[cfg(test)]
mod tests;

use super::blocks::{BLOCK, Blocks, PAIRS, SIDE};
use super::micro_kernel::MicroKernel;
use super::number::Bf16;
use super::rhs::{KC, PackedPanels, Packer, Reuse, Rhs, RhsView};
use crate::mat::Beta;
use crate::memory::Scratch;
pub(super) use plan::Grid;
use plan::Plan;
use rayon::prelude::*;
use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

/// What is done with complete sums.
pub trait Epilogue: Sync {
    /// Rows and columns of the result.
    fn size(&self) -> (usize, usize);

    /// The block that [`Epilogue::rows`] reads for the sums at (`row`, `column`), for prefetching; `None` if it reads none.
    fn read(&self, _row: usize, _column: usize) -> Option<&[Bf16]> {
        None
    }

    /// Processes the rows `range` (within 0..32) of a block of sums, whose first element is at (`row`, `column`) of the result,
    /// both multiples of 32. Sums outside the result are zero.
    ///
    /// # Safety
    /// (`row`, `column`) lies in the result, and one thread calls this for each block, with ranges from 0 to 32 in order and without
    /// gaps.
    unsafe fn rows(&self, row: usize, column: usize, sums: &mut [f32; BLOCK], range: Range<usize>);
}

/// Hands `lhs·rhs` to the epilogue block by block. The plain version is [`reference::gemm`](crate::reference::gemm) of the rounded
/// operands.
///
/// # Panics
/// If the sizes do not fit, or the CPU does not multiply bfloat16.
pub fn gemm(lhs: Blocks, rhs: Rhs, epilogue: &mut dyn Epilogue) {
    let (rows, n) = epilogue.size();
    assert_eq!(rows, lhs.rows(), "rows of the result");
    let rhs = rhs.view(lhs.columns(), n);
    if lhs.columns() == 0 {
        return zero_sums(rows, n, epilogue);
    }
    let plan = Plan::new(lhs.row_blocks(), n.div_ceil(SIDE), lhs.column_blocks(), rhs.reuse());
    let epilogue = &*epilogue;
    if !plan.output_stationary {
        return weight_stationary(plan.grid, lhs, rhs, epilogue);
    }
    (0..plan.grid.tasks()).into_par_iter().for_each(|i| {
        let kernel = &MicroKernel::start();
        let product = Product {
            lhs,
            rhs,
            kernel,
            epilogue,
        };
        Task::of(plan.grid, i).output_stationary(&product);
    });
}

/// The product for `k = 0`.
fn zero_sums(rows: usize, columns: usize, epilogue: &dyn Epilogue) {
    let _store_fence = MicroKernel::start();
    for row in (0..rows).step_by(SIDE) {
        for column in (0..columns).step_by(SIDE) {
            // SAFETY: the place lies in the result, and this thread alone processes all rows of the block at once.
            unsafe { epilogue.rows(row, column, &mut [0.0; BLOCK], 0..SIDE) };
        }
    }
}

/// Runs tasks of which each packs its columns once and multiplies all its rows of lhs with them. A thread that finds no task left
/// takes rows of other threads' tasks.
fn weight_stationary(grid: Grid, lhs: Blocks, rhs: RhsView, epilogue: &dyn Epilogue) {
    /// Tasks per thread that have memory for packed columns at a time. Only large products have more.
    const AT_ONCE: usize = 2;
    thread_local! {
        /// Packed columns of these tasks. They are taken out during the product: while this thread waits for others, rayon may run
        /// another product on it.
        static PACKED: Cell<Scratch> = const { Cell::new(Scratch::new()) };
    }
    let threads = rayon::current_num_threads();
    let len = match rhs.reuse() {
        Reuse::Packed => 0,
        _ => grid.nc * lhs.column_blocks() * BLOCK,
    };
    let mut memory = PACKED.take();
    for first in (0..grid.tasks()).step_by(AT_ONCE * threads) {
        let count = (grid.tasks() - first).min(AT_ONCE * threads);
        let mut rest = memory.take(count * len);
        let tasks: Vec<SharedTask> = (first..first + count)
            .map(|i| SharedTask::new(Task::of(grid, i)))
            .collect();
        let own_memory = std::iter::from_fn(|| rest.split_off_mut(..len));
        let queue = Mutex::new(tasks.iter().zip(own_memory));
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
        (0..threads).into_par_iter().with_max_len(1).for_each(|_| {
            let kernel = &MicroKernel::start();
            let product = Product {
                lhs,
                rhs,
                kernel,
                epilogue,
            };
            while let Some((shared, memory)) = next() {
                let packed = shared
                    .packed
                    .get_or_init(|| rhs.packed_panels(shared.task.panels.clone(), memory));
                shared.multiply(&product, packed);
            }
            for shared in &tasks {
                if let Some(packed) = shared.worth_help() {
                    shared.multiply(&product, packed);
                }
            }
        });
    }
    PACKED.set(memory);
}

/// A task whose columns one thread packs and whose rows any thread takes, one by one.
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

    /// The packed columns, if they are complete and enough rows are left to be worth reading them into another L2.
    fn worth_help(&self) -> Option<&PackedPanels<'m>> {
        const ROWS: usize = 16;
        let left = self.task.rows.end.saturating_sub(self.next_row.load(Ordering::Relaxed));
        self.packed.get().filter(|_| left >= ROWS)
    }

    /// Takes rows until none are left.
    fn multiply(&self, product: &Product, packed: &PackedPanels) {
        let rows = std::iter::from_fn(|| Some(self.next_row.fetch_add(1, Ordering::Relaxed)));
        let rows = rows.take_while(|row| *row < self.task.rows.end);
        self.task.multiply_rows(product, packed, rows);
    }
}

/// Elements that the product of a whole group prefetches: 2 KiB. Eight panels prefetch the next group of lhs.
const PREFETCHED: usize = KC * 128;

thread_local! {
    /// Packed rhs and sums of the running task.
    static SCRATCH: RefCell<[Scratch; 2]> = const { RefCell::new([Scratch::new(), Scratch::new()]) };
}

/// Rows and columns of the result, counted in blocks.
struct Task {
    rows: Range<usize>,
    panels: Range<usize>,
}

/// What all tasks of a product share, and the calling thread's micro kernel.
struct Product<'a> {
    lhs: Blocks<'a>,
    rhs: RhsView<'a>,
    kernel: &'a MicroKernel,
    epilogue: &'a dyn Epilogue,
}

impl Task {
    fn of(grid: Grid, i: usize) -> Self {
        let (rows, panels) = grid.task(i);
        Self { rows, panels }
    }

    /// Multiplies some rows of blocks with the task's packed columns.
    fn multiply_rows(&self, product: &Product, packed: &PackedPanels, rows: impl Iterator<Item = usize>) {
        let k_blocks = product.lhs.column_blocks();
        SCRATCH.with_borrow_mut(|[_, sums]| {
            let sums = sums.take(self.panels.len() * BLOCK);
            for row in rows {
                for first in (0..k_blocks).step_by(KC) {
                    let last = first + KC >= k_blocks;
                    let next = if last { (row + 1, 0) } else { (row, first + KC) };
                    let per_panel = |panel: usize| {
                        let column = (self.panels.start + panel) * SIDE;
                        last.then(|| product.epilogue.read(row * SIDE, column)).flatten()
                    };
                    self.multiply(product, packed, (row, first), next, per_panel, sums);
                }
            }
        });
    }

    /// Streams both operands past the sums of the whole task, group by group; the next group of rhs is packed during the products
    /// with the current one.
    fn output_stationary(&self, product: &Product) {
        let k_blocks = product.lhs.column_blocks();
        let rhs = if self.rows.start > 0 {
            product.rhs.without_sums()
        } else {
            product.rhs
        };
        let packed = rhs.already_packed(self.panels.start);
        let group = |first: usize| first.min(k_blocks)..(first + KC).min(k_blocks);
        SCRATCH.with_borrow_mut(|[memory, sums]| {
            let row_sums = self.panels.len() * BLOCK;
            let sums = sums.take(self.rows.len() * row_sums);
            let mut packer = packed.is_none().then(|| Packer::new(rhs, self.panels.clone(), 0));
            let len = packer
                .as_ref()
                .map_or(0, |_| self.panels.len() * KC.min(k_blocks) * BLOCK);
            let (mut current, mut coming) = memory.take(2 * len).split_at_mut(len);
            if let Some(packer) = &mut packer {
                packer.advance(usize::MAX, group(0), current);
            }
            for first in (0..k_blocks).step_by(KC) {
                let ready = PackedPanels::new(current, self.panels.len(), group(first));
                let panels = packed.as_ref().unwrap_or(&ready);
                let next = group(first + KC);
                // An equal share for each product.
                let pairs = (next.len() * PAIRS).div_ceil(self.rows.len());
                for (row, sums) in self.rows.clone().zip(sums.chunks_exact_mut(row_sums)) {
                    let last = row + 1 == self.rows.end;
                    let next_lhs = if last {
                        (self.rows.start, next.start)
                    } else {
                        (row + 1, first)
                    };
                    let per_panel = |_| {
                        let packer = packer.as_mut()?;
                        packer.advance(pairs, next.clone(), coming);
                        packer.block_after_next()
                    };
                    self.multiply(product, panels, (row, first), next_lhs, per_panel, sums);
                }
                std::mem::swap(&mut current, &mut coming);
            }
        });
    }

    /// Multiplies a group of lhs, given as (row of blocks, first k-block), with all panels, and prefetches the group `next`.
    /// Complete sums are handed to the epilogue in slices, during the product with the next panel. `per_panel(panel)` runs once for
    /// each panel and returns what else is to be prefetched.
    fn multiply<'a>(
        &self,
        product: &Product<'a>,
        packed: &PackedPanels,
        (row, first): (usize, usize),
        next: (usize, usize),
        mut per_panel: impl FnMut(usize) -> Option<&'a [Bf16]>,
        sums: &mut [f32],
    ) {
        let lhs = group(product.lhs, row, first);
        let next = if next.0 < self.rows.end && next.1 < product.lhs.column_blocks() {
            group(product.lhs, next.0, next.1)
        } else {
            &[]
        };
        let share = next.len().div_ceil(self.panels.len()).max(PREFETCHED);
        let k_blocks = lhs.len() / BLOCK;
        let slice = SIDE.div_ceil(k_blocks);
        let finish = |(panel, sums): &mut (usize, &mut [f32; BLOCK]), rows| {
            // SAFETY: this thread alone computes this row of blocks in these columns of the result, and slices are in order.
            unsafe {
                product
                    .epilogue
                    .rows(row * SIDE, (self.panels.start + *panel) * SIDE, sums, rows)
            };
        };
        // Complete sums, which are finished during the product with the next panel.
        let mut complete = None;
        for (panel, sums) in sums.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
            let prefetch = [next.get(panel * share..), per_panel(panel)].map(|next| next.unwrap_or(lhs));
            let rhs = packed.at(first, panel);
            product.kernel.gemm_block_interleaved(
                lhs,
                rhs,
                k_blocks,
                sums,
                Beta::of_k_block(first),
                prefetch,
                |k_block| {
                    if let Some(block) = &mut complete {
                        finish(block, SIDE.min(k_block * slice)..SIDE.min((k_block + 1) * slice));
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

/// The group of k-blocks of a row of lhs that begins with `first`.
fn group(lhs: Blocks<'_>, row: usize, first: usize) -> &[Bf16] {
    &lhs.at(row, first)[..KC.min(lhs.column_blocks() - first) * BLOCK]
}
