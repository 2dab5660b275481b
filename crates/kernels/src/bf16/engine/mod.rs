//! Engines that multiply 32 × 32 blocks: AMX, AVX-512 with `vdpbf16ps`, and plain Rust for tests on any CPU.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

use super::number::Bf16;
pub use super::number::{BLOCK, SIDE};
use crate::mat::Beta;
#[cfg(target_arch = "x86_64")]
pub use amx::{Amx, TileConfig};
#[cfg(target_arch = "x86_64")]
pub use avx512::Avx512Bf16;
pub use portable::{Portable, tdpbf16ps};

/// Number of elements of a bf16x3 block: three blocks, which hold the high, middle and low parts of 32 × 32 f32 values.
pub const BF16X3_BLOCK: usize = 3 * BLOCK;

/// The six pairs (part of lhs, part of rhs) that a bf16x3 product multiplies, in the order of addition. Part 0 is the high part. The order
/// minimises tile loads on AMX: seven loads of two tiles for six products.
pub const BF16X3_PRODUCTS: [(usize, usize); 6] = [(2, 0), (1, 0), (1, 1), (0, 1), (0, 0), (0, 2)];

/// An implementation of bfloat16 products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Plain Rust ([`Portable`]): slow, for tests only.
    Portable,
    /// `vdpbf16ps` on AVX-512 registers.
    Avx512Bf16,
    /// AMX tiles.
    Amx,
}

/// Products of packed blocks, by one engine.
pub trait TileEngine {
    /// Computes `dst[32×32] = β·dst + lhs·rhs` for `k = 32·k_blocks`; `lhs` and `rhs` are packed. The rows of `lhs` from `rows` on are zero,
    /// so that an engine can skip them.
    ///
    /// For each k-block, prefetches the next 256 bytes from both addresses of `prefetch` into L2, and calls `vector_work(k_block)`, which
    /// on AMX overlaps with the tile products. The addresses of `prefetch` need not be valid.
    ///
    /// Operands and `dst` should be 64-byte aligned, because AMX accesses unaligned rows at half the speed.
    ///
    /// # Safety
    /// The CPU has the engine's instructions and, on AMX, the thread holds a `TileConfig`; `vector_work` does not use tiles. `lhs`
    /// and `rhs` are valid for `k_blocks` blocks and `dst` for one block.
    #[allow(clippy::too_many_arguments)]
    unsafe fn gemm_block(
        lhs: *const Bf16,
        rhs: *const Bf16,
        rows: usize,
        k_blocks: usize,
        dst: *mut f32,
        beta: Beta,
        prefetch: [*const Bf16; 2],
        vector_work: impl FnMut(usize),
    );

    /// Computes `dst[32×32] = β·dst + lhs·rhs` for operands of `k_blocks` bf16x3 blocks ([`BF16X3_BLOCK`]). Adds the
    /// products [`BF16X3_PRODUCTS`] of each pair of blocks.
    ///
    /// # Safety
    /// The requirements of [`TileEngine::gemm_block`] hold, with operands of `k_blocks` bf16x3 blocks.
    unsafe fn gemm_block_bf16x3(lhs: *const Bf16, rhs: *const Bf16, k_blocks: usize, dst: *mut f32, beta: Beta) {
        if k_blocks == 0 {
            // SAFETY: `dst` is valid for a block, and the engine is ready (caller).
            return unsafe { Self::gemm_block(lhs, rhs, SIDE, 0, dst, beta, [lhs; 2], |_| ()) };
        }
        for k_block in 0..k_blocks {
            for (i, (lhs_part, rhs_part)) in BF16X3_PRODUCTS.into_iter().enumerate() {
                let beta = if k_block + i == 0 { beta } else { Beta::One };
                // SAFETY: both parts lie in k-block `k_block` of the operands; the caller ensures the other requirements.
                unsafe {
                    let lhs = lhs.add(k_block * BF16X3_BLOCK + lhs_part * BLOCK);
                    let rhs = rhs.add(k_block * BF16X3_BLOCK + rhs_part * BLOCK);
                    Self::gemm_block(lhs, rhs, SIDE, 1, dst, beta, [lhs; 2], |_| ());
                }
            }
        }
    }
}

/// Returns the engine of this CPU, or `None` if the CPU does not multiply bfloat16 faster than f32. The CPU is examined once.
///
/// `vdpbf16ps` is used on AMD CPUs only, where it is twice as fast as f32; on Intel's Sapphire Rapids it is not faster than f32.
///
/// Programs never get [`Engine::Portable`]. It is returned if a test has lowered the [`Level`](vlct_simd::Level) of the CPU (feature
/// `test-level`), and in unit tests of this crate if the CPU has no engine.
pub fn engine() -> Option<Engine> {
    #[cfg(any(test, feature = "test-level"))]
    if vlct_simd::forced_level().is_some_and(|level| level < vlct_simd::Level::V4) {
        return Some(Engine::Portable);
    }
    let engine = detect();
    if cfg!(test) {
        engine.or(Some(Engine::Portable))
    } else {
        engine
    }
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Option<Engine> {
    static DETECTED: std::sync::OnceLock<Option<Engine>> = std::sync::OnceLock::new();
    *DETECTED.get_or_init(|| match Avx512Bf16::is_present() {
        true if Amx::request_permission() => Some(Engine::Amx),
        true if Avx512Bf16::is_fast() => Some(Engine::Avx512Bf16),
        _ => None,
    })
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Option<Engine> {
    None
}

/// Whether the engine has AVX-512 registers; `engine()` must be `Some`. Without the feature `test-level`, every engine has them, and the
/// result is a compile-time constant.
#[inline(always)]
#[cfg(target_arch = "x86_64")]
pub(super) fn has_avx512() -> bool {
    if cfg!(any(test, feature = "test-level")) {
        engine().is_some_and(|engine| engine != Engine::Portable)
    } else {
        true
    }
}

/// Checks that this CPU has an engine.
///
/// # Panics
/// If [`engine`] returns `None`.
pub(super) fn assert_supported() {
    assert!(engine().is_some(), "this CPU has no bfloat16 engine");
}
