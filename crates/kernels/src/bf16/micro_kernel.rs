//! The micro-kernel: the product of a packed panel of 32 rows and a packed panel of 32 columns, by the engine of the CPU.

#[cfg(target_arch = "x86_64")]
use super::engine::{Amx, Avx512Bf16, TileConfig};
use super::engine::{BF16X3_BLOCK, BLOCK, Engine, Portable, SIDE, TileEngine, engine};
use super::number::Bf16;
use crate::mat::Beta;

/// The engine of this CPU, configured for the current thread. It cannot be sent to another thread.
pub(super) struct MicroKernel {
    engine: Engine,
    /// The tile registers, if the engine is AMX.
    #[cfg(target_arch = "x86_64")]
    _tiles: Option<TileConfig>,
    _thread: std::marker::PhantomData<*const ()>,
}

/// Calls a function of [`TileEngine`] on the type that implements an [`Engine`].
macro_rules! with_engine {
    ($engine:expr, $function:ident($($arg:expr),*)) => {
        match $engine {
            Engine::Portable => Portable::$function($($arg),*),
            #[cfg(target_arch = "x86_64")]
            Engine::Avx512Bf16 => Avx512Bf16::$function($($arg),*),
            #[cfg(target_arch = "x86_64")]
            Engine::Amx => Amx::$function($($arg),*),
            #[cfg(not(target_arch = "x86_64"))]
            _ => unreachable!("x86-64 engine on another architecture"),
        }
    };
}

impl MicroKernel {
    /// Configures the engine for the current thread.
    ///
    /// # Panics
    /// If the CPU has no bfloat16 engine.
    pub fn start() -> Self {
        let Some(engine) = engine() else {
            panic!("this CPU has no bfloat16 engine")
        };
        Self {
            engine,
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `engine` returns `Amx` only if the process may use AMX.
            _tiles: (engine == Engine::Amx).then(|| unsafe { TileConfig::load() }),
            _thread: std::marker::PhantomData,
        }
    }

    /// Computes `dst[32×32] = β·dst + lhs·rhs` for `k = 32·k_blocks`; `lhs` and `rhs` are packed.
    ///
    /// # Panics
    /// If a slice is too short.
    #[inline]
    pub fn gemm_block(&self, lhs: &[Bf16], rhs: &[Bf16], k_blocks: usize, dst: &mut [f32], beta: Beta) {
        self.gemm_block_interleaved(lhs, rhs, SIDE, k_blocks, dst, beta, [lhs; 2], |_| ());
    }

    /// Computes `dst[32×32] = β·dst + lhs·rhs` for `k = 32·k_blocks`; `lhs` and `rhs` are packed. The rows of `lhs` from `rows` on are zero.
    ///
    /// For each k-block, prefetches the next 256 bytes of both slices of `prefetch` into L2, and calls `vector_work(k_block)`, which
    /// overlaps with the products on AMX and must not use tiles.
    ///
    /// # Panics
    /// If `lhs`, `rhs` or `dst` is too short.
    #[allow(clippy::too_many_arguments)]
    #[inline]
    pub fn gemm_block_interleaved(
        &self,
        lhs: &[Bf16],
        rhs: &[Bf16],
        rows: usize,
        k_blocks: usize,
        dst: &mut [f32],
        beta: Beta,
        prefetch: [&[Bf16]; 2],
        vector_work: impl FnMut(usize),
    ) {
        assert!(lhs.len() >= k_blocks * BLOCK && rhs.len() >= k_blocks * BLOCK && dst.len() >= BLOCK);
        let (lhs, rhs, dst) = (lhs.as_ptr(), rhs.as_ptr(), dst.as_mut_ptr());
        let prefetch = prefetch.map(<[Bf16]>::as_ptr);
        // SAFETY: the assert has checked the lengths, and `start` has configured the engine for this thread. If `vector_work` used
        // tiles, sums would be wrong, but no memory would be corrupted.
        unsafe {
            with_engine!(
                self.engine,
                gemm_block(lhs, rhs, rows, k_blocks, dst, beta, prefetch, vector_work)
            )
        }
    }

    /// Computes `dst[32×32] = β·dst + lhs·rhs` for packed bf16x3 operands; their length determines the number of k-blocks.
    ///
    /// # Panics
    /// If the operands differ in length or are not whole bf16x3 blocks, or `dst` is too short.
    pub fn gemm_block_bf16x3(&self, lhs: &[Bf16], rhs: &[Bf16], dst: &mut [f32], beta: Beta) {
        assert!(lhs.len() == rhs.len() && lhs.len().is_multiple_of(BF16X3_BLOCK) && dst.len() >= BLOCK);
        let (k_blocks, lhs, rhs) = (lhs.len() / BF16X3_BLOCK, lhs.as_ptr(), rhs.as_ptr());
        // SAFETY: the assert has checked the lengths, and `start` has configured the engine for this thread.
        unsafe {
            with_engine!(
                self.engine,
                gemm_block_bf16x3(lhs, rhs, k_blocks, dst.as_mut_ptr(), beta)
            )
        }
    }
}

impl Drop for MicroKernel {
    fn drop(&mut self) {
        store_fence();
    }
}

/// Executes `sfence`, which orders preceding non-temporal stores before later stores, so that other threads see them.
pub(super) fn store_fence() {
    #[cfg(target_arch = "x86_64")]
    #[allow(unused_unsafe, reason = "the intrinsic was unsafe before Rust 1.95")]
    // SAFETY: every x86-64 CPU has the instruction.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}
