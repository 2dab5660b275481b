//! Products of matrices in blocks, with what follows them done while the sums are in a near cache.
//!
//! Both operands are taken 256 of the inner dimension at a time, so that 32 rows of the left one stay in the first cache. What
//! stays in the second cache depends on what is long. Weights have a short inner dimension: a task brings some columns of
//! them into steps, once, and multiplies every row of the left operand with those; threads that have no columns left help the
//! others with their rows, since threads that share a core, or a machine, are not equally fast. Gradients of weights have a long
//! one, the tokens: a task keeps the sums, and both operands pass by. Every sum is added up in the same order however the work
//! is divided.

use super::blocks::{BLOCK, Blocks, PAIRS, SIDE};
use super::micro_kernel::MicroKernel;
use super::number::Bf16;
use super::rhs::{GROUP, Packer, Panels, Reuse, Rhs, RhsView};

use crate::mat::Beta;
use crate::memory::Scratch;
use rayon::prelude::*;
use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

/// What is done with sums when they are complete.
pub trait Epilogue: Sync {
    /// Rows and columns of the result.
    fn size(&self) -> (usize, usize);

    /// The block that is read with the sums of this place, if there is one: it is fetched before.
    fn read(&self, _row: usize, _column: usize) -> Option<&[Bf16]> {
        None
    }

    /// Takes 32 × 32 sums, of which the first belongs to (`row`, `column`), both multiples of 32, and does what belongs to
    /// 32 rows of the result from `range.start` to `range.end`. Sums outside the result are zero.
    ///
    /// # Safety
    /// The place lies in the result. For each there are calls with ranges from 0 to 32, in order and without gaps.
    unsafe fn rows(&self, row: usize, column: usize, sums: &mut [f32; BLOCK], range: Range<usize>);
}

/// `a · b` handed to the epilogue block by block.
///
/// # Panics
/// If the sizes do not fit, or the machine does not multiply bfloat16.
pub fn gemm(lhs: Blocks, rhs: Rhs, epilogue: &mut dyn Epilogue) {
    let (rows, n) = epilogue.size();
    assert_eq!(rows, lhs.rows(), "rows of the result");
    let (a, b) = (lhs, rhs.source(lhs.columns(), n));
    if a.columns() == 0 {
        return without_products(rows, n, epilogue);
    }
    let plan = Plan::new(a.row_blocks(), n.div_ceil(SIDE), a.column_blocks(), b.kind());
    let epilogue = &*epilogue;
    if !plan.output_stationary {
        return weight_stationary(plan.grid, a, b, epilogue);
    }
    (0..plan.grid.parts()).into_par_iter().for_each(|task| {
        let engine = &MicroKernel::start();
        let work = Work { a, b, engine, epilogue };
        Part::of(plan.grid, task).output_stationary(&work);
    });
}

/// Sums of no products.
fn without_products(rows: usize, columns: usize, epilogue: &dyn Epilogue) {
    let _finishes_stores = MicroKernel::start();
    for row in (0..rows).step_by(SIDE) {
        for column in (0..columns).step_by(SIDE) {
            // SAFETY: a place of the result, and all its rows.
            unsafe { epilogue.rows(row, column, &mut [0.0; BLOCK], 0..SIDE) };
        }
    }
}

/// Packs columns once and multiplies every row of blocks with them, part by part. A thread that finds no part left takes rows of
/// the others' parts.
fn weight_stationary(grid: Grid, a: Blocks, b: RhsView, epilogue: &dyn Epilogue) {
    /// Parts for each thread that are packed in memory of their own. They are few, unless the product is large.
    const AT_ONCE: usize = 2;
    thread_local! {
        /// The steps of these parts. They are taken out meanwhile: while it waits for others, the thread may be asked for another
        /// product.
        static STEPS: Cell<Scratch> = const { Cell::new(Scratch::new()) };
    }
    let threads = rayon::current_num_threads();
    let len = match b.kind() {
        Reuse::Packed => 0,
        _ => grid.wide * a.column_blocks() * BLOCK,
    };
    let mut memory = STEPS.take();
    for first in (0..grid.parts()).step_by(AT_ONCE * threads) {
        let count = (grid.parts() - first).min(AT_ONCE * threads);
        let mut rest = memory.take(count * len);
        let parts: Vec<Shared> = (first..first + count)
            .map(|task| Shared::new(Part::of(grid, task)))
            .collect();
        let own_memory = std::iter::from_fn(|| rest.split_off_mut(..len));
        let queue = Mutex::new(parts.iter().zip(own_memory));
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
        (0..threads).into_par_iter().with_max_len(1).for_each(|_| {
            let engine = &MicroKernel::start();
            let work = Work { a, b, engine, epilogue };
            while let Some((shared, memory)) = next() {
                let pieces = shared
                    .pieces
                    .get_or_init(|| b.pieces(shared.part.panels.clone(), memory));
                shared.multiply(&work, pieces);
            }
            for shared in &parts {
                if let Some(pieces) = shared.worth_help() {
                    shared.multiply(&work, pieces);
                }
            }
        });
    }
    STEPS.set(memory);
}

/// A part whose columns one thread packs and whose rows are taken by any, one by one.
struct Shared<'m> {
    part: Part,
    pieces: OnceLock<Panels<'m>>,
    next_row: AtomicUsize,
}

impl<'m> Shared<'m> {
    fn new(part: Part) -> Self {
        Self {
            pieces: OnceLock::new(),
            next_row: AtomicUsize::new(part.rows.start),
            part,
        }
    }

    /// Its columns, if they are packed and rows enough are left for reading them into another second cache.
    fn worth_help(&self) -> Option<&Panels<'m>> {
        const ROWS: usize = 16;
        let left = self.part.rows.end.saturating_sub(self.next_row.load(Ordering::Relaxed));
        self.pieces.get().filter(|_| left >= ROWS)
    }

    /// Takes rows until there are none left.
    fn multiply(&self, work: &Work, pieces: &Panels) {
        let rows = std::iter::from_fn(|| Some(self.next_row.fetch_add(1, Ordering::Relaxed)));
        let rows = rows.take_while(|row| *row < self.part.rows.end);
        self.part.multiply_rows(work, pieces, rows);
    }
}

/// How a product is divided into tasks. Sizes are counted in blocks.
struct Plan {
    grid: Grid,
    /// Whether sums stay in the second cache, else columns of the right operand.
    output_stationary: bool,
}

impl Plan {
    fn new(rows: usize, panels: usize, depth: usize, b: Reuse) -> Self {
        /// Steps of columns that stay in the second cache: 1.25 MiB.
        const STEPS: usize = 640;
        /// Blocks of sums that do, beside the groups of both operands that pass by: 672 KiB, in at most so many rows.
        const SUMS: usize = 168;
        const SUM_ROWS: usize = 32;
        /// Steps from which few columns fit: 64 of them are 128 KiB each.
        const LONG: usize = 64;
        let threads = rayon::current_num_threads();
        let share = |all: usize, most: usize| all.div_ceil(all.div_ceil(most.max(1)).max(1)).max(1);
        let output_stationary = match b {
            Reuse::Matrix => true,
            Reuse::Packed => depth >= LONG && rows <= SUM_ROWS,
            // It would be packed again for each group of rows, unless there is but one.
            Reuse::Weight { by_rows } => by_rows && depth >= LONG && rows <= 2,
        };
        let (mut rows_per_task, fit) = if output_stationary {
            let rows = share(rows, SUM_ROWS);
            (rows, SUMS / rows)
        } else {
            (rows.max(1), STEPS / depth.max(1))
        };
        // Equal shares for all threads.
        let columns = panels
            .div_ceil(fit.max(1))
            .next_multiple_of(threads)
            .clamp(1, panels.max(1));
        let panels_per_task = share(panels, panels.div_ceil(columns));
        let columns = panels.div_ceil(panels_per_task).max(1);
        // Where there are few columns, rows are divided, too.
        let row_tasks = rows
            .div_ceil(rows_per_task)
            .max(threads.div_ceil(columns))
            .clamp(1, rows.max(1));
        rows_per_task = share(rows, rows.div_ceil(row_tasks));
        let grid = Grid {
            rows,
            columns: panels,
            high: rows_per_task,
            wide: panels_per_task,
        };
        Self {
            grid,
            output_stationary,
        }
    }
}

/// Numbers that a product of a whole group fetches meanwhile: 2 KiB. Eight panels fetch the left operand's next group.
const FETCHED: usize = GROUP * 128;

thread_local! {
    /// The right operand's steps and the sums of the part in work.
    static SCRATCH: RefCell<[Scratch; 2]> = const { RefCell::new([Scratch::new(), Scratch::new()]) };
}

/// Some rows and columns of the result, in blocks.
struct Part {
    rows: Range<usize>,
    panels: Range<usize>,
}

/// What all tasks of a product share, and the calling thread's means.
struct Work<'a> {
    a: Blocks<'a>,
    b: RhsView<'a>,
    engine: &'a MicroKernel,
    epilogue: &'a dyn Epilogue,
}

impl Part {
    fn of(grid: Grid, task: usize) -> Self {
        let (rows, panels) = grid.part(task);
        Self { rows, panels }
    }

    /// Multiplies some of its rows of blocks with its columns, which are packed.
    fn multiply_rows(&self, work: &Work, pieces: &Panels, rows: impl Iterator<Item = usize>) {
        let depth = work.a.column_blocks();
        SCRATCH.with_borrow_mut(|[_, sums]| {
            let sums = sums.take(self.panels.len() * BLOCK);
            for row in rows {
                for first in (0..depth).step_by(GROUP) {
                    let last = first + GROUP >= depth;
                    let next = if last { (row + 1, 0) } else { (row, first + GROUP) };
                    let beside = |panel: usize| {
                        let column = (self.panels.start + panel) * SIDE;
                        last.then(|| work.epilogue.read(row * SIDE, column)).flatten()
                    };
                    self.multiply(work, pieces, (row, first), next, beside, sums);
                }
            }
        });
    }

    /// Takes both operands group by group, and keeps the sums of all its rows and columns. The right operand's next group
    /// is packed meanwhile.
    fn output_stationary(&self, work: &Work) {
        let depth = work.a.column_blocks();
        let b = if self.rows.start > 0 { work.b.unsummed() } else { work.b };
        let packed = b.packed(self.panels.start);
        let group = |first: usize| first.min(depth)..(first + GROUP).min(depth);
        SCRATCH.with_borrow_mut(|[steps, sums]| {
            let row_sums = self.panels.len() * BLOCK;
            let sums = sums.take(self.rows.len() * row_sums);
            let mut packing = packed.is_none().then(|| Packer::new(b, self.panels.clone(), 0));
            let len = packing
                .as_ref()
                .map_or(0, |_| self.panels.len() * GROUP.min(depth) * BLOCK);
            let (mut present, mut coming) = steps.take(2 * len).split_at_mut(len);
            if let Some(packing) = &mut packing {
                packing.advance(usize::MAX, group(0), present);
            }
            for first in (0..depth).step_by(GROUP) {
                let ready = Panels::new(present, self.panels.len(), group(first));
                let pieces = packed.as_ref().unwrap_or(&ready);
                let next = group(first + GROUP);
                // An equal share for each product.
                let pairs = (next.len() * PAIRS).div_ceil(self.rows.len());
                for (row, sums) in self.rows.clone().zip(sums.chunks_exact_mut(row_sums)) {
                    let last = row + 1 == self.rows.end;
                    let next_left = if last {
                        (self.rows.start, next.start)
                    } else {
                        (row + 1, first)
                    };
                    let beside = |_| {
                        let packing = packing.as_mut()?;
                        packing.advance(pairs, next.clone(), coming);
                        packing.ahead()
                    };
                    self.multiply(work, pieces, (row, first), next_left, beside, sums);
                }
                std::mem::swap(&mut present, &mut coming);
            }
        });
    }

    /// Multiplies a group of the left operand, given as row of blocks and first step, with all panels, while the group that
    /// comes `next` is fetched; hands sums that are complete to the epilogue, in slices beside the product with the next
    /// panel. `beside(panel)` does some other work for each panel, and says what is to be fetched, too.
    fn multiply<'a>(
        &self,
        work: &Work<'a>,
        pieces: &Panels,
        (row, first): (usize, usize),
        next: (usize, usize),
        mut beside: impl FnMut(usize) -> Option<&'a [Bf16]>,
        sums: &mut [f32],
    ) {
        let left = group(work.a, row, first);
        let next = if next.0 < self.rows.end && next.1 < work.a.column_blocks() {
            group(work.a, next.0, next.1)
        } else {
            &[]
        };
        let share = next.len().div_ceil(self.panels.len()).max(FETCHED);
        let steps = left.len() / BLOCK;
        let slice = SIDE.div_ceil(steps);
        let finish = |(panel, sums): &mut (usize, &mut [f32; BLOCK]), rows| {
            // SAFETY: this thread alone computes this row of these columns.
            unsafe {
                work.epilogue
                    .rows(row * SIDE, (self.panels.start + *panel) * SIDE, sums, rows)
            };
        };
        // Sums that are complete while the next panel is multiplied.
        let mut complete = None;
        for (panel, sums) in sums.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
            let fetched = [next.get(panel * share..), beside(panel)].map(|next| next.unwrap_or(left));
            let right = pieces.at(first, panel);
            work.engine
                .gemm_block_interleaved(left, right, steps, sums, Beta::of_k_block(first), fetched, |step| {
                    if let Some(block) = &mut complete {
                        finish(block, SIDE.min(step * slice)..SIDE.min((step + 1) * slice));
                    }
                });
            if first + GROUP >= work.a.column_blocks() {
                complete = Some((panel, sums));
            }
        }
        if let Some(mut block) = complete {
            finish(&mut block, 0..SIDE);
        }
    }
}

/// The left operand's steps of one row of blocks from `first`, the first of a group, to the end of that group.
fn group(a: Blocks<'_>, row: usize, first: usize) -> &[Bf16] {
    &a.at(row, first)[..GROUP.min(a.column_blocks() - first) * BLOCK]
}

/// Rows and columns of a result in parts of the same size. All sizes are counted in blocks.
#[derive(Clone, Copy)]
pub(super) struct Grid {
    pub rows: usize,
    pub columns: usize,
    /// Rows and columns of a part, at least one; the last parts may have fewer.
    pub high: usize,
    pub wide: usize,
}

impl Grid {
    /// Number of parts.
    pub fn parts(self) -> usize {
        self.rows.div_ceil(self.high) * self.columns.div_ceil(self.wide)
    }

    /// Rows and columns of a part; those of the same rows follow each other.
    pub fn part(self, i: usize) -> (Range<usize>, Range<usize>) {
        let per_row = self.columns.div_ceil(self.wide);
        let range = |i: usize, size: usize, all: usize| i * size..((i + 1) * size).min(all);
        (
            range(i / per_row, self.high, self.rows),
            range(i % per_row, self.wide, self.columns),
        )
    }
}

#[cfg(test)]
mod tests;
