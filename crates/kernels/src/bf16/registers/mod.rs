//! The vector registers that packing, epilogues, softmax and layer norm are written with: AVX-512 registers where an engine has
//! them, arrays in plain Rust for tests elsewhere. Both give the same bits, except in the payloads of NaNs.

#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

use super::number::Bf16;
#[cfg(target_arch = "x86_64")]
pub use avx512::Avx512;
pub use portable::Arrays;

/// A family of registers of 512 bits. Masks have one bit per f32 lane.
///
/// # Safety
/// Every function requires that the CPU has the instruction set of the implementing type ([`for_registers!`] sees to that), and that
/// each pointer is valid for the lanes that the function reads or writes through it; for masked functions, for the lanes in the
/// mask. Pointers to bfloat16 that are written, and those of `stream`, are at cache lines; the others need not be aligned.
pub trait Registers {
    /// 16 f32 lanes.
    type F32: Copy;
    /// 32 bfloat16 lanes, or 16 pairs.
    type Bf16: Copy;

    /// `value` in every lane.
    unsafe fn splat(value: f32) -> Self::F32;
    unsafe fn load(from: *const f32) -> Self::F32;
    /// Reads the lanes in the mask; the others are zero.
    unsafe fn load_masked(mask: u16, from: *const f32) -> Self::F32;
    unsafe fn store(to: *mut f32, x: Self::F32);
    /// Writes the lanes in the mask.
    unsafe fn store_masked(to: *mut f32, mask: u16, x: Self::F32);
    /// Writes with a non-temporal store.
    unsafe fn stream(to: *mut f32, x: Self::F32);
    /// `x` in the lanes of the mask, `other` elsewhere.
    unsafe fn select(mask: u16, x: Self::F32, other: Self::F32) -> Self::F32;
    unsafe fn add(a: Self::F32, b: Self::F32) -> Self::F32;
    unsafe fn sub(a: Self::F32, b: Self::F32) -> Self::F32;
    unsafe fn mul(a: Self::F32, b: Self::F32) -> Self::F32;
    /// The larger of both; `b` where either is NaN.
    unsafe fn max(a: Self::F32, b: Self::F32) -> Self::F32;
    /// The smaller of both; `b` where either is NaN.
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
    /// The sum of all lanes, as a tree: upper half plus lower half, down to one lane.
    unsafe fn reduce_add(x: Self::F32) -> f32;
    /// Transposes 16 × 16 f32 lanes.
    unsafe fn transpose(rows: [Self::F32; 16]) -> [Self::F32; 16];

    unsafe fn zero_bf16() -> Self::Bf16;
    unsafe fn load_bf16(from: *const Bf16) -> Self::Bf16;
    unsafe fn store_bf16(to: *mut Bf16, x: Self::Bf16);
    /// Writes with a non-temporal store.
    unsafe fn stream_bf16(to: *mut Bf16, x: Self::Bf16);
    /// Rounds 32 values to nearest even; `low` are the first sixteen. Subnormal numbers become zero.
    unsafe fn round(low: Self::F32, high: Self::F32) -> Self::Bf16;
    /// The first and the last sixteen of 32 values.
    unsafe fn widen(x: Self::Bf16) -> [Self::F32; 2];
    /// Interleaves two rows: lanes 0 to 15 of both, then lanes 16 to 31 of both.
    unsafe fn interleave(even: Self::Bf16, odd: Self::Bf16) -> [Self::Bf16; 2];
    /// Transposes 16 × 16 pairs of lanes.
    unsafe fn transpose_pairs(rows: [Self::Bf16; 16]) -> [Self::Bf16; 16];
}

/// Defines an unsafe function that is generic over [`Registers`], compiled for AVX-512 and in plain Rust. Calls require what the
/// body requires of its pointers; the macro chooses the registers of the engine in use, and callers have checked that there is one.
///
/// Functions on registers that the body calls must be `#[inline(always)]`, and closures must not handle registers: a closure
/// without `#[target_feature]` may be compiled as a call that passes registers through memory.
macro_rules! for_registers {
    ($(#[$meta:meta])* $vis:vis unsafe fn $name:ident<$r:ident>($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis unsafe fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            unsafe fn any<$r: $crate::bf16::registers::Registers>($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[allow(clippy::too_many_arguments)]
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma")]
                unsafe fn avx512($($arg: $ty),*) $(-> $ret)? {
                    // SAFETY: the enabled features are the instruction set of `Avx512`; pointers are as the caller's.
                    unsafe { any::<$crate::bf16::registers::Avx512>($($arg),*) }
                }

                if $crate::bf16::engine::has_avx512() {
                    // SAFETY: the engine in use has these features.
                    return unsafe { avx512($($arg),*) };
                }
            }
            // SAFETY: plain Rust needs no instruction set; pointers are as the caller's.
            unsafe { any::<$crate::bf16::registers::Arrays>($($arg),*) }
        }
    };
}
pub(super) use for_registers;

/// Two masks of the first `count` (at most 32) lanes of two registers.
#[inline(always)]
pub fn masks(count: usize) -> [u16; 2] {
    let bits = if count >= 32 { u32::MAX } else { (1 << count) - 1 };
    [bits as u16, (bits >> 16) as u16]
}

/// Up to 32 values of `x` from `column` on, zero beyond the end.
///
/// # Safety
/// The CPU has the instruction set of `R`, and `column ≤ x.len()`.
#[inline(always)]
pub unsafe fn load<R: Registers>(x: &[f32], column: usize) -> [R::F32; 2] {
    let [low, high] = masks(x.len() - column);
    let x = x.as_ptr().wrapping_add(column);
    // SAFETY: the masks hold only lanes within the slice.
    unsafe { [R::load_masked(low, x), R::load_masked(high, x.wrapping_add(16))] }
}
