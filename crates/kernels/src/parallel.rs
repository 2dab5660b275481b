//! Division of work into tasks. The division does not depend on the number of threads.

use rayon::prelude::*;

/// Whether a function may use the threads of the current pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parallelism {
    /// Only the calling thread.
    Serial,
    /// All threads of the current rayon pool.
    Pool,
}

/// Returns how many rows of `width` f32 values a task has: about 64 KiB, whatever the number of threads.
pub fn rows_per_task(width: usize) -> usize {
    (16 * 1024 / width.max(1)).max(1)
}

/// Divides the rows of `out`, of `width` values each, into consecutive blocks, and calls `task(first_row, block)` in parallel.
pub fn over_rows(out: &mut [f32], width: usize, task: impl Fn(usize, &mut [f32]) + Sync) {
    let rows = rows_per_task(width);
    if out.len() <= rows * width {
        if !out.is_empty() {
            task(0, out);
        }
        return;
    }
    out.par_chunks_mut(rows * width)
        .enumerate()
        .for_each(|(i, block)| task(i * rows, block));
}

/// Adds column sums: `out[c] += Σ_r x[r, c]`. Rows are added in order.
pub fn add_column_sums(x: &[f32], width: usize, out: &mut [f32]) {
    /// Number of columns per task.
    const BLOCK: usize = 64;
    out.par_chunks_mut(BLOCK)
        .enumerate()
        .for_each(|(i, out)| add_column_block(x, width, i * BLOCK, out));
}

vlct_simd::multiversion! {
fn add_column_block(x: &[f32], width: usize, first: usize, out: &mut [f32]) {
    let mut sums = [0f32; 64];
    let sums = &mut sums[..out.len()];
    for row in x.chunks_exact(width) {
        for (s, v) in sums.iter_mut().zip(&row[first..]) {
            *s += v;
        }
    }
    for (o, s) in out.iter_mut().zip(sums) {
        *o += *s;
    }
}
}

/// A pointer to a slice whose elements are divided among tasks: no two tasks access the same element.
pub(crate) struct SharedMut<T>(*mut T);

impl<T> Clone for SharedMut<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for SharedMut<T> {}

// SAFETY: `ptr_at` requires that tasks access disjoint elements.
unsafe impl<T: Send> Send for SharedMut<T> {}
// SAFETY: `ptr_at` requires that tasks access disjoint elements.
unsafe impl<T: Send> Sync for SharedMut<T> {}

impl<T> SharedMut<T> {
    pub(crate) fn new(slice: &mut [T]) -> Self {
        Self(slice.as_mut_ptr())
    }

    /// Returns a pointer to element `offset`.
    ///
    /// # Safety
    /// `offset` lies within the slice, which is borrowed for as long as the pointer is used, and no two tasks access the same element.
    pub(crate) unsafe fn ptr_at(self, offset: usize) -> *mut T {
        // SAFETY: `offset` lies within the slice (caller).
        unsafe { self.0.add(offset) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn column_sums_add_every_row() {
        let (rows, width) = (37, 131);
        let x: Vec<f32> = (0..rows * width).map(|i| (i % 17) as f32).collect();
        let mut out = vec![1f32; width];
        add_column_sums(&x, width, &mut out);
        for c in 0..width {
            let want: f32 = (0..rows).map(|r| x[r * width + c]).sum();
            assert_eq!(out[c], want + 1.0);
        }
    }

    #[test]
    fn over_rows_visits_every_row_once() {
        let mut x = vec![0f32; 5000 * 7];
        over_rows(&mut x, 7, |first, block| {
            for (i, row) in block.chunks_exact_mut(7).enumerate() {
                row.iter_mut().for_each(|v| *v += (first + i) as f32);
            }
        });
        assert!(
            x.chunks_exact(7)
                .enumerate()
                .all(|(i, row)| row.iter().all(|v| *v == i as f32))
        );
    }
}
