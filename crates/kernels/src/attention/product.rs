//! Products of matrices that lie in near caches, with as many sums in registers as there are.

use vlct_simd::for_lanes;
use vlct_simd::lanes::Lanes;

/// Rows of numbers, `stride` apart.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    data: &'a [f32],
    stride: usize,
}

impl<'a> Rows<'a> {
    pub fn new(data: &'a [f32], stride: usize) -> Self {
        Self { data, stride }
    }

    /// The first `len` numbers of a row.
    pub fn row(self, i: usize, len: usize) -> &'a [f32] {
        &self.data[i * self.stride..][..len]
    }

    /// Whether there are so many rows and columns.
    fn holds(self, rows: usize, columns: usize) -> bool {
        rows == 0 || self.data.len() >= (rows - 1) * self.stride + columns
    }

    /// Writes so many rows and columns to rows that are `stride` apart.
    pub fn copy(self, rows: usize, columns: usize, out: &mut [f32], stride: usize) {
        for (i, out) in out.chunks_exact_mut(stride).take(rows).enumerate() {
            out[..columns].copy_from_slice(self.row(i, columns));
        }
    }

    /// Writes the transpose of so many rows and columns to rows that are `stride` apart.
    pub fn transpose(self, rows: usize, columns: usize, out: &mut [f32], stride: usize) {
        transpose(self, rows, columns, out, stride);
    }

    /// The same; the rest of each row of the result becomes zero.
    pub fn transpose_padded(self, rows: usize, columns: usize, out: &mut [f32], stride: usize) {
        if rows < stride {
            out.fill(0.0);
        }
        transpose(self, rows, columns, out, stride);
    }
}

for_lanes! {
fn transpose<L>(x: Rows, rows: usize, columns: usize, out: &mut [f32], stride: usize) {
    assert!(x.holds(rows, columns), "matrix outside its slice");
    assert!(columns == 0 || out.len() >= (columns - 1) * stride + rows, "result outside its slice");
    let whole = |n: usize| n / L::WIDTH * L::WIDTH;
    for row in (0..whole(rows)).step_by(L::WIDTH) {
        for column in (0..whole(columns)).step_by(L::WIDTH) {
            let (from, to) = (&x.data[row * x.stride + column..], &mut out[column * stride + row..]);
            // SAFETY: `WIDTH` rows and columns from here on were asserted for both.
            unsafe { L::transpose(from.as_ptr(), x.stride, to.as_mut_ptr(), stride) };
        }
    }
    for row in 0..rows {
        let done = if row < whole(rows) { whole(columns) } else { 0 };
        for column in done..columns {
            out[column * stride + row] = x.data[row * x.stride + column];
        }
    }
}
}

/// A left operand.
#[derive(Clone, Copy)]
pub enum Left<'a> {
    /// Its transpose in rows.
    Turned(Rows<'a>),
    /// Rows of [`panel_width`] numbers, one after the other.
    Panel(&'a [f32]),
}

for_lanes! {
/// Columns that are computed at once.
pub fn panel_width<L>() -> usize {
    2 * L::WIDTH
}
}

for_lanes! {
/// `out[r, c] = Σ a[r, i]·b[i, c]`, or added to what `out` holds if `keep`, for so many rows, numbers `i` and panels of
/// columns; rows of the result are `stride` apart.
///
/// # Panics
/// If one of the matrices is smaller than that.
pub fn product<L>(a: Left, rows: usize, inner: usize, b: Rows, panels: usize, out: &mut [f32], stride: usize, keep: bool) {
    let width = 2 * L::WIDTH;
    let fits = match a {
        Left::Turned(a) => a.holds(inner, rows),
        Left::Panel(a) => inner <= width && a.len() >= rows * width,
    };
    assert!(fits && b.holds(inner, panels * width), "operand outside its slice");
    assert!(Rows::new(out, stride).holds(rows, panels * width), "result outside its slice");
    for column in (0..panels * width).step_by(width) {
        for row in (0..rows).step_by(L::MR) {
            let tile = Tile {
                b: b.data.as_ptr().wrapping_add(column), // there is nothing there where `inner` is 0
                b_stride: b.stride,
                inner,
                out: out[row * stride + column..].as_mut_ptr(),
                stride,
                keep,
            };
            let count = L::MR.min(rows - row);
            // SAFETY: all rows, columns and numbers `i` lie in the slices (asserted); the machine has the instructions.
            unsafe {
                match a {
                    Left::Turned(a) => tile.of_rows::<L, true>(count, a.data.as_ptr().wrapping_add(row), a.stride),
                    Left::Panel(a) => tile.of_rows::<L, false>(count, a[row * width..].as_ptr(), 1),
                }
            }
        }
    }
}
}

/// Some rows of a product, and as many columns as two registers have.
struct Tile {
    b: *const f32,
    b_stride: usize,
    inner: usize,
    out: *mut f32,
    stride: usize,
    keep: bool,
}

impl Tile {
    /// Of `count` rows, from a left operand whose rows are next to each other if `near`, else as far apart as those of a
    /// panel; from one number `i` to the next it is `step`.
    ///
    /// # Safety
    /// All numbers lie in slices, and the machine has the instructions.
    #[inline(always)]
    unsafe fn of_rows<L: Lanes, const NEAR: bool>(&self, count: usize, a: *const f32, step: usize) {
        macro_rules! each {
            ($($count:literal)*) => {
                match count {
                    // SAFETY: by the contract.
                    $($count if $count <= L::MR => unsafe { self.multiply::<L, NEAR, $count>(a, step) },)*
                    _ => unreachable!("more rows than a tile has"),
                }
            };
        }
        each!(1 2 3 4 5 6 7 8 9 10 11 12)
    }

    /// # Safety
    /// As [`Tile::of_rows`].
    #[inline(always)]
    unsafe fn multiply<L: Lanes, const NEAR: bool, const ROWS: usize>(&self, mut a: *const f32, step: usize) {
        let row_stride = if NEAR { 1 } else { 2 * L::WIDTH };
        let mut b = self.b;
        // SAFETY: by the contract.
        unsafe {
            let mut sums = [[L::splat(0.0); 2]; ROWS];
            for _ in 0..self.inner {
                let right = [L::load(b), L::load(b.add(L::WIDTH))];
                for (r, sums) in sums.iter_mut().enumerate() {
                    let left = L::splat(*a.add(r * row_stride));
                    for (sum, right) in sums.iter_mut().zip(right) {
                        *sum = left.mul_add(right, *sum);
                    }
                }
                (a, b) = (a.wrapping_add(step), b.wrapping_add(self.b_stride));
            }
            for (r, sums) in sums.into_iter().enumerate() {
                for (half, sum) in sums.into_iter().enumerate() {
                    let out = self.out.add(r * self.stride + half * L::WIDTH);
                    let before = if self.keep { L::load(out) } else { L::splat(0.0) };
                    sum.add(before).store(out);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use vlct_simd::at_each_level;

    /// Small whole numbers, whose products and sums are exact.
    fn values(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| (((i + seed) * 7919) % 23) as f32 - 11.0).collect()
    }

    proptest! {
        #[test]
        fn equals_the_plain_product(rows in 0usize..40, inner in 0usize..40, panels in 0usize..3, extra in 0usize..5, keep: bool, turned: bool) {
            at_each_level(|| {
                let width = panel_width();
                let inner = if turned { inner } else { inner % (width + 1) };
                let (a_stride, columns) = (rows + extra, panels * width);
                let stride = columns + extra;
                let a = values(if turned { inner * a_stride } else { rows * width }, 1);
                let (b, before) = (values(inner * stride, 2), values(rows * stride, 3));
                let mut out = before.clone();
                let left = if turned { Left::Turned(Rows::new(&a, a_stride)) } else { Left::Panel(&a) };
                product(left, rows, inner, Rows::new(&b, stride), panels, &mut out, stride, keep);
                for (at, got) in out.iter().enumerate() {
                    let (r, c) = (at / stride, at % stride);
                    let left = |i| a[if turned { i * a_stride + r } else { r * width + i }];
                    let sum: f32 = (0..inner).map(|i| left(i) * b[i * stride + c]).sum();
                    let kept = if keep || c >= columns { before[at] } else { 0.0 };
                    assert_eq!(*got, if c < columns { sum + kept } else { kept });
                }
            });
        }

        #[test]
        fn a_transpose_holds_the_same_numbers(rows in 0usize..50, columns in 0usize..50, extra in 0usize..5) {
            at_each_level(|| {
                let (x_stride, stride) = (columns + extra, rows + extra);
                let x = values(rows * x_stride, 1);
                let mut out = vec![f32::NAN; columns * stride];
                Rows::new(&x, x_stride).transpose_padded(rows, columns, &mut out, stride);
                for (i, got) in out.iter().enumerate() {
                    let (c, r) = (i / stride, i % stride);
                    assert_eq!(*got, if r < rows { x[r * x_stride + c] } else { 0.0 });
                }
            });
        }
    }
}
