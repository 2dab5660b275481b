//! Memory that begins at a cache line.

/// One cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// A fixed number of `f32` values whose first one lies on a 64-byte boundary, all zero at first.
pub struct AlignedVec {
    lines: Vec<Line>,
}

impl AlignedVec {
    /// Zeros for at least `len` values: the length is rounded up to whole cache lines.
    pub fn zeroed(len: usize) -> Self {
        Self {
            lines: vec![Line([0.0; 16]); len.div_ceil(16)],
        }
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.lines.len() * 16
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// The values.
    pub fn as_slice(&self) -> &[f32] {
        // SAFETY: `Line` is sixteen `f32` without padding.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len()) }
    }

    /// The values, to be changed.
    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        // SAFETY: as above, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn begins_at_a_cache_line_and_holds_what_is_put_in() {
        let mut v = AlignedVec::zeroed(17);
        assert!(v.len() == 32 && !v.is_empty() && v.as_slice().iter().all(|x| *x == 0.0));
        assert_eq!(v.as_slice().as_ptr() as usize % 64, 0);
        v.as_mut_slice()[31] = 1.0;
        assert_eq!(v.as_slice()[31], 1.0);
    }
}
