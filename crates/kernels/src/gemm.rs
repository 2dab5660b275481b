//! Matrix products in f32: on the tile unit in three parts ([`crate::bf16`]) where there is one, else by the `gemm` crate's
//! kernels (AVX-512 where the machine has it).

use crate::aligned::apart;
use crate::bf16::triple;
use crate::memory::Scratch;
use crate::parallel::SharedMut;
use gemm_common::Parallelism;
use rayon::prelude::*;
use std::cell::Cell;
use std::ops::Range;

/// Columns of the result that one task computes, and most rows with which it does: threads then wait for each other once for
/// each product, not for each block of the inner dimension.
const PANEL: usize = 192;
const PANEL_ROWS: usize = 2048;

/// Rows that are a multiple of 4 KiB apart, a first cache's size by its ways, have a column in one set of it. A product that
/// reads more of them at once than there are ways finds none of them again.
const SAME_SET: usize = 1024;

/// A matrix in memory: element (r, c) is `data[r * row_stride + c * column_stride]`.
#[derive(Clone, Copy)]
pub struct View<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> View<'a> {
    /// A row-major matrix whose rows begin `stride` values apart.
    ///
    /// # Panics
    /// If the slice is too short for that.
    pub fn new(data: &'a [f32], rows: usize, columns: usize, stride: usize) -> Self {
        assert!(fits(rows, columns, stride, data.len()), "matrix outside its slice");
        Self {
            data,
            rows,
            columns,
            row_stride: stride,
            column_stride: 1,
        }
    }

    /// Some rows and columns.
    pub(crate) fn part(self, rows: Range<usize>, columns: Range<usize>) -> Self {
        let first = rows.start * self.row_stride + columns.start * self.column_stride;
        Self {
            data: &self.data[first.min(self.data.len())..],
            rows: rows.len(),
            columns: columns.len(),
            ..self
        }
    }

    /// The same memory read the other way round.
    pub fn transposed(self) -> Self {
        let Self {
            data,
            rows,
            columns,
            row_stride,
            column_stride,
        } = self;
        Self {
            data,
            rows: columns,
            columns: rows,
            row_stride: column_stride,
            column_stride: row_stride,
        }
    }
}

#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "for the products on x86-64"))]
impl View<'_> {
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    /// Whether rows are contiguous; else columns are.
    pub(crate) fn is_row_major(&self) -> bool {
        self.column_stride == 1
    }

    /// Of a row-major matrix, the values from (`row`, `column`) on and the distance of rows.
    pub(crate) fn from(&self, row: usize, column: usize) -> (&[f32], usize) {
        (&self.data[row * self.row_stride + column..], self.row_stride)
    }
}

/// Whether rows that begin `stride` apart lie within `len` values.
fn fits(rows: usize, columns: usize, stride: usize, len: usize) -> bool {
    let end = |rows: usize| rows.checked_mul(stride)?.checked_add(columns);
    rows == 0 || end(rows - 1).is_some_and(|end| end <= len)
}

/// Whether a product may use all threads, or is itself one of several tasks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Threads {
    /// The calling thread alone.
    One,
    /// Every thread of the current pool.
    All,
}

/// `out = keep · out + scale · a · b`, with `keep` 1 if `accumulate`, else 0.
///
/// `out` is row-major `[a.rows, b.columns]` with rows `out_stride` apart.
///
/// # Panics
/// If the shapes do not fit each other.
pub fn gemm(out: &mut [f32], out_stride: usize, accumulate: bool, scale: f32, a: View, b: View, threads: Threads) {
    let (m, n, k) = (a.rows, b.columns, a.columns);
    assert_eq!(k, b.rows, "inner sizes differ");
    assert!(fits(m, n, out_stride, out.len()), "result outside its slice");
    assert!(m <= 1 || out_stride >= n, "rows of the result overlap");
    if m == 0 || n == 0 {
        return;
    }
    // Products of one thread are parts of a task: so short that bringing their operands into parts costs as much as the unit
    // saves.
    if threads == Threads::All && triple::pays(m, n, k) {
        // SAFETY: sizes were checked.
        unsafe { triple::gemm(out, out_stride, accumulate, scale, a, b) };
        return;
    }
    if threads == Threads::All && !b.is_row_major() && b.column_stride.is_multiple_of(SAME_SET) && m.min(n) >= 16 {
        return with_rows_apart(b, |b| gemm(out, out_stride, accumulate, scale, a, b, threads));
    }
    let whole = SharedMut::new(out);
    let part = |columns: Range<usize>, parallelism: Parallelism| {
        // The kernels store columns contiguously: outᵀ = bᵀ · aᵀ.
        // SAFETY: the slices cover all addressed elements (asserted by `View::new` and above), and these columns of `out` are
        // exclusive.
        unsafe {
            gemm_f32::gemm::f32::get_gemm_fn()(
                columns.len(),
                m,
                k,
                whole.at(columns.start),
                out_stride as isize,
                1,
                accumulate,
                b.data.as_ptr().wrapping_add(columns.start * b.column_stride),
                b.row_stride as isize,
                b.column_stride as isize,
                a.data.as_ptr(),
                a.row_stride as isize,
                a.column_stride as isize,
                1.0,
                scale,
                false,
                false,
                false,
                parallelism,
            );
        }
    };
    let panels = n.div_ceil(PANEL);
    match threads {
        Threads::One => part(0..n, Parallelism::None),
        Threads::All if a.is_row_major() && m <= PANEL_ROWS && panels > 1 => {
            // Where panels are fewer than threads, several share one; that changes no bit.
            let each = match rayon::current_num_threads() / panels {
                0 | 1 => Parallelism::None,
                several => Parallelism::Rayon(several),
            };
            let width = n.div_ceil(panels);
            (0..panels)
                .into_par_iter()
                .with_max_len(1)
                .for_each(|i| part((i * width).min(n)..((i + 1) * width).min(n), each));
        }
        Threads::All => part(0..n, Parallelism::Rayon(0)),
    }
}

/// Calls `multiply` with a transposed weight whose rows are not so far apart that they meet in the same sets of the first cache.
fn with_rows_apart(b: View, multiply: impl FnOnce(View)) {
    thread_local! {
        /// Taken out meanwhile: while this thread waits for others, it may be asked for another product.
        static COPY: Cell<Scratch> = const { Cell::new(Scratch::new()) };
    }
    let stride = apart(b.rows);
    let mut memory = COPY.take();
    let copy = memory.take::<f32>(b.columns * stride);
    copy.par_chunks_mut(stride).enumerate().for_each(|(i, row)| {
        row[..b.rows].copy_from_slice(&b.data[i * b.column_stride..][..b.rows]);
    });
    multiply(View::new(copy, b.columns, b.rows, stride).transposed());
    COPY.set(memory);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn values(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| (((i + seed) * 7919) % 23) as f32 - 11.0).collect()
    }

    proptest! {
        #[test]
        fn equals_the_plain_product(m in 1usize..40, n in 1usize..40, k in 1usize..40, ta: bool, tb: bool, accumulate: bool, one: bool) {
            let (a, b) = (values(m * k, 1), values(k * n, 2));
            let (va, vb) = (
                if ta { View::new(&a, k, m, m).transposed() } else { View::new(&a, m, k, k) },
                if tb { View::new(&b, n, k, k).transposed() } else { View::new(&b, k, n, n) },
            );
            let before = values(m * n, 3);
            let mut out = before.clone();
            let threads = if one { Threads::One } else { Threads::All };
            gemm(&mut out, n, accumulate, 0.5, va, vb, threads);
            for r in 0..m {
                for c in 0..n {
                    let mut want = 0.0;
                    for i in 0..k {
                        want += if ta { a[i * m + r] } else { a[r * k + i] } * if tb { b[c * k + i] } else { b[i * n + c] };
                    }
                    let want = want * 0.5 + if accumulate { before[r * n + c] } else { 0.0 };
                    prop_assert_eq!(out[r * n + c], want);
                }
            }
        }
    }

    #[test]
    fn a_weight_whose_rows_meet_in_one_set_is_multiplied_like_others() {
        let (m, n, k) = (17, 35, SAME_SET);
        let (a, b) = (values(m * k, 1), values(k * n, 2));
        let mut out = vec![1f32; m * n];
        let weight = View::new(&b, n, k, k).transposed();
        gemm(&mut out, n, true, 1.0, View::new(&a, m, k, k), weight, Threads::All);
        for (i, got) in out.iter().enumerate() {
            let want: f32 = (0..k).map(|p| a[i / n * k + p] * b[i % n * k + p]).sum();
            assert_eq!(*got, want + 1.0);
        }
    }

    #[test]
    fn the_number_of_threads_does_not_change_the_result() {
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
                        false,
                        1.0,
                        View::new(&a, m, k, k),
                        View::new(&b, k, n, n),
                        Threads::All,
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
