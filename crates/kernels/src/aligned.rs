//! Memory that begins at a cache line.

/// One cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Numbers that any bits are valid for.
///
/// # Safety
/// The type has no padding, every pattern of bits is one of its values, and its size divides 64.
pub unsafe trait Plain: Copy {}

// SAFETY: a byte, any bits.
unsafe impl Plain for u8 {}
// SAFETY: four bytes, any bits.
unsafe impl Plain for f32 {}
// SAFETY: two bytes, any bits.
unsafe impl Plain for crate::bf16::Bf16 {}

/// A fixed number of values whose first one lies on a 64-byte boundary, all zero at first.
pub struct AlignedVec<T> {
    lines: Vec<Line>,
    kind: std::marker::PhantomData<T>,
}

impl<T: Plain> AlignedVec<T> {
    /// Zeros for at least `len` values: the length is rounded up to whole cache lines.
    pub fn zeroed(len: usize) -> Self {
        Self {
            lines: vec![Line([0; 64]); (len * size_of::<T>()).div_ceil(64)],
            kind: std::marker::PhantomData,
        }
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.lines.len() * 64 / size_of::<T>()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// The values.
    pub fn as_slice(&self) -> &[T] {
        // SAFETY: lines are plain bytes, `T` is any bits (contract of `Plain`) and less strictly aligned.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len()) }
    }

    /// The values, to be changed.
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        // SAFETY: as above, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len()) }
    }
}

/// Distance of rows of `columns` f32 numbers at which a column's numbers are spread over all sets of a cache: an odd number of
/// lines. (At 4 KiB they are all in one set of a first cache, and more rows than it has ways push each other out.)
pub(crate) fn apart(columns: usize) -> usize {
    const LINE: usize = size_of::<Line>() / size_of::<f32>();
    (columns.div_ceil(LINE) | 1) * LINE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn begins_at_a_cache_line_and_holds_what_is_put_in() {
        let mut v = AlignedVec::<f32>::zeroed(17);
        assert!(v.len() == 32 && !v.is_empty() && v.as_slice().iter().all(|x| *x == 0.0));
        assert_eq!(v.as_slice().as_ptr() as usize % 64, 0);
        v.as_mut_slice()[31] = 1.0;
        assert_eq!(v.as_slice()[31], 1.0);
    }

    #[test]
    fn rows_apart_hold_their_columns_in_an_odd_number_of_lines() {
        for (columns, want) in [(0, 16), (1, 16), (16, 16), (17, 48), (48, 48), (1024, 1040)] {
            assert_eq!(super::apart(columns), want);
        }
    }
}
