//! Which bfloat16 instructions the CPU has.

#[cfg(target_arch = "x86_64")]
use std::sync::OnceLock;

/// How this CPU multiplies bfloat16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// Not at all, or slower than f32.
    None,
    /// `vdpbf16ps` on AVX-512 registers.
    Avx512Bf16,
    /// AMX tiles.
    Amx,
}

/// What this CPU has, detected once.
///
/// `vdpbf16ps` counts on AMD CPUs only, which execute it at twice the rate of f32; on Intel's (Sapphire Rapids) it runs at half of
/// that rate.
pub fn support() -> Support {
    #[cfg(target_arch = "x86_64")]
    {
        use super::{amx, avx512};
        static SUPPORT: OnceLock<Support> = OnceLock::new();
        *SUPPORT.get_or_init(|| {
            if !avx512::present() {
                Support::None
            } else if amx::permitted() {
                Support::Amx
            } else if avx512::fast() {
                Support::Avx512Bf16
            } else {
                Support::None
            }
        })
    }
    #[cfg(not(target_arch = "x86_64"))]
    Support::None
}

/// # Panics
/// If [`support`] finds nothing.
#[cfg(target_arch = "x86_64")]
pub(super) fn assert_supported() {
    assert!(support() != Support::None, "this CPU does not multiply bfloat16");
}
