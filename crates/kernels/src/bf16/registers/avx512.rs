//! AVX-512 registers.

use super::{Bf16, Registers};
use std::arch::x86_64::*;

/// AVX-512 (F, BW, DQ, VL) with bfloat16 conversions.
pub struct Avx512;

/// Implements the functions that are one intrinsic each.
macro_rules! intrinsics {
    ($($name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)? = $intrinsic:ident($($value:expr),*);)*) => {
        $(
            #[inline(always)]
            unsafe fn $name($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: the CPU has the instruction, and pointers are valid for the lanes that it accesses (trait contract).
                unsafe { $intrinsic($($value),*) }
            }
        )*
    };
}

impl Registers for Avx512 {
    type F32 = __m512;
    type Bf16 = __m512i;

    intrinsics! {
        splat(value: f32) -> __m512 = _mm512_set1_ps(value);
        load(from: *const f32) -> __m512 = _mm512_loadu_ps(from);
        load_masked(mask: u16, from: *const f32) -> __m512 = _mm512_maskz_loadu_ps(mask, from);
        store(to: *mut f32, x: __m512) = _mm512_storeu_ps(to, x);
        store_masked(to: *mut f32, mask: u16, x: __m512) = _mm512_mask_storeu_ps(to, mask, x);
        stream(to: *mut f32, x: __m512) = _mm512_stream_ps(to, x);
        select(mask: u16, x: __m512, other: __m512) -> __m512 = _mm512_mask_mov_ps(other, mask, x);
        add(a: __m512, b: __m512) -> __m512 = _mm512_add_ps(a, b);
        sub(a: __m512, b: __m512) -> __m512 = _mm512_sub_ps(a, b);
        mul(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps(a, b);
        max(a: __m512, b: __m512) -> __m512 = _mm512_max_ps(a, b);
        min(a: __m512, b: __m512) -> __m512 = _mm512_min_ps(a, b);
        mul_add(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmadd_ps(a, b, c);
        mul_sub(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmsub_ps(a, b, c);
        neg_mul_add(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fnmadd_ps(a, b, c);
        scale_by_pow2(a: __m512, x: __m512) -> __m512 = _mm512_scalef_ps(a, x);
        reduce_add(x: __m512) -> f32 = _mm512_reduce_add_ps(x);
        zero_bf16() -> __m512i = _mm512_setzero_si512();
        load_bf16(from: *const Bf16) -> __m512i = _mm512_loadu_si512(from.cast());
        store_bf16(to: *mut Bf16, x: __m512i) = _mm512_store_si512(to.cast(), x);
        stream_bf16(to: *mut Bf16, x: __m512i) = _mm512_stream_si512(to.cast(), x);
    }

    #[inline(always)]
    unsafe fn fraction(x: __m512) -> __m512 {
        const ROUND_DOWN: i32 = 0b1001; // keeps no fraction bits, rounds toward −∞, suppresses exceptions
        // SAFETY: the CPU has the instruction (trait contract).
        unsafe { _mm512_reduce_ps::<ROUND_DOWN>(x) }
    }

    #[inline(always)]
    unsafe fn transpose(rows: [__m512; 16]) -> [__m512; 16] {
        // SAFETY: both types are 512 plain bits, and the CPU has the instructions (trait contract).
        unsafe {
            std::mem::transmute(vlct_simd::transpose_16x16(std::mem::transmute::<
                [__m512; 16],
                [__m512i; 16],
            >(rows)))
        }
    }

    #[inline(always)]
    unsafe fn round(low: __m512, high: __m512) -> __m512i {
        // SAFETY: both types are 512 plain bits, and the CPU has the instruction (trait contract).
        unsafe { std::mem::transmute(_mm512_cvtne2ps_pbh(high, low)) }
    }

    #[inline(always)]
    unsafe fn widen(x: __m512i) -> [__m512; 2] {
        // SAFETY: the CPU has the instructions (trait contract).
        unsafe {
            let low = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(x));
            let high = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64::<1>(x));
            [
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(low)),
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(high)),
            ]
        }
    }

    #[inline(always)]
    unsafe fn interleave(even: __m512i, odd: __m512i) -> [__m512i; 2] {
        const INDEX: [u16; 32] = {
            let mut index = [0; 32];
            let mut i = 0;
            while i < 16 {
                index[2 * i] = i as u16;
                index[2 * i + 1] = 32 + i as u16;
                i += 1;
            }
            index
        };
        // SAFETY: `INDEX` is 64 bytes, and the CPU has the instructions (trait contract).
        unsafe {
            let low = _mm512_loadu_si512(INDEX.as_ptr().cast());
            let high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
            [
                _mm512_permutex2var_epi16(even, low, odd),
                _mm512_permutex2var_epi16(even, high, odd),
            ]
        }
    }

    #[inline(always)]
    unsafe fn transpose_pairs(rows: [__m512i; 16]) -> [__m512i; 16] {
        // SAFETY: the CPU has the instructions (trait contract).
        unsafe { vlct_simd::transpose_16x16(rows) }
    }
}
