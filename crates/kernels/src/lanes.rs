//! Registers of f32 numbers, so that a loop over them is written once for AVX-512, AVX2 and every other processor.
//!
//! Loops over slices are left to the compiler ([`crate::simd::multiversion`]). This is for those whose speed depends on which
//! sums stay in registers.

/// A register of numbers; operations are number by number.
///
/// # Safety
/// Of all functions: the machine has the instructions, and a pointer is to as many numbers as the functions say.
pub(crate) trait Lanes: Copy {
    /// Numbers in a register.
    const WIDTH: usize;
    /// Rows of two registers each whose sums a processor holds, beside what else a product needs.
    const ROWS: usize;

    /// The same number everywhere.
    unsafe fn splat(value: f32) -> Self;
    /// `WIDTH` numbers from memory.
    unsafe fn load(from: *const f32) -> Self;
    /// `WIDTH` numbers to memory.
    unsafe fn store(self, to: *mut f32);
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn div(self, other: Self) -> Self;
    /// `self · factor + term`, fused where the processor does that.
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self;
    /// The larger one; `other`, where that is no number.
    unsafe fn max(self, other: Self) -> Self;
    /// `self · 2ⁿ`, where `n` are the low bits of `integer`'s mantissa, for results that are neither subnormal nor infinite.
    unsafe fn times_power(self, integer: Self) -> Self;
    /// Transposes `WIDTH` × `WIDTH` numbers from rows `stride` apart to rows `to_stride` apart.
    unsafe fn transpose(from: *const f32, stride: usize, to: *mut f32, to_stride: usize);
}

/// `2^x` for `x ≤ 0`, relative error below 2e-7 (and `2^-126` for everything smaller).
///
/// `2^n · 2^r` with |r| ≤ ½ and a polynomial of degree 6 (minimax, error below 2e-9).
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
pub(crate) unsafe fn exp2_of_negative<L: Lanes>(x: L) -> L {
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
    // SAFETY: by the contract.
    unsafe {
        let x = L::splat(-126.0).max(x);
        let round = L::splat(ROUND);
        let integer = x.add(round);
        let r = x.sub(integer.sub(round));
        let mut p = L::splat(COEFFICIENTS[0]);
        for c in &COEFFICIENTS[1..] {
            p = p.mul_add(r, L::splat(*c));
        }
        p.times_power(integer)
    }
}

/// Four numbers in an array, for which every compiler finds its processor's instructions.
#[derive(Clone, Copy)]
pub(crate) struct Four([f32; 4]);

impl Four {
    #[inline(always)]
    fn with(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

impl Lanes for Four {
    const WIDTH: usize = 4;
    const ROWS: usize = 6;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; 4])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: by the contract.
        unsafe { Self(from.cast::<[f32; 4]>().read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: by the contract.
        unsafe { to.cast::<[f32; 4]>().write_unaligned(self.0) };
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.with(other, |a, b| a + b)
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        self.with(other, |a, b| a - b)
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        self.with(other, |a, b| a * b)
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        self.with(other, |a, b| a / b)
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self {
        // Elsewhere it would be a call.
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
        self.with(other, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    unsafe fn times_power(self, integer: Self) -> Self {
        self.with(integer, |a, n| {
            f32::from_bits(a.to_bits().wrapping_add(n.to_bits() << 23))
        })
    }

    #[inline(always)]
    unsafe fn transpose(from: *const f32, stride: usize, to: *mut f32, to_stride: usize) {
        for r in 0..4 {
            for c in 0..4 {
                // SAFETY: by the contract.
                unsafe { *to.add(c * to_stride + r) = *from.add(r * stride + c) };
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Lanes;
    use std::arch::x86_64::*;

    /// What is one intrinsic: registers made of numbers, registers in memory, and operations on registers.
    macro_rules! intrinsics {
        ($splat:ident, $load:ident, $store:ident; $($name:ident($($operand:ident),*) = $intrinsic:ident;)*) => {
            #[inline(always)]
            unsafe fn splat(value: f32) -> Self {
                // SAFETY: by the contract, here and below.
                unsafe { $splat(value) }
            }

            #[inline(always)]
            unsafe fn load(from: *const f32) -> Self {
                // SAFETY: as above.
                unsafe { $load(from) }
            }

            #[inline(always)]
            unsafe fn store(self, to: *mut f32) {
                // SAFETY: as above.
                unsafe { $store(to, self) };
            }

            $(
                #[inline(always)]
                unsafe fn $name(self, $($operand: Self),*) -> Self {
                    // SAFETY: as above.
                    unsafe { $intrinsic(self, $($operand),*) }
                }
            )*
        };
    }

    impl Lanes for __m256 {
        const WIDTH: usize = 8;
        const ROWS: usize = 6;

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
        unsafe fn times_power(self, integer: Self) -> Self {
            // SAFETY: by the contract, here and below.
            unsafe {
                let power = _mm256_slli_epi32::<23>(_mm256_castps_si256(integer));
                _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(self), power))
            }
        }

        #[inline(always)]
        unsafe fn transpose(from: *const f32, stride: usize, to: *mut f32, to_stride: usize) {
            // SAFETY: as above.
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
                // Each half of fours[4g + j] holds a column (j, or j + 4) of four rows.
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
        const ROWS: usize = 12;

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
        unsafe fn times_power(self, integer: Self) -> Self {
            // SAFETY: by the contract, here and below.
            unsafe {
                let power = _mm512_slli_epi32::<23>(_mm512_castps_si512(integer));
                _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(self), power))
            }
        }

        #[inline(always)]
        unsafe fn transpose(from: *const f32, stride: usize, to: *mut f32, to_stride: usize) {
            // SAFETY: as above.
            unsafe {
                let mut rows = [_mm512_setzero_si512(); 16];
                for (r, row) in rows.iter_mut().enumerate() {
                    *row = _mm512_loadu_si512(from.add(r * stride).cast());
                }
                for (c, column) in crate::bf16::transpose(rows).into_iter().enumerate() {
                    _mm512_storeu_si512(to.add(c * to_stride).cast(), column);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::for_lanes;
    use crate::simd::tests::at_each_level;

    for_lanes! {
        fn power<L>(x: f32) -> f32 {
            let mut out = [0f32; 16];
            // SAFETY: no register has more numbers; the machine has the instructions.
            unsafe { exp2_of_negative(L::splat(x)).store(out.as_mut_ptr()) };
            out[L::WIDTH - 1]
        }
    }

    #[test]
    fn powers_of_two_are_as_exact_as_they_say() {
        at_each_level(|| {
            assert_eq!(power(0.0), 1.0);
            for i in 0..126_000 {
                let x = i as f32 / -1000.0;
                let want = (x as f64).exp2();
                assert!((power(x) as f64 / want - 1.0).abs() < 2e-7, "2^{x}");
            }
            for x in [-126.5, -1e30, f32::NEG_INFINITY] {
                assert_eq!(power(x), 2f32.powi(-126));
            }
            assert!(power(f32::NAN).is_nan());
        });
    }
}
