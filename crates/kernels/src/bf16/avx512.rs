//! bfloat16 on AVX-512 registers: conversions, and products by `vdpbf16ps` where that is fast.

/// Whether the machine has AVX-512 with bfloat16.
pub(super) fn present() -> bool {
    vlct_simd::Level::detect() == vlct_simd::Level::V4 && is_x86_feature_detected!("avx512bf16")
}

/// Whether `vdpbf16ps` beats f32 arithmetic.
pub(super) fn fast() -> bool {
    let vendor = std::arch::x86_64::__cpuid(0);
    [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).concat() == b"AuthenticAMD"
}

mod x86 {
    use super::super::number::Bf16;
    use super::super::prefetch::{Level, prefetch};
    use crate::mat::Beta;
    use std::arch::x86_64::*;

    /// `c [32, 32] = keep·c + a·b` over `steps` steps of 32; see
    /// [`super::super::micro_kernel::MicroKernel::gemm_block_interleaved`].
    ///
    /// # Safety
    /// `a` and `b` are `steps` steps of 2 KiB each, `c` is 4 KiB, and [`super::present`] is true.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub unsafe fn multiply(
        a: *const Bf16,
        b: *const Bf16,
        steps: usize,
        c: *mut f32,
        beta: Beta,
        fetched: [*const Bf16; 2],
    ) {
        for start in fetched {
            prefetch(Level::L2, start, 4 * steps);
        }
        /// Rows whose sums stay in registers: 8 rows of two registers, two for the right operand, the left one broadcast.
        const ROWS: usize = 8;
        for first in (0..32).step_by(ROWS) {
            // SAFETY: by the contract, all addresses lie within the operands.
            unsafe {
                let c = c.add(first * 32);
                let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
                if beta == Beta::One {
                    for (r, sum) in sums.iter_mut().enumerate() {
                        *sum = [_mm512_loadu_ps(c.add(r * 32)), _mm512_loadu_ps(c.add(r * 32 + 16))];
                    }
                }
                for step in 0..steps {
                    let (a, b) = (a.add(step * 1024 + first * 32), b.add(step * 1024));
                    for pair in 0..16 {
                        let b = b.add(pair * 32).cast::<__m512bh>();
                        let right = [b.read_unaligned(), b.byte_add(1024).read_unaligned()];
                        for (r, sum) in sums.iter_mut().enumerate() {
                            let two = a.add(r * 32 + pair * 2).cast::<i32>().read_unaligned();
                            let left = std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(two));
                            for (sum, right) in sum.iter_mut().zip(right) {
                                *sum = _mm512_dpbf16_ps(*sum, left, right);
                            }
                        }
                    }
                }
                for (r, sum) in sums.iter().enumerate() {
                    _mm512_storeu_ps(c.add(r * 32), sum[0]);
                    _mm512_storeu_ps(c.add(r * 32 + 16), sum[1]);
                }
            }
        }
    }

    /// 32 numbers rounded: `low` the first sixteen.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub fn round2(low: __m512, high: __m512) -> __m512i {
        // SAFETY: both types are 512 plain bits.
        unsafe { std::mem::transmute(_mm512_cvtne2ps_pbh(high, low)) }
    }

    /// The first and the last sixteen of 32 numbers.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub fn widen(values: __m512i) -> [__m512; 2] {
        let low = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(values));
        let high = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64::<1>(values));
        [
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(low)),
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(high)),
        ]
    }

    /// Lets the numbers of two rows alternate: columns 0 to 15 of both, then columns 16 to 31.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub fn zip(even: __m512i, odd: __m512i) -> [__m512i; 2] {
        let mut index = [0u16; 32];
        for i in 0..16 {
            index[2 * i] = i as u16;
            index[2 * i + 1] = 32 + i as u16;
        }
        // SAFETY: the array is 64 bytes.
        let low = unsafe { _mm512_loadu_si512(index.as_ptr().cast()) };
        let high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
        [
            _mm512_permutex2var_epi16(even, low, odd),
            _mm512_permutex2var_epi16(even, high, odd),
        ]
    }
}

pub(super) use vlct_simd::transpose_16x16 as transpose;
pub(super) use x86::{multiply, round2, widen, zip};
