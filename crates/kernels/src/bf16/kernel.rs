//! The smallest product: 32 rows with 32 columns, by the best unit of the machine.

use super::blocks::BLOCK;
use super::{Bf16, Support, support, tiles, vectors};

/// The machine's way to multiply 32 rows with 32 columns.
#[derive(Clone, Copy)]
pub(super) struct Kernel {
    /// `(left, right, steps, sums [32, 32], whether to add to them, two places to fetch from)`.
    multiply: unsafe fn(*const Bf16, *const Bf16, usize, *mut f32, bool, [*const Bf16; 2]),
    tiled: bool,
}

impl Kernel {
    /// The best one.
    ///
    /// # Panics
    /// If the machine does not multiply bfloat16.
    pub fn pick() -> Self {
        match support() {
            Support::Tiles => Self {
                multiply: tiles::multiply,
                tiled: true,
            },
            Support::Vectors => Self {
                multiply: vectors::multiply,
                tiled: false,
            },
            Support::None => panic!("this machine does not multiply bfloat16"),
        }
    }

    /// Makes the calling thread ready for it.
    pub fn start(self) -> Engine {
        Engine {
            kernel: self,
            // SAFETY: `support` found the unit.
            _tiles: self.tiled.then(|| unsafe { tiles::Tiles::configure() }),
        }
    }
}

/// A kernel that the calling thread may use; it stays on that thread.
pub(super) struct Engine {
    kernel: Kernel,
    _tiles: Option<tiles::Tiles>,
}

impl Engine {
    /// `sums [32, 32] = left · right`, or added to what `sums` holds if `keep`: `steps` steps of 32 of the inner dimension.
    #[inline]
    pub fn multiply(&self, left: &[Bf16], right: &[Bf16], steps: usize, sums: &mut [f32], keep: bool) {
        self.multiply_fetching(left, right, steps, sums, keep, [left; 2]);
    }

    /// The same; meanwhile, 256 bytes for each step are fetched from the beginning of each of `fetched` into the second
    /// cache.
    #[inline]
    pub fn multiply_fetching(
        &self,
        left: &[Bf16],
        right: &[Bf16],
        steps: usize,
        sums: &mut [f32],
        keep: bool,
        fetched: [&[Bf16]; 2],
    ) {
        assert!(left.len() >= steps * BLOCK && right.len() >= steps * BLOCK && sums.len() >= BLOCK);
        let fetched = fetched.map(<[Bf16]>::as_ptr);
        // SAFETY: the operands are long enough, and `start` has made this thread ready; fetching touches nothing.
        unsafe { (self.kernel.multiply)(left.as_ptr(), right.as_ptr(), steps, sums.as_mut_ptr(), keep, fetched) };
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        finish_stores();
    }
}

/// Lets what was written past the caches be seen by the threads that read it next.
pub(super) fn finish_stores() {
    // SAFETY: every machine that multiplies bfloat16 has the instruction.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}
