//! The transpose of a 16 × 16 matrix in AVX-512 registers.

use std::arch::x86_64::*;

/// Transposes 16 × 16 elements of 32 bits: element `c` of `rows[r]` becomes element `r` of the result's register `c`.
///
/// # Safety
/// A caller that is not compiled for AVX-512F and AVX-512BW must have checked that the CPU has both.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub fn transpose_16x16(rows: [__m512i; 16]) -> [__m512i; 16] {
    let mut t = rows;
    for i in 0..8 {
        t[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    // t[2i], 128-bit lane l: columns 4l and 4l + 1 of rows 2i and 2i + 1; t[2i + 1]: columns 4l + 2 and 4l + 3.
    let mut u = t;
    for g in 0..4 {
        u[4 * g] = _mm512_unpacklo_epi64(t[4 * g], t[4 * g + 2]);
        u[4 * g + 1] = _mm512_unpackhi_epi64(t[4 * g], t[4 * g + 2]);
        u[4 * g + 2] = _mm512_unpacklo_epi64(t[4 * g + 1], t[4 * g + 3]);
        u[4 * g + 3] = _mm512_unpackhi_epi64(t[4 * g + 1], t[4 * g + 3]);
    }
    // u[4g + j], lane l: column 4l + j of rows 4g..4g+4.
    let mut out = u;
    for j in 0..4 {
        let low = _mm512_shuffle_i32x4::<0x88>(u[j], u[4 + j]); // lanes 0, 2 of groups 0, 1
        let high = _mm512_shuffle_i32x4::<0x88>(u[8 + j], u[12 + j]);
        out[j] = _mm512_shuffle_i32x4::<0x88>(low, high); // lane 0 of all groups
        out[8 + j] = _mm512_shuffle_i32x4::<0xdd>(low, high); // lane 2
        let low = _mm512_shuffle_i32x4::<0xdd>(u[j], u[4 + j]); // lanes 1, 3
        let high = _mm512_shuffle_i32x4::<0xdd>(u[8 + j], u[12 + j]);
        out[4 + j] = _mm512_shuffle_i32x4::<0x88>(low, high);
        out[12 + j] = _mm512_shuffle_i32x4::<0xdd>(low, high);
    }
    out
}
