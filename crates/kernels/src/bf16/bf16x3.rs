//! Products of f32 matrices on AMX, as accurate as f32 arithmetic.
//!
//! bf16x3 is the name of oneMKL (`float_to_bf16x3`) and XLA (`BF16_BF16_F32_X3`) for this method (Henry et al. 2019,
//! [arXiv:1904.06376](https://arxiv.org/abs/1904.06376)). An f32 number with its 24 bits is the sum of three bfloat16 numbers with
//! 8 bits: `a = a₁ + a₂ + a₃`, each the rounded rest of those before, so that `|a₂| ≤ 2⁻⁸|a|` and `|a₃| ≤ 2⁻¹⁶|a|`. Of the nine
//! products of the parts of two numbers, six are formed and added up in f32; the other three are below 2⁻²³ of the whole, a rounding
//! error of f32. Six products on AMX are still much faster than one on registers.
//!
//! Results differ from f32 arithmetic in that subnormal numbers count as zero, and infinite operands (and finite ones that bfloat16
//! rounds to infinity, above 3.39·10³⁸) give NaN.

use super::blocks::{self, Aligned, BLOCK, SIDE};
use super::engine::{BF16X3_BLOCK, Engine, engine};
use super::gemm::Grid;
use super::micro_kernel::MicroKernel;
use super::number::Bf16;
use super::registers::{for_registers, masks};
use crate::mat::{Beta, MatRef};
use crate::memory::Scratch;
use crate::parallel::SharedMut;
use rayon::prelude::*;
use std::cell::{Cell, RefCell};
use std::ops::Range;

/// `kc` in k-blocks: 12 KiB of each operand's panel stay in L1.
const KC: usize = 2;

/// Rows of blocks, and all blocks of sums, that a task keeps in L2: 960 KiB.
const ROWS: usize = 20;
const SUMS: usize = 240;

/// Whether the CPU has AMX and the product `[m, k]·[k, n]` is large enough for packing to pay off. Tests at level `portable` take this
/// path as well.
pub(crate) fn is_faster(m: usize, n: usize, k: usize) -> bool {
    #[cfg(any(test, feature = "test-level"))]
    let wanted = vlct_simd::forced_level() == Some(vlct_simd::Level::Portable);
    #[cfg(not(any(test, feature = "test-level")))]
    let wanted = false;
    (wanted || engine() == Some(Engine::Amx)) && m.min(n).min(k) >= 16
}

thread_local! {
    /// Packed operands of the product that this thread has called for. They are taken out during the product: while the thread
    /// waits for others, rayon may run another product on it.
    static OPERANDS: Cell<[Scratch; 2]> = const { Cell::new([Scratch::new(), Scratch::new()]) };
    /// Packed rhs and sums of the running task.
    static TASK: RefCell<[Scratch; 2]> = const { RefCell::new([Scratch::new(), Scratch::new()]) };
}

/// `dst = β·dst + alpha·lhs·rhs`, where `dst` has rows `dst_stride` apart. The order of additions does not depend on how the work is
/// divided among the threads of the current pool.
///
/// Packs lhs once. Packs rhs once if more than two tasks use it; otherwise each task packs its columns, which then stay in L2.
///
/// # Safety
/// The sizes fit each other, `dst` holds the result, and there is an [`engine`].
pub(crate) unsafe fn gemm(dst: &mut [f32], dst_stride: usize, beta: Beta, alpha: f32, lhs: MatRef, rhs: MatRef) {
    /// Most bytes of packed lhs. The rows of a larger one are processed in portions, and if the rows of a single task are larger,
    /// the inner dimension is too.
    const MAX_LHS: usize = if cfg!(test) { 1 << 20 } else { 32 << 20 };
    const BYTES: usize = BF16X3_BLOCK * size_of::<Bf16>();
    const MAX_K: usize = MAX_LHS / (ROWS * BYTES) * SIDE;
    if lhs.columns() > MAX_K {
        for first in (0..lhs.columns()).step_by(MAX_K) {
            let k = first..lhs.columns().min(first + MAX_K);
            let lhs = lhs.submatrix(0..lhs.rows(), k.clone());
            let rhs = rhs.submatrix(k, 0..rhs.columns());
            let beta = if first == 0 { beta } else { Beta::One };
            // SAFETY: the requirements hold for parts of the operands, too.
            unsafe { gemm(dst, dst_stride, beta, alpha, lhs, rhs) };
        }
        return;
    }
    let [rows, columns, k_blocks] = [lhs.rows(), rhs.columns(), lhs.columns()].map(|n| n.div_ceil(SIDE));
    let at_once = (MAX_LHS / (k_blocks * BYTES).max(1)).next_multiple_of(ROWS);
    let [mut lhs_memory, mut rhs_memory] = OPERANDS.take();
    let packed_rhs = Rhs {
        matrix: rhs,
        k_blocks,
        packed: (rows > 2 * ROWS).then(|| {
            // The matrix is read row by row, here and below.
            Packed::pack(
                &mut rhs_memory,
                columns,
                k_blocks,
                !rhs.is_row_major(),
                |column, k_block, out| pack_rhs(rhs, k_block, column, out),
            )
        }),
    };
    let dst = SharedMut::new(dst);
    for first in (0..rows).step_by(at_once) {
        let count = at_once.min(rows - first);
        let packed_lhs = Packed::pack(
            &mut lhs_memory,
            count,
            k_blocks,
            lhs.is_row_major(),
            |row, k_block, out| pack_lhs(lhs, first + row, k_block, out),
        );
        let grid = plan(count, columns);
        (0..grid.tasks()).into_par_iter().for_each(|i| {
            let (rows, columns) = grid.task(i);
            Task { rows, columns }.run(packed_lhs, &packed_rhs, |row, column, sums| {
                let (row, column) = ((first + row) * SIDE, column * SIDE);
                let (m, n) = (SIDE.min(lhs.rows() - row), SIDE.min(rhs.columns() - column));
                // SAFETY: `dst` holds the result (caller), tasks write different blocks of it, and there is an engine.
                unsafe { store(dst.at(row * dst_stride + column), m, n, dst_stride, sums, beta, alpha) };
            });
        });
    }
    OPERANDS.set([lhs_memory, rhs_memory]);
}

/// The rhs, packed as a whole or not.
struct Rhs<'a> {
    matrix: MatRef<'a>,
    k_blocks: usize,
    packed: Option<Packed<'a>>,
}

impl<'a> Rhs<'a> {
    /// The group of k-blocks that begins with `first`, of some columns; packed into `memory` unless the whole rhs is packed.
    fn group<'m>(&self, columns: Range<usize>, first: usize, memory: &'m mut [Bf16]) -> &'m [Bf16]
    where
        'a: 'm,
    {
        let count = KC.min(self.k_blocks - first);
        if let Some(packed) = self.packed {
            let start = packed.order.offset(columns.start, first);
            return &packed.data[start..start + columns.len() * count * BF16X3_BLOCK];
        }
        let (out, _) = memory.split_at_mut(columns.len() * count * BF16X3_BLOCK);
        for (i, out) in out.chunks_exact_mut(BF16X3_BLOCK).enumerate() {
            pack_rhs(self.matrix, first + i % count, columns.start + i / count, out);
        }
        out
    }
}

/// A packed operand: groups of [`KC`] k-blocks, and in each of them its rows (or columns) of blocks, one after the other.
#[derive(Clone, Copy)]
struct Packed<'a> {
    data: &'a [Bf16],
    order: Order,
}

/// The memory order of a packed operand.
#[derive(Clone, Copy)]
struct Order {
    /// Rows of blocks of lhs, columns of blocks of rhs.
    panels: usize,
    k_blocks: usize,
}

impl Order {
    fn offset(self, panel: usize, k_block: usize) -> usize {
        let first = k_block / KC * KC;
        (first * self.panels + panel * KC.min(self.k_blocks - first) + k_block - first) * BF16X3_BLOCK
    }
}

impl<'a> Packed<'a> {
    /// Packs each block as `pack(panel, k_block, out)` writes it; in parallel by panels if `by_panels`, else by k-blocks.
    fn pack(
        memory: &'a mut Scratch,
        panels: usize,
        k_blocks: usize,
        by_panels: bool,
        pack: impl Fn(usize, usize, &mut [Bf16]) + Sync,
    ) -> Self {
        let data = memory.take(panels * k_blocks * BF16X3_BLOCK);
        let out = SharedMut::new(data);
        let order = Order { panels, k_blocks };
        let (outer, inner) = if by_panels {
            (panels, k_blocks)
        } else {
            (k_blocks, panels)
        };
        (0..outer).into_par_iter().for_each(|outer| {
            for inner in 0..inner {
                let (panel, k_block) = if by_panels { (outer, inner) } else { (inner, outer) };
                // SAFETY: `offset` maps blocks to disjoint places within `data`.
                let out = unsafe { std::slice::from_raw_parts_mut(out.at(order.offset(panel, k_block)), BF16X3_BLOCK) };
                pack(panel, k_block, out);
            }
        });
        Self { data, order }
    }

    /// The group of k-blocks of a panel that begins with `first`.
    fn group(&self, panel: usize, first: usize) -> &'a [Bf16] {
        let count = KC.min(self.order.k_blocks - first);
        &self.data[self.order.offset(panel, first)..][..count * BF16X3_BLOCK]
    }
}

/// The tasks of a result of `rows` × `columns` blocks.
fn plan(rows: usize, columns: usize) -> Grid {
    let share = |all: usize, tasks: usize| all.div_ceil(tasks.clamp(1, all.max(1))).max(1);
    let mc = share(rows, rows.div_ceil(ROWS));
    let row_tasks = rows.div_ceil(mc).max(1);
    // Equal shares for all threads.
    let tasks = (row_tasks * columns.div_ceil(SUMS / mc)).next_multiple_of(rayon::current_num_threads());
    Grid {
        rows,
        columns,
        mc,
        nc: share(columns, tasks.div_ceil(row_tasks)),
    }
}

/// Rows and columns of the result, counted in blocks.
struct Task {
    rows: Range<usize>,
    columns: Range<usize>,
}

impl Task {
    /// Hands the sums of each block to `finish(row, column, sums)`.
    fn run(&self, lhs: Packed, rhs: &Rhs, finish: impl Fn(usize, usize, &[f32])) {
        let kernel = MicroKernel::start();
        TASK.with_borrow_mut(|[memory, sums]| {
            let memory = memory.take(self.columns.len() * KC * BF16X3_BLOCK);
            let sums = sums.take::<f32>(self.rows.len() * self.columns.len() * BLOCK);
            for first in (0..lhs.order.k_blocks).step_by(KC) {
                let last = first + KC >= lhs.order.k_blocks;
                let rhs = rhs.group(self.columns.clone(), first, memory);
                for (row, sums) in self.rows.clone().zip(sums.chunks_exact_mut(self.columns.len() * BLOCK)) {
                    let lhs = lhs.group(row, first);
                    let panels = rhs.chunks_exact(lhs.len()).zip(sums.chunks_exact_mut(BLOCK));
                    for (column, (rhs, sums)) in self.columns.clone().zip(panels) {
                        kernel.gemm_block_bf16x3(lhs, rhs, sums, Beta::of_k_block(first));
                        if last {
                            finish(row, column, sums);
                        }
                    }
                }
            }
        });
    }
}

/// Packs block (`row`, `k_block`) of lhs.
fn pack_lhs(lhs: MatRef, row: usize, k_block: usize, out: &mut [Bf16]) {
    if lhs.is_row_major() {
        // SAFETY: `out` is a bf16x3 block at a cache line.
        unsafe { split(lhs, row, k_block, out.as_mut_ptr()) };
        return;
    }
    let mut parts: [Aligned; 3] = std::array::from_fn(|_| Aligned::default());
    // SAFETY: `parts` are three consecutive blocks, `out` is a bf16x3 block, all at cache lines; there is an engine.
    unsafe {
        split(lhs.transposed(), k_block, row, parts.as_mut_ptr().cast());
        for (part, out) in parts.iter().zip(out.chunks_exact_mut(BLOCK)) {
            blocks::transpose_block(part.0.as_ptr(), out.as_mut_ptr());
        }
    }
}

/// Packs block (`k_block`, `column`) of rhs.
fn pack_rhs(rhs: MatRef, k_block: usize, column: usize, out: &mut [Bf16]) {
    let mut parts: [Aligned; 3] = std::array::from_fn(|_| Aligned::default());
    // SAFETY: `parts` are three consecutive blocks, `out` is a bf16x3 block, all at cache lines; there is an engine.
    unsafe {
        if rhs.is_row_major() {
            split(rhs, k_block, column, parts.as_mut_ptr().cast());
        } else {
            split(rhs.transposed(), column, k_block, parts.as_mut_ptr().cast());
        }
        for (part, out) in parts.iter().zip(out.chunks_exact_mut(BLOCK)) {
            if rhs.is_row_major() {
                blocks::pack_rows(part.0.as_ptr(), 0..blocks::PAIRS, out.as_mut_ptr());
            } else {
                blocks::pack_columns(part.0.as_ptr(), out.as_mut_ptr());
            }
        }
    }
}

/// Writes the three parts of block (`row`, `column`) of a row-major matrix, one after the other, zero beyond its edges.
///
/// # Safety
/// An engine is in use; `out` is valid for three blocks at a cache line.
unsafe fn split(x: MatRef, row: usize, column: usize, out: *mut Bf16) {
    let (rows, columns) = (SIDE.min(x.rows() - row * SIDE), SIDE.min(x.columns() - column * SIDE));
    let (values, stride) = x.from(row * SIDE, column * SIDE);
    // SAFETY: the view holds these rows and columns; `out` is as required (caller).
    unsafe { split_block(values.as_ptr(), rows, columns, stride, out) };
}

for_registers! {
/// Splits up to 32 × 32 values into three parts, one block each.
///
/// # Safety
/// An engine is in use; `x` is valid for `rows` rows of `columns` values (at most 32 of each) `stride` apart; `out` is valid for three
/// blocks at a cache line.
unsafe fn split_block<R>(x: *const f32, rows: usize, columns: usize, stride: usize, out: *mut Bf16) {
    let masks = masks(columns);
    for r in 0..SIDE {
        // SAFETY: only rows below `rows` are read, and the masks end with `columns` (caller).
        unsafe {
            let mut rest = [R::splat(0.0); 2];
            if r < rows {
                let row = x.add(r * stride);
                rest = [R::load_masked(masks[0], row), R::load_masked(masks[1], row.wrapping_add(16))];
            }
            for part in 0..3 {
                let rounded = R::round(rest[0], rest[1]);
                let values = R::widen(rounded);
                rest = [R::sub(rest[0], values[0]), R::sub(rest[1], values[1])];
                R::store_bf16(out.add(part * BLOCK + r * SIDE), rounded);
            }
        }
    }
}
}

for_registers! {
/// `dst = β·dst + alpha·sums` for a block.
///
/// # Safety
/// An engine is in use; `dst` is valid for `rows` rows of `columns` values (at most 32 of each) `stride` apart; `sums` is a block.
unsafe fn store<R>(dst: *mut f32, rows: usize, columns: usize, stride: usize, sums: &[f32], beta: Beta, alpha: f32) {
    // SAFETY: `r` is below `rows`, and the masks end with `columns` (caller).
    unsafe {
        let alpha = R::splat(alpha);
        let masks = masks(columns);
        for half in 0..2 {
            let mask = masks[half];
            for r in 0..rows {
                let dst = dst.wrapping_add(r * stride + 16 * half);
                let sums = R::load(sums.as_ptr().add(r * SIDE + 16 * half));
                let values = match beta {
                    Beta::One => R::mul_add(sums, alpha, R::load_masked(mask, dst)),
                    Beta::Zero => R::mul(sums, alpha),
                };
                R::store_masked(dst, mask, values);
            }
        }
    }
}
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Values of very different magnitudes with all bits in use.
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
        fn is_as_accurate_as_f32(
            m in 1usize..100, n in 1usize..100, k in 1usize..300, ta: bool, tb: bool, add: bool, threads in 1usize..4,
        ) {
            let (a, b, before) = (values(m * k, 1), values(k * n, 2), values(m * n, 3));
            let va = if ta { MatRef::new(&a, k, m, m).transposed() } else { MatRef::new(&a, m, k, k) };
            let vb = if tb { MatRef::new(&b, n, k, k).transposed() } else { MatRef::new(&b, k, n, n) };
            let mut out = before.clone();
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
            // SAFETY: the sizes fit, and tests have an engine.
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
                    // The rounding error of a sum of k products in f32, and that of the result.
                    let bound = (k as f64).sqrt() * f32::EPSILON as f64 * (size + old.abs());
                    prop_assert!((out[r * n + c] as f64 - want).abs() <= bound, "{} {want} {bound}", out[r * n + c]);
                }
            }
        }
    }

    #[test]
    fn large_products_are_divided() {
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
                // SAFETY: the sizes fit, and tests have an engine.
                unsafe { gemm(&mut out, n, Beta::Zero, 1.0, a, b) };
                assert!(out.iter().all(|v| *v == 2.0 * k as f32));
            }
        }
    }
}
