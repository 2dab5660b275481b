//! AVX-512 with `vdpbf16ps`, which adds the dot products of pairs of bfloat16 values to f32 lanes.

use super::{BLOCK, Beta, Bf16, SIDE, TileEngine};
use crate::bf16::prefetch::{Level, prefetch};
use std::arch::x86_64::*;

/// Multiplies on AVX-512 registers.
pub struct Avx512Bf16;

impl Avx512Bf16 {
    /// Whether the CPU has AVX-512 with bfloat16.
    pub fn is_present() -> bool {
        is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("avx512bf16")
    }

    /// Whether this is an AMD CPU, where `vdpbf16ps` is faster than f32 arithmetic.
    pub(super) fn is_fast() -> bool {
        let vendor = __cpuid(0);
        [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).concat() == b"AuthenticAMD"
    }
}

impl TileEngine for Avx512Bf16 {
    unsafe fn gemm_block(
        lhs: *const Bf16,
        rhs: *const Bf16,
        rows: usize,
        k_blocks: usize,
        dst: *mut f32,
        beta: Beta,
        prefetch: [*const Bf16; 2],
        vector_work: impl FnMut(usize),
    ) {
        // SAFETY: the CPU has the instructions, and the pointers are valid for these blocks (caller).
        unsafe { gemm_block(lhs, rhs, rows, k_blocks, dst, beta, prefetch) };
        (0..k_blocks).for_each(vector_work);
    }
}

/// Computes `dst[32×32] = β·dst + lhs·rhs`; see [`TileEngine::gemm_block`].
///
/// # Safety
/// `lhs` and `rhs` are valid for `k_blocks` blocks, `dst` for one block, and [`Avx512Bf16::is_present`] has returned `true`.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn gemm_block(
    lhs: *const Bf16,
    rhs: *const Bf16,
    rows: usize,
    k_blocks: usize,
    dst: *mut f32,
    beta: Beta,
    prefetched: [*const Bf16; 2],
) {
    for start in prefetched {
        prefetch(Level::L2, start, 4 * k_blocks);
    }
    /// Number of rows whose sums are in registers at a time: 16 registers of sums, two of rhs, and one broadcast pair of lhs.
    const ROWS: usize = 8;
    for first in (0..SIDE).step_by(ROWS) {
        if first >= rows {
            if beta == Beta::Zero {
                // SAFETY: `dst` is valid for a block (caller).
                unsafe { dst.add(first * SIDE).write_bytes(0, (SIDE - first) * SIDE) };
            }
            break;
        }
        // SAFETY: all offsets lie within the blocks, for which the pointers are valid (caller).
        unsafe {
            let dst = dst.add(first * SIDE);
            let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
            if beta == Beta::One {
                for (r, sum) in sums.iter_mut().enumerate() {
                    *sum = [
                        _mm512_loadu_ps(dst.add(r * SIDE)),
                        _mm512_loadu_ps(dst.add(r * SIDE + 16)),
                    ];
                }
            }
            for k_block in 0..k_blocks {
                let (lhs, rhs) = (lhs.add(k_block * BLOCK + first * SIDE), rhs.add(k_block * BLOCK));
                for pair in 0..16 {
                    let rhs = rhs.add(pair * SIDE).cast::<__m512bh>();
                    let rhs_pairs = [rhs.read_unaligned(), rhs.byte_add(1024).read_unaligned()];
                    for (r, sum) in sums.iter_mut().enumerate() {
                        let pair_bits = lhs.add(r * SIDE + pair * 2).cast::<i32>().read_unaligned();
                        let lhs_pair = std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(pair_bits));
                        for (sum, rhs_pair) in sum.iter_mut().zip(rhs_pairs) {
                            *sum = _mm512_dpbf16_ps(*sum, lhs_pair, rhs_pair);
                        }
                    }
                }
            }
            for (r, sum) in sums.iter().enumerate() {
                _mm512_storeu_ps(dst.add(r * SIDE), sum[0]);
                _mm512_storeu_ps(dst.add(r * SIDE + 16), sum[1]);
            }
        }
    }
}
