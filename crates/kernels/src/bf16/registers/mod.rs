//! Vector registers for packing, epilogues, softmax and layer norm: AVX-512 registers, or arrays in plain Rust for tests on other CPUs.
//! Arrays give the same bits as AVX-512 registers, except for the payloads of NaNs.

#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

use super::number::Bf16;
#[cfg(target_arch = "x86_64")]
pub use avx512::Avx512;
pub use portable::Arrays;

/// Operations on 512-bit registers. Masks have one bit per f32 lane.
///
/// # Safety
/// Every function requires that the CPU has the instruction set of the implementing type ([`for_registers!`] ensures this), and that
/// each pointer is valid for the lanes that the function reads or writes through it; masked functions access only the lanes in the mask.
/// The pointers of `stream`, `store_bf16` and `stream_bf16` must be 64-byte aligned; other pointers need not be aligned.
pub trait Registers {
    /// 16 f32 lanes.
    type F32: Copy;
    /// 32 bfloat16 lanes, or 16 pairs.
    type Bf16: Copy;

    /// Returns a register with `value` in every lane.
    unsafe fn splat(value: f32) -> Self::F32;
    unsafe fn load(from: *const f32) -> Self::F32;
    /// Reads the lanes in the mask; other lanes are zero.
    unsafe fn load_masked(mask: u16, from: *const f32) -> Self::F32;
    unsafe fn store(to: *mut f32, x: Self::F32);
    /// Writes the lanes in the mask.
    unsafe fn store_masked(to: *mut f32, mask: u16, x: Self::F32);
    /// Writes all lanes with a non-temporal store.
    unsafe fn stream(to: *mut f32, x: Self::F32);
    /// `x` in the lanes of the mask, `other` in the other lanes.
    unsafe fn select(mask: u16, x: Self::F32, other: Self::F32) -> Self::F32;
    unsafe fn add(a: Self::F32, b: Self::F32) -> Self::F32;
    unsafe fn sub(a: Self::F32, b: Self::F32) -> Self::F32;
    unsafe fn mul(a: Self::F32, b: Self::F32) -> Self::F32;
    /// The larger value of each lane; `b` where either is NaN.
    unsafe fn max(a: Self::F32, b: Self::F32) -> Self::F32;
    /// The smaller value of each lane; `b` where either is NaN.
    unsafe fn min(a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a·b + c`, fused.
    unsafe fn mul_add(a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
    /// `a·b − c`, fused.
    unsafe fn mul_sub(a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
    /// `c − a·b`, fused.
    unsafe fn neg_mul_add(a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
    /// `x − ⌊x⌋`
    unsafe fn fraction(x: Self::F32) -> Self::F32;
    /// `a · 2^⌊x⌋`
    unsafe fn scale_by_pow2(a: Self::F32, x: Self::F32) -> Self::F32;
    /// The sum of all lanes, by repeatedly adding the upper half to the lower half.
    unsafe fn reduce_add(x: Self::F32) -> f32;
    /// Transposes 16 × 16 f32 lanes.
    unsafe fn transpose(rows: [Self::F32; 16]) -> [Self::F32; 16];

    unsafe fn zero_bf16() -> Self::Bf16;
    unsafe fn load_bf16(from: *const Bf16) -> Self::Bf16;
    unsafe fn store_bf16(to: *mut Bf16, x: Self::Bf16);
    /// Writes all lanes with a non-temporal store.
    unsafe fn stream_bf16(to: *mut Bf16, x: Self::Bf16);
    /// Rounds 32 values to nearest, ties to even; `low` holds the first sixteen. Subnormal numbers become zero.
    unsafe fn round(low: Self::F32, high: Self::F32) -> Self::Bf16;
    /// Converts 32 values to f32: the first sixteen, and the last sixteen.
    unsafe fn widen(x: Self::Bf16) -> [Self::F32; 2];
    /// Interleaves two rows: the first result has lanes 0 to 15 of both, the second has lanes 16 to 31 of both.
    unsafe fn interleave(even: Self::Bf16, odd: Self::Bf16) -> [Self::Bf16; 2];
    /// Transposes 16 × 16 pairs of lanes.
    unsafe fn transpose_pairs(rows: [Self::Bf16; 16]) -> [Self::Bf16; 16];
}

/// Defines an unsafe function that is generic over [`Registers`], compiled for AVX-512 registers and for arrays. At run time, the function
/// uses the registers of the engine of this CPU. Callers must ensure that `engine()` is `Some`, and that pointers are valid as the body
/// requires.
///
/// Functions on registers that the body calls must be `#[inline(always)]`, and closures must not take or return registers: a closure
/// without `#[target_feature]` may be compiled as a call that passes registers through memory.
macro_rules! for_registers {
    ($(#[$meta:meta])* $vis:vis unsafe fn $name:ident<$r:ident>($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis unsafe fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            unsafe fn generic<$r: $crate::bf16::registers::Registers>($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[allow(clippy::too_many_arguments)]
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma")]
                unsafe fn avx512($($arg: $ty),*) $(-> $ret)? {
                    // SAFETY: the enabled features are the instruction set of `Avx512`; pointers are valid (caller).
                    unsafe { generic::<$crate::bf16::registers::Avx512>($($arg),*) }
                }

                if $crate::bf16::engine::has_avx512() {
                    // SAFETY: `engine()` is `Some` (caller), and every engine with AVX-512 has these features; pointers are valid
                    // (caller).
                    return unsafe { avx512($($arg),*) };
                }
            }
            // SAFETY: arrays need no instruction set; pointers are valid (caller).
            unsafe { generic::<$crate::bf16::registers::Arrays>($($arg),*) }
        }
    };
}
pub(super) use for_registers;

/// Returns one mask for each of two registers. Together they select the first `count` of the 32 lanes.
#[inline(always)]
pub fn masks(count: usize) -> [u16; 2] {
    let bits = if count >= 32 { u32::MAX } else { (1 << count) - 1 };
    [bits as u16, (bits >> 16) as u16]
}

/// Loads up to 32 values of `x` from `column` on, padded with zeros.
///
/// # Safety
/// The CPU has the instruction set of `R`, and `column ≤ x.len()`.
#[inline(always)]
pub unsafe fn load<R: Registers>(x: &[f32], column: usize) -> [R::F32; 2] {
    let [low, high] = masks(x.len() - column);
    let x = x.as_ptr().wrapping_add(column);
    // SAFETY: the masks select only lanes within the slice.
    unsafe { [R::load_masked(low, x), R::load_masked(high, x.wrapping_add(16))] }
}
