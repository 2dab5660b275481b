//! Products of matrices in blocks, with what follows them done while the sums are in a near cache.
//!
//! Both operands are taken 256 of the inner dimension at a time, so that 32 rows of the left one stay in the first cache. What
//! stays in the second cache depends on what is long. Weights have a short inner dimension: a task brings some columns of
//! them into steps, once, and multiplies every row of the left operand with those; threads that have no columns left help the
//! others with their rows, since threads that share a core, or a machine, are not equally fast. Gradients of weights have a long
//! one, the tokens: a task keeps the sums, and both operands pass by. Every sum is added up in the same order however the work
//! is divided.

use super::blocks::{BLOCK, Blocks, PAIRS, SIDE};
use super::grid::Grid;
use super::kernel::Engine;
pub use super::right::Packed;
use super::right::{GROUP, Kind, Packing, Pieces, Source};
use super::{Bf16, Right};
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
pub fn gemm(a: Blocks, b: Right, epilogue: &mut dyn Epilogue) {
    let (rows, n) = epilogue.size();
    assert_eq!(rows, a.rows(), "rows of the result");
    let b = b.source(a.columns(), n);
    if a.columns() == 0 {
        return without_products(rows, n, epilogue);
    }
    let plan = Plan::new(a.row_blocks(), n.div_ceil(SIDE), a.column_blocks(), b.kind());
    let epilogue = &*epilogue;
    if !plan.sums_at_hand {
        return with_columns_at_hand(plan.grid, a, b, epilogue);
    }
    (0..plan.grid.parts()).into_par_iter().for_each(|task| {
        let engine = &Engine::start();
        let work = Work { a, b, engine, epilogue };
        Part::of(plan.grid, task).with_sums_at_hand(&work);
    });
}

/// Sums of no products.
fn without_products(rows: usize, columns: usize, epilogue: &dyn Epilogue) {
    let _finishes_stores = Engine::start();
    for row in (0..rows).step_by(SIDE) {
        for column in (0..columns).step_by(SIDE) {
            // SAFETY: a place of the result, and all its rows.
            unsafe { epilogue.rows(row, column, &mut [0.0; BLOCK], 0..SIDE) };
        }
    }
}

/// Packs columns once and multiplies every row of blocks with them, part by part. A thread that finds no part left takes rows of
/// the others' parts.
fn with_columns_at_hand(grid: Grid, a: Blocks, b: Source, epilogue: &dyn Epilogue) {
    /// Parts for each thread that are packed in memory of their own. They are few, unless the product is large.
    const AT_ONCE: usize = 2;
    thread_local! {
        /// The steps of these parts. They are taken out meanwhile: while it waits for others, the thread may be asked for another
        /// product.
        static STEPS: Cell<Scratch> = const { Cell::new(Scratch::new()) };
    }
    let threads = rayon::current_num_threads();
    let len = match b.kind() {
        Kind::Packed => 0,
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
            let engine = &Engine::start();
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
    pieces: OnceLock<Pieces<'m>>,
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
    fn worth_help(&self) -> Option<&Pieces<'m>> {
        const ROWS: usize = 16;
        let left = self.part.rows.end.saturating_sub(self.next_row.load(Ordering::Relaxed));
        self.pieces.get().filter(|_| left >= ROWS)
    }

    /// Takes rows until there are none left.
    fn multiply(&self, work: &Work, pieces: &Pieces) {
        let rows = std::iter::from_fn(|| Some(self.next_row.fetch_add(1, Ordering::Relaxed)));
        let rows = rows.take_while(|row| *row < self.part.rows.end);
        self.part.multiply_rows(work, pieces, rows);
    }
}

/// How a product is divided into tasks. Sizes are counted in blocks.
struct Plan {
    grid: Grid,
    /// Whether sums stay in the second cache, else columns of the right operand.
    sums_at_hand: bool,
}

impl Plan {
    fn new(rows: usize, panels: usize, depth: usize, b: Kind) -> Self {
        /// Steps of columns that stay in the second cache: 1.25 MiB.
        const STEPS: usize = 640;
        /// Blocks of sums that do, beside the groups of both operands that pass by: 672 KiB, in at most so many rows.
        const SUMS: usize = 168;
        const SUM_ROWS: usize = 32;
        /// Steps from which few columns fit: 64 of them are 128 KiB each.
        const LONG: usize = 64;
        let threads = rayon::current_num_threads();
        let share = |all: usize, most: usize| all.div_ceil(all.div_ceil(most.max(1)).max(1)).max(1);
        let sums_at_hand = match b {
            Kind::Matrix => true,
            Kind::Packed => depth >= LONG && rows <= SUM_ROWS,
            // It would be packed again for each group of rows, unless there is but one.
            Kind::Weight { by_rows } => by_rows && depth >= LONG && rows <= 2,
        };
        let (mut rows_per_task, fit) = if sums_at_hand {
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
        Self { grid, sums_at_hand }
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
    b: Source<'a>,
    engine: &'a Engine,
    epilogue: &'a dyn Epilogue,
}

impl Part {
    fn of(grid: Grid, task: usize) -> Self {
        let (rows, panels) = grid.part(task);
        Self { rows, panels }
    }

    /// Multiplies some of its rows of blocks with its columns, which are packed.
    fn multiply_rows(&self, work: &Work, pieces: &Pieces, rows: impl Iterator<Item = usize>) {
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
    fn with_sums_at_hand(&self, work: &Work) {
        let depth = work.a.column_blocks();
        let b = if self.rows.start > 0 { work.b.unsummed() } else { work.b };
        let packed = b.packed(self.panels.start);
        let group = |first: usize| first.min(depth)..(first + GROUP).min(depth);
        SCRATCH.with_borrow_mut(|[steps, sums]| {
            let row_sums = self.panels.len() * BLOCK;
            let sums = sums.take(self.rows.len() * row_sums);
            let mut packing = packed.is_none().then(|| Packing::new(b, self.panels.clone(), 0));
            let len = packing
                .as_ref()
                .map_or(0, |_| self.panels.len() * GROUP.min(depth) * BLOCK);
            let (mut present, mut coming) = steps.take(2 * len).split_at_mut(len);
            if let Some(packing) = &mut packing {
                packing.advance(usize::MAX, group(0), present);
            }
            for first in (0..depth).step_by(GROUP) {
                let ready = Pieces::new(present, self.panels.len(), group(first));
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
        pieces: &Pieces,
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
                .multiply_beside(left, right, steps, sums, first > 0, fetched, |step| {
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

#[cfg(test)]
mod tests {
    use super::super::epilogue::{Gelu, GeluGradient, Round, Store, StoreTransposed};
    use super::super::{Support, blocks, support, vectors};
    use super::*;
    use crate::aligned::AlignedVec;
    use proptest::prelude::*;

    /// Small whole numbers: their products and sums are exact in both formats.
    fn values(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| (((i + seed) * 7919) % 7) as f32 - 3.0).collect()
    }

    struct Matrix {
        memory: AlignedVec<Bf16>,
        rows: usize,
        columns: usize,
    }

    impl Matrix {
        fn new(x: &[f32], rows: usize, columns: usize) -> Self {
            let mut memory = AlignedVec::zeroed(blocks::len(rows, columns));
            blocks::from_f32(x, rows, columns, memory.as_mut_slice());
            Self { memory, rows, columns }
        }

        fn zeros(rows: usize, columns: usize) -> Self {
            Self::new(&vec![0.0; rows * columns], rows, columns)
        }

        fn blocks(&self) -> Blocks<'_> {
            Blocks::new(self.memory.as_slice(), self.rows, self.columns)
        }

        fn values(&self) -> Vec<f32> {
            let mut out = vec![0f32; self.rows * self.columns];
            blocks::to_f32(self.blocks(), &mut out);
            out
        }
    }

    fn turned(x: &[f32], rows: usize, columns: usize) -> Vec<f32> {
        (0..rows * columns).map(|i| x[i % rows * columns + i / rows]).collect()
    }

    /// The same right operand in each of its forms.
    fn all_forms<'a>(b: &'a [f32], turned: &'a [f32], blocks: &'a Matrix, packed: &'a Packed) -> [Right<'a>; 4] {
        [
            Right::Weight(b),
            Right::WeightTransposed(turned),
            Right::Blocks(blocks.blocks()),
            Right::Packed(packed),
        ]
    }

    fn plain(a: &[f32], b: &[f32], m: usize, n: usize, k: usize) -> Vec<f32> {
        (0..m * n)
            .map(|i| (0..k).map(|p| a[i / n * k + p] * b[p * n + i % n]).sum())
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn equals_the_plain_product(m in 1usize..90, n in 1usize..90, k in 1usize..400, threads in 1usize..4, add: bool) {
            if support() == Support::None {
                return Ok(());
            }
            let (a, b, before) = (values(m * k, 1), values(k * n, 2), values(m * n, 3));
            let want = plain(&a, &b, m, n, k);
            let b_turned = turned(&b, k, n);
            let (left, right) = (Matrix::new(&a, m, k), Matrix::new(&b, k, n));
            let packed = Packed::transposed(&b_turned, n, k);
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
            for right in all_forms(&b, &b_turned, &right, &packed) {
                let mut out = before.clone();
                pool.install(|| gemm(left.blocks(), right, &mut Store::new(&mut out, n, add)));
                for (i, got) in out.iter().enumerate() {
                    prop_assert_eq!(*got, want[i] + if add { before[i] } else { 0.0 });
                }
            }
            let mut out = vec![f32::NAN; m * n];
            gemm(left.blocks(), Right::Weight(&b), &mut StoreTransposed::new(&mut out, m, n, false));
            prop_assert_eq!(out, turned(&want, m, n));
        }
    }

    #[test]
    fn without_an_inner_dimension_sums_are_zero() {
        if support() == Support::None {
            return;
        }
        let (m, n) = (40, 70);
        let (left, right) = (Matrix::zeros(m, 0), Matrix::zeros(0, n));
        let packed = Packed::transposed(&[], n, 0);
        for right in all_forms(&[], &[], &right, &packed) {
            let mut out = vec![f32::NAN; m * n];
            gemm(left.blocks(), right, &mut Store::new(&mut out, n, false));
            assert!(out.iter().all(|v| *v == 0.0));
        }
    }

    #[test]
    fn a_long_inner_dimension_is_summed_whole() {
        if support() == Support::None {
            return;
        }
        let (m, n, k) = (40, 70, 32 * 150 + 5);
        let (a, b) = (values(m * k, 1), values(k * n, 2));
        let (left, right, b_turned) = (Matrix::new(&a, m, k), Matrix::new(&b, k, n), turned(&b, k, n));
        let packed = Packed::transposed(&b_turned, n, k);
        let want = plain(&a, &b, m, n, k);
        for right in all_forms(&b, &b_turned, &right, &packed) {
            let mut out = vec![1f32; m * n];
            gemm(left.blocks(), right, &mut Store::new(&mut out, n, true));
            assert!(out.iter().zip(&want).all(|(got, want)| *got == want + 1.0));
        }
    }

    #[test]
    fn threads_help_each_other_with_many_rows() {
        if support() == Support::None {
            return;
        }
        // Many rows for few columns: three threads share parts of them, and take rows from each other.
        let (m, n, k) = (32 * 100 + 3, 32 * 5, 40);
        let (a, b) = (values(m * k, 1), values(k * n, 2));
        let (left, b_turned, want) = (Matrix::new(&a, m, k), turned(&b, k, n), plain(&a, &b, m, n, k));
        let packed = Packed::transposed(&b_turned, n, k);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("threads");
        for right in [
            Right::Weight(&b),
            Right::WeightTransposed(&b_turned),
            Right::Packed(&packed),
        ] {
            let mut out = vec![f32::NAN; m * n];
            pool.install(|| gemm(left.blocks(), right, &mut Store::new(&mut out, n, false)));
            assert!(out == want);
        }
    }

    #[test]
    fn the_kernel_on_registers_multiplies_the_same() {
        if support() == Support::None {
            return;
        }
        let (m, n, k) = (32, 32, 100);
        let (a, b) = (values(m * k, 1), values(k * n, 2));
        let (left, mut memory) = (Matrix::new(&a, m, k), Scratch::new());
        let steps = Right::Weight(&b).source(k, n).pieces(0..1, memory.take(4 * BLOCK));
        let mut sums = vec![1f32; BLOCK];
        let (left, steps) = (left.blocks().at(0, 0).as_ptr(), steps.at(0, 0).as_ptr());
        // SAFETY: four steps each; the machine has AVX-512 with bfloat16, else `support` finds nothing.
        unsafe { vectors::multiply(left, steps, 4, sums.as_mut_ptr(), true, [left; 2]) };
        let want = plain(&a, &b, m, n, k);
        assert!(sums.iter().zip(&want).all(|(s, w)| *s == w + 1.0));
    }

    #[test]
    fn epilogues_do_what_they_say() {
        if support() == Support::None {
            return;
        }
        let (m, n, k) = (45, 50, 64);
        let scaled = |n, seed| -> Vec<f32> { values(n, seed).iter().map(|v| v * 0.25).collect() };
        let (a, b, bias, residual) = (scaled(m * k, 1), scaled(k * n, 2), scaled(n, 3), scaled(m * n, 4));
        let sums = plain(&a, &b, m, n, k);
        let left = Matrix::new(&a, m, k);
        let mut out = vec![f32::NAN; m * n];
        let mut store = Store::new(&mut out, n, false)
            .bias(Some(&bias))
            .residual(Some(&residual));
        gemm(left.blocks(), Right::Weight(&b), &mut store);
        for i in 0..m * n {
            assert_eq!(out[i], sums[i] + bias[i % n] + residual[i]);
        }
        let close =
            |got: f32, want: f32| assert!((got - want).abs() <= Bf16::EPSILON * want.abs() + 3e-4, "{got} {want}");
        let mut rounded = Matrix::zeros(m, n);
        gemm(
            left.blocks(),
            Right::Weight(&b),
            &mut Round::new(rounded.memory.as_mut_slice(), m, n, Some(&bias)),
        );
        rounded
            .values()
            .iter()
            .enumerate()
            .for_each(|(i, v)| close(*v, sums[i] + bias[i % n]));
        let [mut hidden, mut active, mut d_hidden] = [0; 3].map(|_| Matrix::zeros(m, n));
        let mut gelu = Gelu::new(
            Some(hidden.memory.as_mut_slice()),
            active.memory.as_mut_slice(),
            m,
            &bias,
        );
        gemm(left.blocks(), Right::Weight(&b), &mut gelu);
        let x: Vec<f32> = sums.iter().enumerate().map(|(i, s)| s + bias[i % n]).collect();
        let mut want = vec![0f32; m * n];
        crate::gelu::forward(&x, &mut want);
        active.values().iter().zip(&want).for_each(|(g, w)| close(*g, *w));
        let x = hidden.values();
        let mut gradient = GeluGradient::new(hidden.blocks(), d_hidden.memory.as_mut_slice());
        gemm(left.blocks(), Right::Weight(&b), &mut gradient);
        let mut want = sums.clone();
        crate::gelu::backward_in_place(&x, &mut want);
        for (i, got) in d_hidden.values().iter().enumerate() {
            let bound = Bf16::EPSILON * want[i].abs() + 1e-3 * sums[i].abs() + 1e-4;
            assert!((got - want[i]).abs() <= bound, "{got} {}", want[i]);
        }
        // What lies beyond the edge is zero: it is multiplied in the next product.
        for matrix in [rounded, hidden, active, d_hidden] {
            let beyond = matrix.memory.as_slice()[..blocks::len(m, n)]
                .iter()
                .enumerate()
                .filter(|(i, _)| {
                    let (block, inside) = (i / BLOCK, i % BLOCK);
                    block / 2 * SIDE + inside / SIDE >= m || block % 2 * SIDE + inside % SIDE >= n
                });
            assert!(beyond.into_iter().all(|(_, v)| v.to_f32() == 0.0));
        }
    }

    #[test]
    fn right_operands_are_changed_and_summed_on_the_way() {
        if support() == Support::None {
            return;
        }
        let (m, n, k) = (40, 70, 300);
        let (a, b) = (values(m * k, 1), values(k * n, 2));
        let (left, right) = (Matrix::new(&a, m, k), Matrix::new(&b, k, n));
        let (mut out, mut sums) = (vec![0f32; m * n], vec![1f32; n]);
        let summed = Right::Summed(right.blocks(), &mut sums);
        gemm(left.blocks(), summed, &mut Store::new(&mut out, n, false));
        assert_eq!(out, plain(&a, &b, m, n, k));
        for (c, sum) in sums.iter().enumerate() {
            assert_eq!(*sum, 1.0 + (0..k).map(|r| b[r * n + c]).sum::<f32>());
        }
        gemm(
            left.blocks(),
            Right::Gelu(right.blocks()),
            &mut Store::new(&mut out, n, false),
        );
        let mut active = vec![0f32; b.len()];
        crate::gelu::forward(&b, &mut active);
        for (got, want) in out.iter().zip(plain(&a, &active, m, n, k)) {
            assert!(
                (got - want).abs() < 4.0 * Bf16::EPSILON * (k as f32).sqrt(),
                "{got} {want}"
            );
        }
    }
}
