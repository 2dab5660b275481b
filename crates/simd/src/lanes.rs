//! Vector registers of f32 lanes: kernels that are generic over [`Lanes`] compile for AVX-512, for AVX2 and for any other CPU.
//!
//! [`Lanes`] is for kernels whose speed depends on which sums stay in registers. The compiler vectorises other loops
//! ([`crate::multiversion!`]).

/// A vector register of `WIDTH` f32 lanes; operations act on each lane.
///
/// # Safety
/// Every function requires that the CPU has the instruction set of the implementing type ([`crate::for_lanes!`] ensures this),
/// and that each pointer is valid for the `WIDTH` lanes that the function reads or writes through it. Pointers need not be
/// aligned.
#[expect(
    clippy::missing_safety_doc,
    reason = "the requirement of all functions is stated above"
)]
pub trait Lanes: Copy {
    /// Number of lanes.
    const WIDTH: usize;
    /// Rows of a micro-kernel with two registers per row: the register file holds its `2·MR` registers of sums, one broadcast lhs
    /// element and two registers of the rhs.
    const MR: usize;

    /// Returns a register with `value` in every lane.
    unsafe fn splat(value: f32) -> Self;
    /// Reads `WIDTH` lanes from memory.
    unsafe fn load(from: *const f32) -> Self;
    /// Writes `WIDTH` lanes to memory.
    unsafe fn store(self, to: *mut f32);
    /// `self + other`
    unsafe fn add(self, other: Self) -> Self;
    /// `self - other`
    unsafe fn sub(self, other: Self) -> Self;
    /// `self * other`
    unsafe fn mul(self, other: Self) -> Self;
    /// `self / other`
    unsafe fn div(self, other: Self) -> Self;
    /// `self * factor + term`, with one rounding if the instruction set has a fused multiply-add.
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self;
    /// The larger value of each lane; `other` where either is NaN.
    unsafe fn max(self, other: Self) -> Self;
    /// `self * 2^n` (C's `ldexp`). The low bits of `integer`'s mantissa hold `n`. Results must be normal numbers.
    unsafe fn scale_by_pow2(self, integer: Self) -> Self;
    /// Transposes `WIDTH` × `WIDTH` elements from rows `stride` apart to rows `to_stride` apart. Both pointers must be valid for
    /// `WIDTH` rows.
    unsafe fn transpose(from: *const f32, stride: usize, to: *mut f32, to_stride: usize);
}

/// Returns `2^x` for −126 ≤ x ≤ 0, with a relative error below 2e-7, and `2^-126` for smaller x.
///
/// Computes `2^n · 2^r` with |r| ≤ ½, where `2^r` is a minimax polynomial of degree 6 (error below 2e-9).
///
/// # Safety
/// The CPU has the instruction set of `L`.
#[inline(always)]
pub unsafe fn exp2_nonpositive<L: Lanes>(x: L) -> L {
    const ROUND: f32 = 12_582_912.0; // 1.5 · 2^23: adding it rounds to the nearest integer
    const COEFFICIENTS: [f32; 7] = [
        1.534_581_2e-4,
        1.339_993_1e-3,
        9.618_489e-3,
        5.550_328_6e-2,
        2.402_264_6e-1,
        6.931_472e-1,
        1.0,
    ];
    // SAFETY: the CPU has the instruction set of `L` (caller); no pointers are used.
    unsafe {
        let x = L::splat(-126.0).max(x);
        let round = L::splat(ROUND);
        let integer = x.add(round);
        let r = x.sub(integer.sub(round));
        let mut p = L::splat(COEFFICIENTS[0]);
        for c in &COEFFICIENTS[1..] {
            p = p.mul_add(r, L::splat(*c));
        }
        p.scale_by_pow2(integer)
    }
}

/// Four lanes in an array, for which compilers generate vector instructions on any CPU.
#[derive(Clone, Copy)]
pub struct F32x4([f32; 4]);

impl F32x4 {
    #[inline(always)]
    fn zip_with(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

impl Lanes for F32x4 {
    const WIDTH: usize = 4;
    const MR: usize = 6;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; 4])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: `from` is valid for `WIDTH` = 4 values (trait contract).
        unsafe { Self(from.cast::<[f32; 4]>().read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: `to` is valid for `WIDTH` = 4 values (trait contract).
        unsafe { to.cast::<[f32; 4]>().write_unaligned(self.0) };
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.zip_with(other, |a, b| a + b)
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        self.zip_with(other, |a, b| a - b)
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        self.zip_with(other, |a, b| a * b)
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        self.zip_with(other, |a, b| a / b)
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self {
        // `f32::mul_add` is an instruction on AArch64. Elsewhere it may be a library call.
        const FUSED: bool = cfg!(target_arch = "aarch64");
        Self(std::array::from_fn(|i| {
            if FUSED {
                self.0[i].mul_add(factor.0[i], term.0[i])
            } else {
                self.0[i] * factor.0[i] + term.0[i]
            }
        }))
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        self.zip_with(other, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    unsafe fn scale_by_pow2(self, integer: Self) -> Self {
        self.zip_with(integer, |a, n| {
            f32::from_bits(a.to_bits().wrapping_add(n.to_bits() << 23))
        })
    }

    #[inline(always)]
    unsafe fn transpose(from: *const f32, stride: usize, to: *mut f32, to_stride: usize) {
        for r in 0..4 {
            for c in 0..4 {
                // SAFETY: both pointers are valid for four rows of four values (trait contract).
                unsafe { *to.add(c * to_stride + r) = *from.add(r * stride + c) };
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Lanes;
    use std::arch::x86_64::*;

    /// Implements the functions of [`Lanes`] that are one intrinsic each.
    macro_rules! intrinsics {
        ($splat:ident, $load:ident, $store:ident; $($name:ident($($operand:ident),*) = $intrinsic:ident;)*) => {
            #[inline(always)]
            unsafe fn splat(value: f32) -> Self {
                // SAFETY: the CPU has the instruction (trait contract).
                unsafe { $splat(value) }
            }

            #[inline(always)]
            unsafe fn load(from: *const f32) -> Self {
                // SAFETY: `from` is valid for `WIDTH` values, and the CPU has the instruction (trait contract).
                unsafe { $load(from) }
            }

            #[inline(always)]
            unsafe fn store(self, to: *mut f32) {
                // SAFETY: `to` is valid for `WIDTH` values, and the CPU has the instruction (trait contract).
                unsafe { $store(to, self) };
            }

            $(
                #[inline(always)]
                unsafe fn $name(self, $($operand: Self),*) -> Self {
                    // SAFETY: the CPU has the instruction (trait contract).
                    unsafe { $intrinsic(self, $($operand),*) }
                }
            )*
        };
    }

    impl Lanes for __m256 {
        const WIDTH: usize = 8;
        const MR: usize = 6;

        intrinsics! {
            _mm256_set1_ps, _mm256_loadu_ps, _mm256_storeu_ps;
            add(other) = _mm256_add_ps;
            sub(other) = _mm256_sub_ps;
            mul(other) = _mm256_mul_ps;
            div(other) = _mm256_div_ps;
            max(other) = _mm256_max_ps;
            mul_add(factor, term) = _mm256_fmadd_ps;
        }

        #[inline(always)]
        unsafe fn scale_by_pow2(self, integer: Self) -> Self {
            // SAFETY: the CPU has the instructions (trait contract).
            unsafe {
                let power = _mm256_slli_epi32::<23>(_mm256_castps_si256(integer));
                _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(self), power))
            }
        }

        #[inline(always)]
        unsafe fn transpose(from: *const f32, stride: usize, to: *mut f32, to_stride: usize) {
            // SAFETY: both pointers are valid for `WIDTH` rows, and the CPU has the instructions (trait contract).
            unsafe {
                let mut rows = [_mm256_setzero_ps(); 8];
                for (r, row) in rows.iter_mut().enumerate() {
                    *row = _mm256_loadu_ps(from.add(r * stride));
                }
                let mut pairs = rows;
                for i in 0..4 {
                    pairs[2 * i] = _mm256_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
                    pairs[2 * i + 1] = _mm256_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
                }
                // For j < 4, the halves of fours[4g + j] hold columns j and j + 4 of rows 4g..4g+4.
                let mut fours = pairs;
                for g in 0..2 {
                    for j in 0..2 {
                        let (a, b) = (pairs[4 * g + j], pairs[4 * g + 2 + j]);
                        fours[4 * g + 2 * j] = _mm256_shuffle_ps::<0x44>(a, b);
                        fours[4 * g + 2 * j + 1] = _mm256_shuffle_ps::<0xee>(a, b);
                    }
                }
                for j in 0..4 {
                    let (a, b) = (fours[j], fours[4 + j]);
                    _mm256_storeu_ps(to.add(j * to_stride), _mm256_permute2f128_ps::<0x20>(a, b));
                    _mm256_storeu_ps(to.add((j + 4) * to_stride), _mm256_permute2f128_ps::<0x31>(a, b));
                }
            }
        }
    }

    impl Lanes for __m512 {
        const WIDTH: usize = 16;
        const MR: usize = 12;

        intrinsics! {
            _mm512_set1_ps, _mm512_loadu_ps, _mm512_storeu_ps;
            add(other) = _mm512_add_ps;
            sub(other) = _mm512_sub_ps;
            mul(other) = _mm512_mul_ps;
            div(other) = _mm512_div_ps;
            max(other) = _mm512_max_ps;
            mul_add(factor, term) = _mm512_fmadd_ps;
        }

        #[inline(always)]
        unsafe fn scale_by_pow2(self, integer: Self) -> Self {
            // SAFETY: the CPU has the instructions (trait contract).
            unsafe {
                let power = _mm512_slli_epi32::<23>(_mm512_castps_si512(integer));
                _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(self), power))
            }
        }

        #[inline(always)]
        unsafe fn transpose(from: *const f32, stride: usize, to: *mut f32, to_stride: usize) {
            // SAFETY: both pointers are valid for `WIDTH` rows, and the CPU has the instructions (trait contract).
            unsafe {
                let mut rows = [_mm512_setzero_si512(); 16];
                for (r, row) in rows.iter_mut().enumerate() {
                    *row = _mm512_loadu_si512(from.add(r * stride).cast());
                }
                for (c, column) in crate::transpose_16x16(rows).into_iter().enumerate() {
                    _mm512_storeu_si512(to.add(c * to_stride).cast(), column);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::at_each_level;
    use crate::for_lanes;

    for_lanes! {
        fn exp2<L>(x: f32) -> f32 {
            let mut out = [0f32; 16];
            // SAFETY: no register has more than 16 lanes; `for_lanes!` has checked the instruction set.
            unsafe { exp2_nonpositive(L::splat(x)).store(out.as_mut_ptr()) };
            out[L::WIDTH - 1]
        }
    }

    #[test]
    fn exp2_nonpositive_keeps_its_error_bound() {
        at_each_level(|| {
            assert_eq!(exp2(0.0), 1.0);
            for i in 0..126_000 {
                let x = i as f32 / -1000.0;
                let want = (x as f64).exp2();
                assert!((exp2(x) as f64 / want - 1.0).abs() < 2e-7, "2^{x}");
            }
            for x in [-126.5, -1e30, f32::NEG_INFINITY] {
                assert_eq!(exp2(x), 2f32.powi(-126));
            }
            assert!(exp2(f32::NAN).is_nan());
        });
    }
}
