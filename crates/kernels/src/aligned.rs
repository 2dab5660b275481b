//! Vectors that begin at a cache line.

use bytemuck::{Pod, Zeroable};

/// One cache line.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// A fixed number of values, initially zero, that begin at a 64-byte boundary.
pub struct AlignedVec<T> {
    lines: Vec<Line>,
    element: std::marker::PhantomData<T>,
}

impl<T: Pod> AlignedVec<T> {
    /// Allocates at least `len` zeros. The length is rounded up to whole cache lines.
    pub fn zeroed(len: usize) -> Self {
        Self {
            lines: vec![Line([0; 64]); (len * size_of::<T>()).div_ceil(64)],
            element: std::marker::PhantomData,
        }
    }

    /// Number of values, including those added by rounding up.
    pub fn len(&self) -> usize {
        self.lines.len() * 64 / size_of::<T>()
    }

    /// Whether the length is 0.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// All values.
    pub fn as_slice(&self) -> &[T] {
        bytemuck::cast_slice(&self.lines)
    }

    /// All values, mutable.
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        bytemuck::cast_slice_mut(&mut self.lines)
    }
}

/// Returns a stride for rows of `columns` f32 values that avoids cache aliasing: an odd number of cache lines, so that a column is spread
/// over all sets of the cache. (A stride of 4 KiB maps a column to one L1 set; with more rows than the set has ways, every access misses.)
pub(crate) fn padded_stride(columns: usize) -> usize {
    const LINE: usize = size_of::<Line>() / size_of::<f32>();
    (columns.div_ceil(LINE) | 1) * LINE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn begins_at_a_cache_line() {
        let mut v = AlignedVec::<f32>::zeroed(17);
        assert!(v.len() == 32 && !v.is_empty() && v.as_slice().iter().all(|x| *x == 0.0));
        assert_eq!(v.as_slice().as_ptr() as usize % 64, 0);
        v.as_mut_slice()[31] = 1.0;
        assert_eq!(v.as_slice()[31], 1.0);
    }

    #[test]
    fn padded_stride_is_an_odd_number_of_lines() {
        for (columns, want) in [(0, 16), (1, 16), (16, 16), (17, 48), (48, 48), (1024, 1040)] {
            assert_eq!(super::padded_stride(columns), want);
        }
    }
}
