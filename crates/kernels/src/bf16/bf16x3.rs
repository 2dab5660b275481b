//! Products of f32 matrices on the tile unit, as exact as f32 arithmetic.
//!
//! An f32 number of 24 bits is the sum of three bfloat16 numbers of 8 bits: `a = a₁ + a₂ + a₃`, each the rounded rest of the
//! ones before, so that `|a₂| ≤ 2⁻⁸|a|` and `|a₃| ≤ 2⁻¹⁶|a|`. Of the nine products of the parts of two numbers, six are formed
//! and added up in f32; the other three are below 2⁻²³ of the whole, a rounding error of f32. Six products on the unit are
//! still much faster than one on registers.
//!
//! What differs from f32 arithmetic: subnormal numbers count as zero, and infinite operands (and finite ones that bfloat16
//! rounds to infinity, above 3.39·10³⁸) give results that are no numbers.

use super::blocks::{self, Aligned, BLOCK, SIDE};
use super::gemm::Grid;
use super::micro_kernel::MicroKernel;
use super::number::Bf16;
use super::support::{Support, support};
use crate::mat::{Beta, MatRef};
use crate::memory::Scratch;
use crate::parallel::SharedMut;
use rayon::prelude::*;
use std::cell::{Cell, RefCell};
use std::ops::Range;

/// Numbers of a step of 32: three parts of a block.
pub(super) const K_BLOCK: usize = 3 * BLOCK;

/// The parts that are multiplied, smallest products first.
pub(super) const PRODUCTS: [(usize, usize); 6] = [(2, 0), (1, 0), (1, 1), (0, 1), (0, 0), (0, 2)];

/// Steps that are multiplied together: 12 KiB of each operand's panel stay in the first cache.
const GROUP: usize = 2;

/// Rows and all blocks of sums that a task keeps in the second cache: 960 KiB.
const ROWS: usize = 20;
const SUMS: usize = 240;

/// Whether the machine has the unit and the product is worth bringing into its form.
pub(crate) fn is_faster(rows: usize, columns: usize, inner: usize) -> bool {
    support() == Support::Amx && rows >= 16 && columns >= 16 && inner >= 16
}

thread_local! {
    /// The operands of the product that this thread asked for. They are taken out meanwhile: while it waits for others, the
    /// thread may be asked for another one.
    static OPERANDS: Cell<[Scratch; 2]> = const { Cell::new([Scratch::new(), Scratch::new()]) };
    /// Steps of the right operand, and the sums, of the part in work.
    static PART: RefCell<[Scratch; 2]> = const { RefCell::new([Scratch::new(), Scratch::new()]) };
}

/// `out = keep·out + scale·a·b`; `out` has rows `stride` apart. The work is divided among the threads of the current pool; sums
/// do not depend on how.
///
/// The left operand is brought into steps before, so is the right one if more than two parts need it; else each part brings its
/// columns, which then stay in the second cache.
///
/// # Safety
/// Sizes fit each other, `out` holds the result, and the machine multiplies bfloat16 ([`is_faster`] says where this is fast).
pub(crate) unsafe fn gemm(out: &mut [f32], stride: usize, beta: Beta, scale: f32, a: MatRef, b: MatRef) {
    /// Most bytes of the left operand in steps. Of a larger one, some rows are done after others; and if as many rows as a task
    /// takes are larger, some of the inner dimension.
    const MOST: usize = if cfg!(test) { 1 << 20 } else { 32 << 20 };
    const BYTES: usize = K_BLOCK * size_of::<Bf16>();
    const INNER: usize = MOST / (ROWS * BYTES) * SIDE;
    if a.columns() > INNER {
        for first in (0..a.columns()).step_by(INNER) {
            let inner = first..a.columns().min(first + INNER);
            let (a, b) = (
                a.submatrix(0..a.rows(), inner.clone()),
                b.submatrix(inner, 0..b.columns()),
            );
            // SAFETY: by the contract.
            unsafe { gemm(out, stride, if first > 0 { Beta::One } else { beta }, scale, a, b) };
        }
        return;
    }
    let [rows, columns, depth] = [a.rows(), b.columns(), a.columns()].map(|n| n.div_ceil(SIDE));
    let at_once = (MOST / (depth * BYTES).max(1)).next_multiple_of(ROWS);
    let [mut left_memory, mut right_memory] = OPERANDS.take();
    let right = PackedOrRhs {
        matrix: b,
        depth,
        steps: (rows > 2 * ROWS).then(|| {
            // Memory is read row by row, here and below.
            Steps::bring(
                &mut right_memory,
                columns,
                depth,
                !b.is_row_major(),
                |column, step, out| right_step(b, step, column, out),
            )
        }),
    };
    let out = SharedMut::new(out);
    for first in (0..rows).step_by(at_once) {
        let count = at_once.min(rows - first);
        let left = Steps::bring(&mut left_memory, count, depth, a.is_row_major(), |row, step, out| {
            left_step(a, first + row, step, out)
        });
        let grid = plan(count, columns);
        (0..grid.parts()).into_par_iter().for_each(|task| {
            let (rows, columns) = grid.part(task);
            Part { rows, columns }.run(left, &right, |row, column, sums| {
                let (row, column) = ((first + row) * SIDE, column * SIDE);
                let (high, wide) = (SIDE.min(a.rows() - row), SIDE.min(b.columns() - column));
                // SAFETY: by the contract; parts are apart from each other.
                unsafe { x86::store(out.at(row * stride + column), high, wide, stride, sums, beta, scale) };
            });
        });
    }
    OPERANDS.set([left_memory, right_memory]);
}

/// The right operand, in steps or not.
struct PackedOrRhs<'a> {
    matrix: MatRef<'a>,
    depth: usize,
    steps: Option<Steps<'a>>,
}

impl<'a> PackedOrRhs<'a> {
    /// The steps from `first`, the first of a group, to the end of that group, of some columns; in `memory` if they are not
    /// there yet.
    fn group<'m>(&self, columns: Range<usize>, first: usize, memory: &'m mut [Bf16]) -> &'m [Bf16]
    where
        'a: 'm,
    {
        let count = GROUP.min(self.depth - first);
        if let Some(steps) = self.steps {
            let start = steps.order.place(columns.start, first);
            return &steps.data[start..start + columns.len() * count * K_BLOCK];
        }
        let (out, _) = memory.split_at_mut(columns.len() * count * K_BLOCK);
        for (i, out) in out.chunks_exact_mut(K_BLOCK).enumerate() {
            right_step(self.matrix, first + i % count, columns.start + i / count, out);
        }
        out
    }
}

/// An operand in steps: groups of them, in each of them its rows (or columns) of blocks one after the other.
#[derive(Clone, Copy)]
struct Steps<'a> {
    data: &'a [Bf16],
    order: Order,
}

/// Where steps of so many rows (or columns) lie.
#[derive(Clone, Copy)]
struct Order {
    blocks: usize,
    depth: usize,
}

impl Order {
    fn place(self, block: usize, step: usize) -> usize {
        let first = step / GROUP * GROUP;
        (first * self.blocks + block * GROUP.min(self.depth - first) + step - first) * K_BLOCK
    }
}

impl<'a> Steps<'a> {
    /// So many rows (or columns) of `depth` steps, each as `bring(block, step, out)` writes it; in parallel by blocks, else by
    /// steps.
    fn bring(
        memory: &'a mut Scratch,
        blocks: usize,
        depth: usize,
        by_blocks: bool,
        bring: impl Fn(usize, usize, &mut [Bf16]) + Sync,
    ) -> Self {
        let data = memory.take(blocks * depth * K_BLOCK);
        let out = SharedMut::new(data);
        let order = Order { blocks, depth };
        let (outer, inner) = if by_blocks { (blocks, depth) } else { (depth, blocks) };
        (0..outer).into_par_iter().for_each(|outer| {
            for inner in 0..inner {
                let (block, step) = if by_blocks { (outer, inner) } else { (inner, outer) };
                // SAFETY: each step has a place of its own.
                let out = unsafe { std::slice::from_raw_parts_mut(out.at(order.place(block, step)), K_BLOCK) };
                bring(block, step, out);
            }
        });
        Self { data, order }
    }

    /// The steps of a row (or column) from `first`, the first of a group, to the end of that group.
    fn group(&self, block: usize, first: usize) -> &'a [Bf16] {
        let count = GROUP.min(self.order.depth - first);
        &self.data[self.order.place(block, first)..][..count * K_BLOCK]
    }
}

/// How a product of so many rows and columns of blocks is divided into tasks.
fn plan(rows: usize, columns: usize) -> Grid {
    let share = |all: usize, parts: usize| all.div_ceil(parts.clamp(1, all.max(1))).max(1);
    let high = share(rows, rows.div_ceil(ROWS));
    let row_parts = rows.div_ceil(high).max(1);
    // Threads need equal shares.
    let parts = (row_parts * columns.div_ceil(SUMS / high)).next_multiple_of(rayon::current_num_threads());
    Grid {
        rows,
        columns,
        high,
        wide: share(columns, parts.div_ceil(row_parts)),
    }
}

/// Some rows and columns of the result, in blocks.
struct Part {
    rows: Range<usize>,
    columns: Range<usize>,
}

impl Part {
    /// Hands the sums of each block to `done(row, column, sums)`.
    fn run(&self, left: Steps, right: &PackedOrRhs, done: impl Fn(usize, usize, &[f32])) {
        let engine = MicroKernel::start();
        PART.with_borrow_mut(|[steps, sums]| {
            let steps = steps.take(self.columns.len() * GROUP * K_BLOCK);
            let sums = sums.take::<f32>(self.rows.len() * self.columns.len() * BLOCK);
            for first in (0..left.order.depth).step_by(GROUP) {
                let last = first + GROUP >= left.order.depth;
                let right = right.group(self.columns.clone(), first, steps);
                for (row, sums) in self.rows.clone().zip(sums.chunks_exact_mut(self.columns.len() * BLOCK)) {
                    let left = left.group(row, first);
                    let panels = right.chunks_exact(left.len()).zip(sums.chunks_exact_mut(BLOCK));
                    for (column, (right, sums)) in self.columns.clone().zip(panels) {
                        engine.gemm_block_bf16x3(left, right, sums, Beta::of_k_block(first));
                        if last {
                            done(row, column, sums);
                        }
                    }
                }
            }
        });
    }
}

/// Block (`row`, `column`) of `a` as left operand.
fn left_step(a: MatRef, row: usize, column: usize, out: &mut [Bf16]) {
    if a.is_row_major() {
        // SAFETY: `out` is a step at a cache line.
        unsafe { split(a, row, column, out.as_mut_ptr()) };
        return;
    }
    let mut parts = [0; 3].map(|_| Aligned::default());
    // SAFETY: three blocks, one after the other; `out` is a step at a cache line; the machine has the instructions.
    unsafe {
        split(a.transposed(), column, row, parts.as_mut_ptr().cast());
        for (part, out) in parts.iter().zip(out.chunks_exact_mut(BLOCK)) {
            blocks::transpose_block(part.0.as_ptr(), out.as_mut_ptr());
        }
    }
}

/// Block (`row`, `column`) of `b` as right operand.
fn right_step(b: MatRef, row: usize, column: usize, out: &mut [Bf16]) {
    let mut parts = [0; 3].map(|_| Aligned::default());
    // SAFETY: as in `left_step`.
    unsafe {
        if b.is_row_major() {
            split(b, row, column, parts.as_mut_ptr().cast());
        } else {
            split(b.transposed(), column, row, parts.as_mut_ptr().cast());
        }
        for (part, out) in parts.iter().zip(out.chunks_exact_mut(BLOCK)) {
            if b.is_row_major() {
                blocks::step_of_rows(part.0.as_ptr(), 0..blocks::PAIRS, out.as_mut_ptr());
            } else {
                blocks::step_of_columns(part.0.as_ptr(), out.as_mut_ptr());
            }
        }
    }
}

/// The three parts of block (`row`, `column`) of a row-major matrix, one after the other, zero beyond its edges.
///
/// # Safety
/// `out` has room for three blocks at a cache line; the machine has the instructions.
unsafe fn split(x: MatRef, row: usize, column: usize, out: *mut Bf16) {
    let (rows, columns) = (SIDE.min(x.rows() - row * SIDE), SIDE.min(x.columns() - column * SIDE));
    let (values, stride) = x.from(row * SIDE, column * SIDE);
    // SAFETY: the view holds these rows and columns; for the rest by the contract.
    unsafe { x86::split(values.as_ptr(), rows, columns, stride, out) };
}

mod x86 {
    use super::super::avx512::{round2, widen};
    use super::super::blocks::masks;
    use super::{BLOCK, Beta, Bf16, SIDE};
    use std::arch::x86_64::*;

    /// # Safety
    /// `x` holds `rows` rows of `columns` values (at most 32 of each) `stride` apart; `out` three blocks at a cache line.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub unsafe fn split(x: *const f32, rows: usize, columns: usize, stride: usize, out: *mut Bf16) {
        let masks = masks(columns);
        for r in 0..SIDE {
            // SAFETY: masked-out addresses are not touched; the others are inside by the contract.
            unsafe {
                let mut rest = [_mm512_setzero_ps(); 2];
                if r < rows {
                    let row = x.add(r * stride);
                    rest = [
                        _mm512_maskz_loadu_ps(masks[0], row),
                        _mm512_maskz_loadu_ps(masks[1], row.wrapping_add(16)),
                    ];
                }
                for part in 0..3 {
                    let rounded = round2(rest[0], rest[1]);
                    let values = widen(rounded);
                    rest = [_mm512_sub_ps(rest[0], values[0]), _mm512_sub_ps(rest[1], values[1])];
                    _mm512_store_si512(out.add(part * BLOCK + r * SIDE).cast(), rounded);
                }
            }
        }
    }

    /// `out = keep·out + scale·sums` for a block.
    ///
    /// # Safety
    /// `out` holds `rows` rows of `columns` values (at most 32 of each) `stride` apart; `sums` is a block.
    #[target_feature(enable = "avx512f")]
    pub unsafe fn store(
        out: *mut f32,
        rows: usize,
        columns: usize,
        stride: usize,
        sums: &[f32],
        beta: Beta,
        scale: f32,
    ) {
        let scale = _mm512_set1_ps(scale);
        for (half, mask) in [0, 16].into_iter().zip(masks(columns)) {
            for r in 0..rows {
                // SAFETY: masked-out addresses are not touched; the others are inside by the contract.
                unsafe {
                    let out = out.wrapping_add(r * stride + half);
                    let sums = _mm512_loadu_ps(sums.as_ptr().add(r * SIDE + half));
                    let values = if beta == Beta::One {
                        _mm512_fmadd_ps(sums, scale, _mm512_maskz_loadu_ps(mask, out))
                    } else {
                        _mm512_mul_ps(sums, scale)
                    };
                    _mm512_mask_storeu_ps(out, mask, values);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Numbers of very different sizes with all bits in use.
    fn values(n: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as f32 / (1u64 << 31) as f32 * 2.0 - 1.0
        };
        (0..n).map(|_| next() * (10.0f32).powi((next() * 4.0) as i32)).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn is_as_exact_as_f32(
            m in 1usize..100, n in 1usize..100, k in 1usize..300, ta: bool, tb: bool, add: bool, threads in 1usize..4,
        ) {
            if support() == Support::None {
                return Ok(());
            }
            let (a, b, before) = (values(m * k, 1), values(k * n, 2), values(m * n, 3));
            let va = if ta { MatRef::new(&a, k, m, m).transposed() } else { MatRef::new(&a, m, k, k) };
            let vb = if tb { MatRef::new(&b, n, k, k).transposed() } else { MatRef::new(&b, k, n, n) };
            let mut out = before.clone();
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
            // SAFETY: sizes fit.
            pool.install(|| unsafe { gemm(&mut out, n, if add { Beta::One } else { Beta::Zero }, 0.5, va, vb) });
            for r in 0..m {
                for c in 0..n {
                    let (mut want, mut size) = (0f64, 0f64);
                    for i in 0..k {
                        let x = if ta { a[i * m + r] } else { a[r * k + i] };
                        let y = if tb { b[c * k + i] } else { b[i * n + c] };
                        want += x as f64 * y as f64;
                        size += (x as f64 * y as f64).abs();
                    }
                    let old = if add { before[r * n + c] as f64 } else { 0.0 };
                    let want = 0.5 * want + old;
                    // What sums of k products in f32 may lose, and the rounding of the result.
                    let bound = (k as f64).sqrt() * f32::EPSILON as f64 * (size + old.abs());
                    prop_assert!((out[r * n + c] as f64 - want).abs() <= bound, "{} {want} {bound}", out[r * n + c]);
                }
            }
        }
    }

    #[test]
    fn large_products_in_several_parts() {
        if support() == Support::None {
            return;
        }
        // Few rows, many, more than are done at once, and more of the inner dimension.
        for (m, n, k) in [(600, 1100, 70), (1400, 40, 70), (2600, 40, 70), (40, 50, 6001)] {
            let (a, b) = (vec![1.0f32; m * k], vec![2.0f32; k * n]);
            for (a, b) in [
                (MatRef::new(&a, m, k, k), MatRef::new(&b, k, n, n)),
                (
                    MatRef::new(&a, k, m, m).transposed(),
                    MatRef::new(&b, n, k, k).transposed(),
                ),
            ] {
                let mut out = vec![f32::NAN; m * n];
                // SAFETY: sizes fit.
                unsafe { gemm(&mut out, n, Beta::Zero, 1.0, a, b) };
                assert!(out.iter().all(|v| *v == 2.0 * k as f32));
            }
        }
    }
}
