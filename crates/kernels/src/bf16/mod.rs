//! bfloat16: matrix products, attention and layer norm on operands of 16 bits, with sums in f32.
//!
//! A matrix lies in memory in square pieces ([`blocks`]): such a piece is, as it is, the left operand of a matrix
//! instruction, and becomes any other operand by a transformation of its own two kilobytes. The products ([`gemm`]) need
//! AVX-512 and either AMX tiles or a fast `vdpbf16ps`; [`support`] says what there is. Everything here but the number
//! format itself panics where it found nothing.

#[cfg(target_arch = "x86_64")]
pub mod attention;
#[cfg(target_arch = "x86_64")]
pub mod blocks;
#[cfg(not(target_arch = "x86_64"))]
mod elsewhere;
#[cfg(target_arch = "x86_64")]
pub mod epilogue;
#[cfg(target_arch = "x86_64")]
mod fetch;
#[cfg(target_arch = "x86_64")]
pub mod gemm;
#[cfg(target_arch = "x86_64")]
mod grid;
#[cfg(target_arch = "x86_64")]
mod kernel;
#[cfg(target_arch = "x86_64")]
pub mod layer_norm;
#[cfg(target_arch = "x86_64")]
mod math;
#[cfg(target_arch = "x86_64")]
mod right;
#[cfg(target_arch = "x86_64")]
mod tiles;
#[cfg(target_arch = "x86_64")]
pub(crate) mod triple;
#[cfg(target_arch = "x86_64")]
mod vectors;

#[cfg(not(target_arch = "x86_64"))]
pub(crate) use elsewhere::triple;
#[cfg(not(target_arch = "x86_64"))]
pub use elsewhere::{attention, blocks, epilogue, gemm, layer_norm};
#[cfg(target_arch = "x86_64")]
use std::sync::OnceLock;

/// A number of 8 bits of exponent and 8 of precision: the upper half of an `f32`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Bf16(u16);

impl Bf16 {
    /// Half the distance between 1 and the next larger number: the largest relative error of rounding.
    pub const EPSILON: f32 = 1.0 / 256.0;

    /// The nearest number, ties to even.
    pub fn from_f32(value: f32) -> Self {
        let bits = value.to_bits();
        if value.is_nan() {
            return Self(0x7fc0);
        }
        let odd = (bits >> 16) & 1;
        Self((bits.wrapping_add(0x7fff + odd) >> 16) as u16)
    }

    /// The same number.
    pub fn to_f32(self) -> f32 {
        f32::from_bits((self.0 as u32) << 16)
    }
}

/// The right operand `[k, n]` of a product ([`gemm`]).
pub enum Right<'a> {
    /// The transpose of a row-major weight `[n, k]`: what a linear layer multiplies with.
    WeightTransposed(&'a [f32]),
    /// A row-major weight `[k, n]`: what its gradient is multiplied with.
    Weight(&'a [f32]),
    /// A matrix in blocks.
    Blocks(blocks::Blocks<'a>),
    /// The GELU of a matrix in blocks.
    Gelu(blocks::Blocks<'a>),
    /// A matrix in blocks, whose columns' sums are added to these numbers on the way.
    Summed(blocks::Blocks<'a>, &'a mut [f32]),
    /// A weight that was brought into steps before.
    Packed(&'a gemm::Packed),
}

/// How this machine multiplies bfloat16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// Not at all, or slower than f32.
    None,
    /// `vdpbf16ps` on AVX-512 registers.
    Vectors,
    /// AMX tiles.
    Tiles,
}

/// What this machine has, found out once.
///
/// `vdpbf16ps` counts on AMD processors only, which do it at twice the rate of f32; on Intel's (Sapphire Rapids) it runs at
/// half of that rate.
pub fn support() -> Support {
    #[cfg(target_arch = "x86_64")]
    {
        static SUPPORT: OnceLock<Support> = OnceLock::new();
        *SUPPORT.get_or_init(|| {
            if !vectors::present() {
                Support::None
            } else if tiles::permitted() {
                Support::Tiles
            } else if vectors::fast() {
                Support::Vectors
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
fn assert_supported() {
    assert!(support() != Support::None, "this machine does not multiply bfloat16");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_to_nearest_even_and_keeps_what_is_not_finite() {
        for (value, want) in [
            (1.0, 1.0),
            (1.0 + 1.0 / 256.0, 1.0),
            (1.0 + 3.0 / 256.0, 1.0 + 4.0 / 256.0),
            (-1.003, -1.0),
            (f32::INFINITY, f32::INFINITY),
            (f32::MAX, f32::INFINITY),
        ] {
            assert_eq!(Bf16::from_f32(value).to_f32(), want, "{value}");
        }
        assert!(Bf16::from_f32(f32::from_bits(0x7f80_0001)).to_f32().is_nan());
    }
}
