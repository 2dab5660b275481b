//! Products of small matrices that fit into L1 or L2, by a micro-kernel without blocking.

use crate::mat::Beta;
use vlct_simd::for_lanes;
use vlct_simd::lanes::Lanes;

/// A row-major matrix whose rows are `stride` values apart. Functions take its size as arguments.
#[derive(Clone, Copy)]
pub struct Strided<'a> {
    data: &'a [f32],
    stride: usize,
}

impl<'a> Strided<'a> {
    pub fn new(data: &'a [f32], stride: usize) -> Self {
        Self { data, stride }
    }

    /// The first `len` values of a row.
    pub fn row(self, i: usize, len: usize) -> &'a [f32] {
        &self.data[i * self.stride..][..len]
    }

    /// Whether the slice contains `rows` rows of `columns` values.
    fn contains(self, rows: usize, columns: usize) -> bool {
        rows == 0 || self.data.len() >= (rows - 1) * self.stride + columns
    }

    /// Copies `rows` × `columns` values to rows of `out` that are `stride` apart.
    pub fn copy(self, rows: usize, columns: usize, out: &mut [f32], stride: usize) {
        for (i, out) in out.chunks_exact_mut(stride).take(rows).enumerate() {
            out[..columns].copy_from_slice(self.row(i, columns));
        }
    }

    /// Writes the transpose of `rows` × `columns` values to rows of `out` that are `stride` apart.
    pub fn transpose(self, rows: usize, columns: usize, out: &mut [f32], stride: usize) {
        transpose(self, rows, columns, out, stride);
    }

    /// Writes the transpose of `rows` × `columns` values to rows of `out` that are `stride` apart, and pads these rows with zeros.
    pub fn transpose_padded(self, rows: usize, columns: usize, out: &mut [f32], stride: usize) {
        if rows < stride {
            out.fill(0.0);
        }
        transpose(self, rows, columns, out, stride);
    }
}

for_lanes! {
fn transpose<L>(x: Strided, rows: usize, columns: usize, out: &mut [f32], stride: usize) {
    assert!(x.contains(rows, columns), "slice too short for the matrix");
    assert!(columns == 0 || out.len() >= (columns - 1) * stride + rows, "slice too short for the result");
    let round_down = |n: usize| n / L::WIDTH * L::WIDTH;
    for row in (0..round_down(rows)).step_by(L::WIDTH) {
        for column in (0..round_down(columns)).step_by(L::WIDTH) {
            let (from, to) = (&x.data[row * x.stride + column..], &mut out[column * stride + row..]);
            // SAFETY: the asserts have checked that `WIDTH` rows and columns from here lie in both slices; `for_lanes!` has checked the
            // instruction set.
            unsafe { L::transpose(from.as_ptr(), x.stride, to.as_mut_ptr(), stride) };
        }
    }
    for row in 0..rows {
        let done = if row < round_down(rows) { round_down(columns) } else { 0 };
        for column in done..columns {
            out[column * stride + row] = x.data[row * x.stride + column];
        }
    }
}
}

/// The lhs `[m, k]` of [`gemm`].
#[derive(Clone, Copy)]
pub enum Lhs<'a> {
    /// A row-major matrix `[k, m]`, whose transpose is the lhs.
    Transposed(Strided<'a>),
    /// A row-major matrix `[m, k]` whose rows are [`nr`] values apart.
    Packed(&'a [f32]),
}

for_lanes! {
/// `NR`, the number of columns of the micro-kernel: two registers.
pub fn nr<L>() -> usize {
    2 * L::WIDTH
}
}

for_lanes! {
/// Computes `dst = β·dst + lhs·rhs` for `m` rows, `k` inner elements and `n_panels` panels of [`nr`] columns. Rows of `dst` are
/// `dst_stride` values apart.
///
/// # Panics
/// If a slice is too short.
pub fn gemm<L>(lhs: Lhs, m: usize, k: usize, rhs: Strided, n_panels: usize, dst: &mut [f32], dst_stride: usize, beta: Beta) {
    let nr = 2 * L::WIDTH;
    let fits = match lhs {
        Lhs::Transposed(lhs) => lhs.contains(k, m),
        Lhs::Packed(lhs) => k <= nr && lhs.len() >= m * nr,
    };
    assert!(fits && rhs.contains(k, n_panels * nr), "slice too short for an operand");
    assert!(Strided::new(dst, dst_stride).contains(m, n_panels * nr), "slice too short for the result");
    for column in (0..n_panels * nr).step_by(nr) {
        for row in (0..m).step_by(L::MR) {
            let tile = MicroTile {
                rhs: rhs.data.as_ptr().wrapping_add(column), // the slice may be empty if k = 0
                rhs_stride: rhs.stride,
                k,
                dst: dst[row * dst_stride + column..].as_mut_ptr(),
                dst_stride,
                beta,
            };
            let rows = L::MR.min(m - row);
            // SAFETY: the asserts above have checked that all rows, columns and inner elements lie in the slices; `for_lanes!`
            // has checked the instruction set.
            unsafe {
                match lhs {
                    Lhs::Transposed(lhs) => tile.dispatch::<L, true>(rows, lhs.data.as_ptr().wrapping_add(row), lhs.stride),
                    Lhs::Packed(lhs) => tile.dispatch::<L, false>(rows, lhs[row * nr..].as_ptr(), 1),
                }
            }
        }
    }
}
}

/// A tile of the result (at most `MR` rows and `NR` columns), and the columns of rhs that it needs.
struct MicroTile {
    rhs: *const f32,
    rhs_stride: usize,
    k: usize,
    dst: *mut f32,
    dst_stride: usize,
    beta: Beta,
}

impl MicroTile {
    /// Calls the micro-kernel for `rows` rows. The offset of element (r, k) of lhs is `r + k·k_stride` if `TRANSPOSED`, else
    /// `r·NR + k·k_stride`.
    ///
    /// # Safety
    /// `lhs` is valid for `rows` rows of `k` elements, `self.rhs` for `k` rows of `NR` values and `self.dst` for `rows` rows of `NR`
    /// values, with the strides given. The CPU has the instruction set of `L`.
    #[inline(always)]
    unsafe fn dispatch<L: Lanes, const TRANSPOSED: bool>(&self, rows: usize, lhs: *const f32, k_stride: usize) {
        macro_rules! match_rows {
            ($($rows:literal)*) => {
                match rows {
                    // SAFETY: the requirements are those of this function.
                    $($rows if $rows <= L::MR => unsafe { self.micro_kernel::<L, TRANSPOSED, $rows>(lhs, k_stride) },)*
                    _ => unreachable!("more than MR rows"),
                }
            };
        }
        match_rows!(1 2 3 4 5 6 7 8 9 10 11 12)
    }

    /// Computes `ROWS` rows of the tile.
    ///
    /// # Safety
    /// The requirements of [`MicroTile::dispatch`] hold for `ROWS` rows.
    #[inline(always)]
    unsafe fn micro_kernel<L: Lanes, const TRANSPOSED: bool, const ROWS: usize>(
        &self,
        mut lhs: *const f32,
        k_stride: usize,
    ) {
        let row_stride = if TRANSPOSED { 1 } else { 2 * L::WIDTH };
        let mut rhs = self.rhs;
        // SAFETY: `lhs`, `rhs` and `dst` are valid for these rows and columns, and the CPU has the instructions (caller).
        unsafe {
            let mut sums = [[L::splat(0.0); 2]; ROWS];
            for _ in 0..self.k {
                let rhs_row = [L::load(rhs), L::load(rhs.add(L::WIDTH))];
                for (r, sums) in sums.iter_mut().enumerate() {
                    let element = L::splat(*lhs.add(r * row_stride));
                    for (sum, rhs) in sums.iter_mut().zip(rhs_row) {
                        *sum = element.mul_add(rhs, *sum);
                    }
                }
                (lhs, rhs) = (lhs.wrapping_add(k_stride), rhs.wrapping_add(self.rhs_stride));
            }
            for (r, sums) in sums.into_iter().enumerate() {
                for (half, sum) in sums.into_iter().enumerate() {
                    let dst = self.dst.add(r * self.dst_stride + half * L::WIDTH);
                    let old = match self.beta {
                        Beta::One => L::load(dst),
                        Beta::Zero => L::splat(0.0),
                    };
                    sum.add(old).store(dst);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference;
    use proptest::prelude::*;
    use vlct_simd::at_each_level;

    /// Small integers, whose products and sums are exact.
    fn values(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| (((i + seed) * 7919) % 23) as f32 - 11.0).collect()
    }

    proptest! {
        #[test]
        fn equals_the_reference(rows in 0usize..40, inner in 0usize..40, panels in 0usize..3, extra in 0usize..5, add: bool, transposed: bool) {
            at_each_level(|| {
                let width = nr();
                let inner = if transposed { inner } else { inner % (width + 1) };
                let (a_stride, columns) = (rows + extra, panels * width);
                let stride = columns + extra;
                let a = values(if transposed { inner * a_stride } else { rows * width }, 1);
                let (b, before) = (values(inner * stride, 2), values(rows * stride, 3));
                let mut out = before.clone();
                let lhs = if transposed { Lhs::Transposed(Strided::new(&a, a_stride)) } else { Lhs::Packed(&a) };
                gemm(lhs, rows, inner, Strided::new(&b, stride), panels, &mut out, stride, if add { Beta::One } else { Beta::Zero });
                let element = |r, i| a[if transposed { i * a_stride + r } else { r * width + i }];
                let lhs: Vec<f32> = (0..rows * inner).map(|i| element(i / inner, i % inner)).collect();
                let rhs: Vec<f32> = b.chunks(stride.max(1)).flat_map(|row| &row[..columns]).copied().collect();
                let mut sums = vec![0f32; rows * columns];
                reference::gemm(&mut sums, 0.0, 1.0, &lhs, &rhs, rows, columns, inner);
                for (i, got) in out.iter().enumerate() {
                    let (r, c) = (i / stride, i % stride);
                    let old = if add || c >= columns { before[i] } else { 0.0 };
                    assert_eq!(*got, if c < columns { sums[r * columns + c] + old } else { old });
                }
            });
        }

        #[test]
        fn transpose_moves_every_element(rows in 0usize..50, columns in 0usize..50, extra in 0usize..5) {
            at_each_level(|| {
                let (x_stride, stride) = (columns + extra, rows + extra);
                let x = values(rows * x_stride, 1);
                let mut out = vec![f32::NAN; columns * stride];
                Strided::new(&x, x_stride).transpose_padded(rows, columns, &mut out, stride);
                for (i, got) in out.iter().enumerate() {
                    let (c, r) = (i / stride, i % stride);
                    assert_eq!(*got, if r < rows { x[r * x_stride + c] } else { 0.0 });
                }
            });
        }
    }
}
