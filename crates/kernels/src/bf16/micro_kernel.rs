//! The smallest product: 32 rows with 32 columns, by the best unit of the machine.

use super::bf16x3::{K_BLOCK, PRODUCTS};
use super::blocks::BLOCK;
use super::number::Bf16;
use super::support::{Support, support};
use super::{amx, avx512};
use crate::mat::Beta;

/// The machine's best way to multiply 32 rows with 32 columns, ready on the thread that started it; it stays there.
pub(super) struct MicroKernel {
    /// The matrix unit, where there is one.
    tiles: Option<amx::Tiles>,
}

impl MicroKernel {
    /// # Panics
    /// If the machine does not multiply bfloat16.
    pub fn start() -> Self {
        let tiles = match support() {
            // SAFETY: `support` found the unit.
            Support::Amx => Some(unsafe { amx::Tiles::configure() }),
            Support::Avx512Bf16 => None,
            Support::None => panic!("this machine does not multiply bfloat16"),
        };
        Self { tiles }
    }

    /// `sums [32, 32] = left · right`, or added to what `sums` holds if `keep`: `steps` steps of 32 of the inner dimension.
    #[inline]
    pub fn multiply(&self, left: &[Bf16], right: &[Bf16], steps: usize, sums: &mut [f32], beta: Beta) {
        self.gemm_block_interleaved(left, right, steps, sums, beta, [left; 2], |_| ());
    }

    /// The same. Meanwhile, `beside(step)` is called once for each step, for work of the vector units that the matrix unit
    /// does not wait for (it must not multiply), and 256 bytes for each step are fetched from the beginning of each of
    /// `fetched` into the second cache.
    #[allow(clippy::too_many_arguments)]
    #[inline]
    pub fn gemm_block_interleaved(
        &self,
        left: &[Bf16],
        right: &[Bf16],
        steps: usize,
        sums: &mut [f32],
        beta: Beta,
        fetched: [&[Bf16]; 2],
        beside: impl FnMut(usize),
    ) {
        assert!(left.len() >= steps * BLOCK && right.len() >= steps * BLOCK && sums.len() >= BLOCK);
        let (left, right, sums) = (left.as_ptr(), right.as_ptr(), sums.as_mut_ptr());
        let fetched = fetched.map(<[Bf16]>::as_ptr);
        // SAFETY: the operands are long enough, and `start` has made this thread ready; fetching touches nothing. A `beside`
        // that multiplied would spoil the sums, no memory.
        unsafe {
            if self.tiles.is_some() {
                amx::multiply(left, right, steps, sums, beta, fetched, beside);
            } else {
                avx512::multiply(left, right, steps, sums, beta, fetched);
                (0..steps).for_each(beside);
            }
        }
    }

    /// `sums [32, 32] = left · right`, or added to what `sums` holds if `keep`, of operands in three parts ([`super::bf16x3`]).
    ///
    /// # Panics
    /// If the operands are not as many whole steps.
    pub fn gemm_block_bf16x3(&self, left: &[Bf16], right: &[Bf16], sums: &mut [f32], beta: Beta) {
        assert!(left.len() == right.len() && left.len().is_multiple_of(K_BLOCK) && sums.len() >= BLOCK);
        let (steps, out) = (left.len() / K_BLOCK, sums.as_mut_ptr());
        if self.tiles.is_some() {
            // SAFETY: the operands are so many steps, and `start` has made this thread ready.
            unsafe { amx::gemm_block_bf16x3(left.as_ptr(), right.as_ptr(), steps, out, beta) };
            return;
        }
        // Slower than f32 arithmetic, but the same numbers, for tests where there is no matrix unit.
        let part = |of: &[Bf16], step: usize, i: usize| of[step * K_BLOCK + i * BLOCK..].as_ptr();
        for (step, (i, j)) in (0..steps).flat_map(|step| PRODUCTS.map(|parts| (step, parts))) {
            let beta = if step > 0 || (i, j) != PRODUCTS[0] {
                Beta::One
            } else {
                beta
            };
            let (a, b) = (part(left, step, i), part(right, step, j));
            // SAFETY: both are blocks, and `start` found the instructions.
            unsafe { avx512::multiply(a, b, 1, out, beta, [a; 2]) };
        }
    }
}

impl Drop for MicroKernel {
    fn drop(&mut self) {
        store_fence();
    }
}

/// Lets what was written past the caches be seen by the threads that read it next.
pub(super) fn store_fence() {
    // SAFETY: every machine that multiplies bfloat16 has the instruction.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}
