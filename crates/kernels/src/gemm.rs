//! Matrix products in f32: by bf16x3 on AMX ([`crate::bf16`]), or by FMA with the kernels of the `gemm` crate.

use crate::aligned::padded_stride;
use crate::bf16::bf16x3;
use crate::mat::{Beta, MatRef, fits};
use crate::memory::Scratch;
use crate::parallel::{Parallelism, SharedMut};
use rayon::prelude::*;
use std::cell::Cell;
use std::ops::Range;

/// `nc`: columns of the result per task. Tasks are independent, so that threads wait for each other once per product, and not once per
/// block of the inner dimension.
const NC: usize = 192;

/// Maximum number of rows of a product that is divided into tasks of [`NC`] columns.
const MAX_ROWS: usize = 2048;

/// Number of f32 values in 4 KiB. A stride of 4 KiB maps a column to one L1 set; with more rows than the set has ways, every access misses.
const L1_ALIASING_STRIDE: usize = 1024;

/// Whether [`gemm`] computes large products by bf16x3 on this CPU; otherwise it always calls [`gemm_fma`].
pub fn has_bf16x3() -> bool {
    bf16x3::is_faster(MAX_ROWS, NC, NC)
}

/// Computes `dst = β·dst + α·lhs·rhs`, by bf16x3 if the CPU has AMX and the product is large enough, else by FMA. `dst` is row-major
/// `[lhs.rows, rhs.columns]` with rows `dst_stride` apart.
///
/// # Panics
/// If the shapes do not fit each other.
pub fn gemm(
    dst: &mut [f32],
    dst_stride: usize,
    beta: Beta,
    alpha: f32,
    lhs: MatRef,
    rhs: MatRef,
    parallelism: Parallelism,
) {
    let (m, n, k) = (lhs.rows(), rhs.columns(), lhs.columns());
    // Products that use only the calling thread are too small for packing to pay off.
    if parallelism == Parallelism::Pool && bf16x3::is_faster(m, n, k) {
        assert_shapes(dst, dst_stride, lhs, rhs);
        // SAFETY: `assert_shapes` has checked the shapes, and `is_faster` has found an engine.
        unsafe { bf16x3::gemm(dst, dst_stride, beta, alpha, lhs, rhs) };
        return;
    }
    gemm_fma(dst, dst_stride, beta, alpha, lhs, rhs, parallelism);
}

fn assert_shapes(dst: &[f32], dst_stride: usize, lhs: MatRef, rhs: MatRef) {
    let (m, n) = (lhs.rows(), rhs.columns());
    assert_eq!(lhs.columns(), rhs.rows(), "inner sizes differ");
    assert!(fits(m, n, dst_stride, dst.len()), "slice too short for the result");
    assert!(m <= 1 || dst_stride >= n, "rows of the result overlap");
}

/// Computes `dst = β·dst + α·lhs·rhs` by FMA; `dst` is row-major `[lhs.rows, rhs.columns]` with rows `dst_stride` apart.
///
/// The order of additions depends on neither the number of threads nor `parallelism`. The plain version is
/// [`reference::gemm`](crate::reference::gemm).
///
/// # Panics
/// If the shapes do not fit each other.
pub fn gemm_fma(
    dst: &mut [f32],
    dst_stride: usize,
    beta: Beta,
    alpha: f32,
    lhs: MatRef,
    rhs: MatRef,
    parallelism: Parallelism,
) {
    let (m, n, k) = (lhs.rows(), rhs.columns(), lhs.columns());
    assert_shapes(dst, dst_stride, lhs, rhs);
    if m == 0 || n == 0 {
        return;
    }
    if parallelism == Parallelism::Pool
        && !rhs.is_row_major()
        && rhs.column_stride().is_multiple_of(L1_ALIASING_STRIDE)
        && m.min(n) >= 16
    {
        return with_padded_copy(rhs, |rhs| gemm_fma(dst, dst_stride, beta, alpha, lhs, rhs, parallelism));
    }
    let shared = SharedMut::new(dst);
    let multiply_columns = |columns: Range<usize>, threads: gemm_common::Parallelism| {
        // The kernels store columns contiguously, so this computes dstᵀ = rhsᵀ · lhsᵀ.
        // SAFETY: the slices cover all addressed elements (`MatRef::new` and the asserts above), and no other task writes these
        // columns of `dst`.
        unsafe {
            gemm_f32::gemm::f32::get_gemm_fn()(
                columns.len(),
                m,
                k,
                shared.ptr_at(columns.start),
                dst_stride as isize,
                1,
                beta == Beta::One,
                rhs.data().as_ptr().wrapping_add(columns.start * rhs.column_stride()),
                rhs.row_stride() as isize,
                rhs.column_stride() as isize,
                lhs.data().as_ptr(),
                lhs.row_stride() as isize,
                lhs.column_stride() as isize,
                1.0,
                alpha,
                false,
                false,
                false,
                threads,
            );
        }
    };
    let tasks = n.div_ceil(NC);
    match parallelism {
        Parallelism::Serial => multiply_columns(0..n, gemm_common::Parallelism::None),
        Parallelism::Pool if lhs.is_row_major() && m <= MAX_ROWS && tasks > 1 => {
            // If there are fewer tasks than threads, several threads share a task. Results do not change.
            let threads = match rayon::current_num_threads() / tasks {
                0 | 1 => gemm_common::Parallelism::None,
                several => gemm_common::Parallelism::Rayon(several),
            };
            let width = n.div_ceil(tasks);
            (0..tasks)
                .into_par_iter()
                .with_max_len(1)
                .for_each(|i| multiply_columns((i * width).min(n)..((i + 1) * width).min(n), threads));
        }
        Parallelism::Pool => multiply_columns(0..n, gemm_common::Parallelism::Rayon(0)),
    }
}

/// Copies a transposed weight to rows with a padded stride, which avoids 4 KiB aliasing, and calls `multiply` with the copy.
fn with_padded_copy(rhs: MatRef, multiply: impl FnOnce(MatRef)) {
    thread_local! {
        /// Memory of the copy. The product takes it out of the cell, because rayon may start another product on this thread while the first
        /// one waits for other threads.
        static COPY: Cell<Scratch> = const { Cell::new(Scratch::new()) };
    }
    let (rows, columns) = (rhs.rows(), rhs.columns());
    let stride = padded_stride(rows);
    let mut memory = COPY.take();
    let copy = memory.slice_mut::<f32>(columns * stride);
    copy.par_chunks_mut(stride).enumerate().for_each(|(i, row)| {
        row[..rows].copy_from_slice(&rhs.data()[i * rhs.column_stride()..][..rows]);
    });
    multiply(MatRef::new(copy, columns, rows, stride).transposed());
    COPY.set(memory);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference;
    use proptest::prelude::*;

    fn values(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| (((i + seed) * 7919) % 23) as f32 - 11.0).collect()
    }

    proptest! {
        #[test]
        fn equals_the_reference(m in 1usize..40, n in 1usize..40, k in 1usize..40, ta: bool, tb: bool, add: bool, serial: bool) {
            let (a, b) = (values(m * k, 1), values(k * n, 2));
            let (va, vb) = (
                if ta { MatRef::new(&a, k, m, m).transposed() } else { MatRef::new(&a, m, k, k) },
                if tb { MatRef::new(&b, n, k, k).transposed() } else { MatRef::new(&b, k, n, n) },
            );
            let before = values(m * n, 3);
            let mut out = before.clone();
            let parallelism = if serial { Parallelism::Serial } else { Parallelism::Pool };
            gemm(&mut out, n, if add { Beta::One } else { Beta::Zero }, 0.5, va, vb, parallelism);
            let row_major = |x: &[f32], is_transposed, rows, columns| {
                let mut out = x.to_vec();
                if is_transposed {
                    reference::transpose(&mut out, x, columns, rows);
                }
                out
            };
            let mut want = before;
            let beta = if add { 1.0 } else { 0.0 };
            reference::gemm(&mut want, beta, 0.5, &row_major(&a, ta, m, k), &row_major(&b, tb, k, n), m, n, k);
            prop_assert_eq!(out, want);
        }
    }

    #[test]
    fn equals_the_reference_with_a_4_kib_stride() {
        let (m, n, k) = (17, 35, L1_ALIASING_STRIDE);
        let (a, b) = (values(m * k, 1), values(k * n, 2));
        let mut out = vec![1f32; m * n];
        let weight = MatRef::new(&b, n, k, k).transposed();
        gemm(
            &mut out,
            n,
            Beta::One,
            1.0,
            MatRef::new(&a, m, k, k),
            weight,
            Parallelism::Pool,
        );
        let (mut rhs, mut want) = (vec![0f32; k * n], vec![1f32; m * n]);
        reference::transpose(&mut rhs, &b, n, k);
        reference::gemm(&mut want, 1.0, 1.0, &a, &rhs, m, n, k);
        assert_eq!(out, want);
    }

    #[test]
    fn result_does_not_depend_on_thread_count() {
        for (m, n, k) in [(300, 200, 700), (2100, 200, 70), (40, 900, 33)] {
            let a: Vec<f32> = values(m * k, 5).iter().map(|v| v * 0.37).collect();
            let b: Vec<f32> = values(k * n, 6).iter().map(|v| v * 0.11).collect();
            let run = |threads| {
                let pool = rayon::ThreadPoolBuilder::new()
                    .num_threads(threads)
                    .build()
                    .expect("threads");
                let mut out = vec![0f32; m * n];
                pool.install(|| {
                    gemm(
                        &mut out,
                        n,
                        Beta::Zero,
                        1.0,
                        MatRef::new(&a, m, k, k),
                        MatRef::new(&b, k, n, n),
                        Parallelism::Pool,
                    )
                });
                out
            };
            let one = run(1);
            assert_eq!(one, run(2));
            assert_eq!(one, run(3));
            assert_eq!(one, run(16));
        }
    }
}
