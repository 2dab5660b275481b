//! Products of f32 matrices on AMX, as accurate as f32 arithmetic.
//!
//! The method (Henry et al. 2019, [arXiv:1904.06376](https://arxiv.org/abs/1904.06376)) is called bf16x3 as in oneMKL (`float_to_bf16x3`)
//! and XLA (`BF16_BF16_F32_X3`). An f32 number with 24 bits of precision is the sum of three bfloat16 numbers with 8 bits:
//! `a = a₁ + a₂ + a₃`. Each part is the remainder after the previous parts, rounded, so that `|a₂| ≤ 2⁻⁸|a|` and `|a₃| ≤ 2⁻¹⁶|a|`. A
//! product of two numbers is the sum of nine products of parts. Six of them are computed and added in f32. The other three are smaller than
//! 2⁻²³ times the product, like a rounding error of f32. Six products on AMX are still much faster than one product in vector registers.
//!
//! Unlike in f32 arithmetic, subnormal numbers count as zero, and operands that are infinite in bfloat16 (infinities, and values above
//! 3.39·10³⁸) give NaN.

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

/// `kc` in k-blocks. A panel of each operand then has 12 KiB and stays in L1.
const KC: usize = 2;

/// Maximum number of rows of blocks per task.
const MAX_TASK_ROWS: usize = 20;

/// Maximum number of blocks of sums per task: 960 KiB, which stay in L2.
const MAX_TASK_BLOCKS: usize = 240;

/// Whether the CPU has AMX and the product `[m, k]·[k, n]` is large enough for packing to pay off. At the test level `portable`, the
/// portable engine counts as AMX.
pub(crate) fn is_faster(m: usize, n: usize, k: usize) -> bool {
    #[cfg(any(test, feature = "test-level"))]
    let is_forced = vlct_simd::forced_level() == Some(vlct_simd::Level::Portable);
    #[cfg(not(any(test, feature = "test-level")))]
    let is_forced = false;
    (is_forced || engine() == Some(Engine::Amx)) && m.min(n).min(k) >= 16
}

thread_local! {
    /// Packed operands of a product that this thread has started. The product takes them out of the cell, because rayon may start another
    /// product on this thread while the first one waits for other threads.
    static OPERANDS: Cell<[Scratch; 2]> = const { Cell::new([Scratch::new(), Scratch::new()]) };
    /// Packed rhs and sums of the current task.
    static TASK: RefCell<[Scratch; 2]> = const { RefCell::new([Scratch::new(), Scratch::new()]) };
}

/// Computes `dst = β·dst + α·lhs·rhs`; rows of `dst` are `dst_stride` apart. The order of additions does not depend on how the work is
/// divided among the threads of the current pool.
///
/// Packs lhs once. Packs rhs once if more than two tasks use each column; otherwise each task packs its columns, which stay in L2.
///
/// # Safety
/// The shapes fit each other, `dst` is large enough, and `engine()` is `Some`.
pub(crate) unsafe fn gemm(dst: &mut [f32], dst_stride: usize, beta: Beta, alpha: f32, lhs: MatRef, rhs: MatRef) {
    /// Maximum size of the packed lhs in bytes. A larger lhs is processed in chunks of rows. If the rows of a single task are too large,
    /// the inner dimension is divided, too.
    const MAX_LHS: usize = if cfg!(test) { 1 << 20 } else { 32 << 20 };
    const BLOCK_BYTES: usize = BF16X3_BLOCK * size_of::<Bf16>();
    const MAX_K: usize = MAX_LHS / (MAX_TASK_ROWS * BLOCK_BYTES) * SIDE;
    if lhs.columns() > MAX_K {
        for first in (0..lhs.columns()).step_by(MAX_K) {
            let k = first..lhs.columns().min(first + MAX_K);
            let lhs = lhs.submatrix(0..lhs.rows(), k.clone());
            let rhs = rhs.submatrix(k, 0..rhs.columns());
            let beta = if first == 0 { beta } else { Beta::One };
            // SAFETY: the requirements also hold for parts of the operands.
            unsafe { gemm(dst, dst_stride, beta, alpha, lhs, rhs) };
        }
        return;
    }
    let [rows, columns, k_blocks] = [lhs.rows(), rhs.columns(), lhs.columns()].map(|n| n.div_ceil(SIDE));
    let chunk_rows = (MAX_LHS / (k_blocks * BLOCK_BYTES).max(1)).next_multiple_of(MAX_TASK_ROWS);
    let [mut lhs_memory, mut rhs_memory] = OPERANDS.take();
    let packed_rhs = Rhs {
        matrix: rhs,
        k_blocks,
        packed: (rows > 2 * MAX_TASK_ROWS).then(|| {
            // `by_panels` is chosen so that each task reads contiguous memory; likewise for the lhs below.
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
    for first in (0..rows).step_by(chunk_rows) {
        let count = chunk_rows.min(rows - first);
        let packed_lhs = Packed::pack(
            &mut lhs_memory,
            count,
            k_blocks,
            lhs.is_row_major(),
            |row, k_block, out| pack_lhs(lhs, first + row, k_block, out),
        );
        let grid = divide(count, columns);
        (0..grid.tasks()).into_par_iter().for_each(|i| {
            let (rows, columns) = grid.task(i);
            Task { rows, columns }.run(packed_lhs, &packed_rhs, |row, column, sums| {
                let (row, column) = ((first + row) * SIDE, column * SIDE);
                let (m, n) = (SIDE.min(lhs.rows() - row), SIDE.min(rhs.columns() - column));
                // SAFETY: `dst` is large enough (caller), tasks write different blocks of it, and there is an engine.
                unsafe {
                    store(
                        dst.ptr_at(row * dst_stride + column),
                        m,
                        n,
                        dst_stride,
                        sums,
                        beta,
                        alpha,
                    )
                };
            });
        });
    }
    OPERANDS.set([lhs_memory, rhs_memory]);
}

/// The rhs of a product.
struct Rhs<'a> {
    matrix: MatRef<'a>,
    k_blocks: usize,
    /// The packed rhs; `None` if each task packs its columns.
    packed: Option<Packed<'a>>,
}

impl<'a> Rhs<'a> {
    /// Returns the packed group of k-blocks from `first` on, for these columns of blocks. Packs it into `memory` unless the rhs is packed.
    fn group<'m>(&self, columns: Range<usize>, first: usize, memory: &'m mut [Bf16]) -> &'m [Bf16]
    where
        'a: 'm,
    {
        let count = KC.min(self.k_blocks - first);
        if let Some(packed) = self.packed {
            let start = packed.layout.offset(columns.start, first);
            return &packed.data[start..start + columns.len() * count * BF16X3_BLOCK];
        }
        let (out, _) = memory.split_at_mut(columns.len() * count * BF16X3_BLOCK);
        for (i, out) in out.chunks_exact_mut(BF16X3_BLOCK).enumerate() {
            pack_rhs(self.matrix, first + i % count, columns.start + i / count, out);
        }
        out
    }
}

/// A packed operand: groups of [`KC`] k-blocks, and in each group one panel after the other.
#[derive(Clone, Copy)]
struct Packed<'a> {
    data: &'a [Bf16],
    layout: Layout,
}

/// The memory layout of a packed operand.
#[derive(Clone, Copy)]
struct Layout {
    /// Number of rows of blocks of lhs, or columns of blocks of rhs.
    panels: usize,
    k_blocks: usize,
}

impl Layout {
    /// The offset of a block in elements.
    fn offset(self, panel: usize, k_block: usize) -> usize {
        let first = k_block / KC * KC;
        (first * self.panels + panel * KC.min(self.k_blocks - first) + k_block - first) * BF16X3_BLOCK
    }
}

impl<'a> Packed<'a> {
    /// Packs an operand: calls `pack(panel, k_block, out)` for each block, in parallel over panels if `by_panels`, else over k-blocks.
    fn pack(
        memory: &'a mut Scratch,
        panels: usize,
        k_blocks: usize,
        by_panels: bool,
        pack: impl Fn(usize, usize, &mut [Bf16]) + Sync,
    ) -> Self {
        let data = memory.slice_mut(panels * k_blocks * BF16X3_BLOCK);
        let out = SharedMut::new(data);
        let layout = Layout { panels, k_blocks };
        let (outer, inner) = if by_panels {
            (panels, k_blocks)
        } else {
            (k_blocks, panels)
        };
        (0..outer).into_par_iter().for_each(|outer| {
            for inner in 0..inner {
                let (panel, k_block) = if by_panels { (outer, inner) } else { (inner, outer) };
                // SAFETY: `offset` maps blocks to disjoint ranges of `data`.
                let out =
                    unsafe { std::slice::from_raw_parts_mut(out.ptr_at(layout.offset(panel, k_block)), BF16X3_BLOCK) };
                pack(panel, k_block, out);
            }
        });
        Self { data, layout }
    }

    /// The group of k-blocks from `first` on, of one panel.
    fn group(&self, panel: usize, first: usize) -> &'a [Bf16] {
        let count = KC.min(self.layout.k_blocks - first);
        &self.data[self.layout.offset(panel, first)..][..count * BF16X3_BLOCK]
    }
}

/// Divides a result of `rows` × `columns` blocks into tasks.
fn divide(rows: usize, columns: usize) -> Grid {
    let task_size = |total: usize, tasks: usize| total.div_ceil(tasks.clamp(1, total.max(1))).max(1);
    let mc = task_size(rows, rows.div_ceil(MAX_TASK_ROWS));
    let row_tasks = rows.div_ceil(mc).max(1);
    // A multiple of the number of threads, so that each thread has the same number of tasks.
    let tasks = (row_tasks * columns.div_ceil(MAX_TASK_BLOCKS / mc)).next_multiple_of(rayon::current_num_threads());
    Grid {
        rows,
        columns,
        mc,
        nc: task_size(columns, tasks.div_ceil(row_tasks)),
    }
}

/// The rows and columns of the result that a task computes, counted in blocks.
struct Task {
    rows: Range<usize>,
    columns: Range<usize>,
}

impl Task {
    /// Computes all blocks of the task, and calls `finish(row, column, sums)` for each.
    fn run(&self, lhs: Packed, rhs: &Rhs, finish: impl Fn(usize, usize, &[f32])) {
        let kernel = MicroKernel::start();
        TASK.with_borrow_mut(|[memory, sums]| {
            let memory = memory.slice_mut(self.columns.len() * KC * BF16X3_BLOCK);
            let sums = sums.slice_mut::<f32>(self.rows.len() * self.columns.len() * BLOCK);
            for first in (0..lhs.layout.k_blocks).step_by(KC) {
                let is_last = first + KC >= lhs.layout.k_blocks;
                let rhs = rhs.group(self.columns.clone(), first, memory);
                for (row, sums) in self.rows.clone().zip(sums.chunks_exact_mut(self.columns.len() * BLOCK)) {
                    let lhs = lhs.group(row, first);
                    let panels = rhs.chunks_exact(lhs.len()).zip(sums.chunks_exact_mut(BLOCK));
                    for (column, (rhs, sums)) in self.columns.clone().zip(panels) {
                        kernel.gemm_block_bf16x3(lhs, rhs, sums, Beta::of_k_block(first));
                        if is_last {
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
        // SAFETY: `out` is a 64-byte aligned bf16x3 block; there is an engine.
        unsafe { split(lhs, row, k_block, out.as_mut_ptr()) };
        return;
    }
    let mut parts: [Aligned; 3] = std::array::from_fn(|_| Aligned::default());
    // SAFETY: `parts` are three consecutive blocks, `out` is a bf16x3 block, and both are 64-byte aligned; there is an engine.
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
    // SAFETY: `parts` are three consecutive blocks, `out` is a bf16x3 block, and both are 64-byte aligned; there is an engine.
    unsafe {
        if rhs.is_row_major() {
            split(rhs, k_block, column, parts.as_mut_ptr().cast());
        } else {
            split(rhs.transposed(), column, k_block, parts.as_mut_ptr().cast());
        }
        for (part, out) in parts.iter().zip(out.chunks_exact_mut(BLOCK)) {
            if rhs.is_row_major() {
                blocks::pack_block(part.0.as_ptr(), 0..blocks::PAIRS, out.as_mut_ptr());
            } else {
                blocks::pack_block_transposed(part.0.as_ptr(), out.as_mut_ptr());
            }
        }
    }
}

/// Splits block (`row`, `column`) of a row-major matrix into three parts, padded with zeros, and writes them one after the other.
///
/// # Safety
/// `engine()` is `Some`; `out` is valid for three blocks and 64-byte aligned.
unsafe fn split(x: MatRef, row: usize, column: usize, out: *mut Bf16) {
    let (rows, columns) = (SIDE.min(x.rows() - row * SIDE), SIDE.min(x.columns() - column * SIDE));
    let (values, stride) = x.values_from(row * SIDE, column * SIDE);
    // SAFETY: the matrix has these rows and columns; `out` is as required (caller).
    unsafe { split_block(values.as_ptr(), rows, columns, stride, out) };
}

for_registers! {
/// Splits up to 32 × 32 values into three parts, one block per part.
///
/// # Safety
/// `engine()` is `Some`; `x` is valid for `rows` rows of `columns` values (at most 32 of each), with rows `stride` apart; `out`
/// is valid for three blocks and 64-byte aligned.
unsafe fn split_block<R>(x: *const f32, rows: usize, columns: usize, stride: usize, out: *mut Bf16) {
    let masks = masks(columns);
    for r in 0..SIDE {
        // SAFETY: only rows below `rows` are read, and the masks select only columns below `columns` (caller).
        unsafe {
            let mut remainder = [R::splat(0.0); 2];
            if r < rows {
                let row = x.add(r * stride);
                remainder = [R::load_masked(masks[0], row), R::load_masked(masks[1], row.wrapping_add(16))];
            }
            for part in 0..3 {
                let rounded = R::round(remainder[0], remainder[1]);
                let values = R::widen(rounded);
                remainder = [R::sub(remainder[0], values[0]), R::sub(remainder[1], values[1])];
                R::store_bf16(out.add(part * BLOCK + r * SIDE), rounded);
            }
        }
    }
}
}

for_registers! {
/// Computes `dst = β·dst + α·sums` for a block.
///
/// # Safety
/// `engine()` is `Some`; `dst` is valid for `rows` rows of `columns` values (at most 32 of each), with rows `stride` apart; `sums`
/// is a block.
unsafe fn store<R>(dst: *mut f32, rows: usize, columns: usize, stride: usize, sums: &[f32], beta: Beta, alpha: f32) {
    // SAFETY: `r` is below `rows`, and the masks select only columns below `columns` (caller).
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

    /// Pseudo-random values of very different magnitudes, with random mantissas.
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
        fn products_are_as_accurate_as_f32(
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
                    let (mut want, mut magnitude) = (0f64, 0f64);
                    for i in 0..k {
                        let x = if ta { a[i * m + r] } else { a[r * k + i] };
                        let y = if tb { b[c * k + i] } else { b[i * n + c] };
                        want += x as f64 * y as f64;
                        magnitude += (x as f64 * y as f64).abs();
                    }
                    let old = if add { before[r * n + c] as f64 } else { 0.0 };
                    let want = 0.5 * want + old;
                    // Bounds the rounding errors of a sum of k products in f32, and of the result.
                    let bound = (k as f64).sqrt() * f32::EPSILON as f64 * (magnitude + old.abs());
                    prop_assert!((out[r * n + c] as f64 - want).abs() <= bound, "{} {want} {bound}", out[r * n + c]);
                }
            }
        }
    }

    #[test]
    fn large_products_are_divided() {
        // Few rows; many rows; more rows than a chunk; an inner dimension that is divided.
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
