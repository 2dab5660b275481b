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

/// Elements of a bf16x3 k-block: three blocks, the high, middle and low parts of 32 × 32 f32 values.
pub const BF16X3_BLOCK: usize = 3 * BLOCK;

/// The products of parts (of lhs, of rhs) that a bf16x3 product consists of, in the order of their addition: from small to large,
/// but so that seven pairs of AMX tiles are loaded for six pairs of products.
pub const BF16X3_PRODUCTS: [(usize, usize); 6] = [(2, 0), (1, 0), (1, 1), (0, 1), (0, 0), (0, 2)];

/// What multiplies bfloat16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Plain Rust ([`Portable`]): slow, for tests only.
    Portable,
    /// `vdpbf16ps` on AVX-512 registers.
    Avx512Bf16,
    /// AMX tiles.
    Amx,
}

/// A product of packed blocks.
pub trait TileEngine {
    /// `dst[32×32] = β·dst + lhs·rhs` for `k = 32·k_blocks`; `lhs` and `rhs` are packed.
    ///
    /// Per k-block it calls `vector_work(k_block)`, in the shadow of the product on AMX, and prefetches 256 bytes from each of
    /// `prefetch` into L2; these addresses need not be valid.
    ///
    /// # Safety
    /// The CPU has the engine's instructions and, on AMX, the thread holds a `TileConfig`; `vector_work` does not use tiles. `lhs`
    /// and `rhs` are valid for `k_blocks` blocks and `dst` for one, all at cache lines.
    unsafe fn gemm_block(
        lhs: *const Bf16,
        rhs: *const Bf16,
        k_blocks: usize,
        dst: *mut f32,
        beta: Beta,
        prefetch: [*const Bf16; 2],
        vector_work: impl FnMut(usize),
    );

    /// `dst[32×32] = β·dst + lhs·rhs` of operands in bf16x3 form ([`BF16X3_BLOCK`]), by [`BF16X3_PRODUCTS`] for each k-block.
    ///
    /// # Safety
    /// As for [`TileEngine::gemm_block`], with operands of `k_blocks` bf16x3 k-blocks.
    unsafe fn gemm_block_bf16x3(lhs: *const Bf16, rhs: *const Bf16, k_blocks: usize, dst: *mut f32, beta: Beta) {
        if k_blocks == 0 {
            // SAFETY: `dst` is valid for a block, and the engine is ready (caller).
            return unsafe { Self::gemm_block(lhs, rhs, 0, dst, beta, [lhs; 2], |_| ()) };
        }
        for k_block in 0..k_blocks {
            for (i, (left, right)) in BF16X3_PRODUCTS.into_iter().enumerate() {
                let beta = if k_block + i == 0 { beta } else { Beta::One };
                // SAFETY: both parts lie in k-block `k_block` of the operands; the rest is required of the caller.
                unsafe {
                    let lhs = lhs.add(k_block * BF16X3_BLOCK + left * BLOCK);
                    let rhs = rhs.add(k_block * BF16X3_BLOCK + right * BLOCK);
                    Self::gemm_block(lhs, rhs, 1, dst, beta, [lhs; 2], |_| ());
                }
            }
        }
    }
}

/// What multiplies bfloat16 faster than f32 on this CPU, detected once.
///
/// `vdpbf16ps` counts on AMD CPUs only, which execute it at twice the rate of f32; on Intel's (Sapphire Rapids) it runs at half of
/// that rate. [`Engine::Portable`] is never returned in production: only if a test has lowered the
/// [`Level`](vlct_simd::Level) of the CPU (feature `test-level`), and in this crate's unit tests where the CPU has nothing else.
pub fn engine() -> Option<Engine> {
    #[cfg(any(test, feature = "test-level"))]
    if vlct_simd::forced_level().is_some_and(|level| level < vlct_simd::Level::V4) {
        return Some(Engine::Portable);
    }
    let engine = hardware();
    if cfg!(test) {
        engine.or(Some(Engine::Portable))
    } else {
        engine
    }
}

#[cfg(target_arch = "x86_64")]
fn hardware() -> Option<Engine> {
    static HARDWARE: std::sync::OnceLock<Option<Engine>> = std::sync::OnceLock::new();
    *HARDWARE.get_or_init(|| match Avx512Bf16::is_present() {
        true if Amx::is_permitted() => Some(Engine::Amx),
        true if Avx512Bf16::is_fast() => Some(Engine::Avx512Bf16),
        _ => None,
    })
}

#[cfg(not(target_arch = "x86_64"))]
fn hardware() -> Option<Engine> {
    None
}

/// Whether an engine with AVX-512 registers is in use. Without the feature `test-level` there is no other one, so that this is
/// known at compile time.
#[inline(always)]
#[cfg(target_arch = "x86_64")]
pub(super) fn has_avx512() -> bool {
    if cfg!(any(test, feature = "test-level")) {
        engine().is_some_and(|engine| engine != Engine::Portable)
    } else {
        true
    }
}

/// # Panics
/// If [`engine`] finds nothing.
pub(super) fn assert_supported() {
    assert!(engine().is_some(), "this CPU does not multiply bfloat16");
}
