//! The bfloat16 format, and the size of blocks.

use bytemuck::{Pod, Zeroable};

/// Number of rows and columns of a block: `MR` = `NR` = 32. A k-block also has 32 inner elements.
pub const SIDE: usize = 32;

/// Number of elements of a block.
pub const BLOCK: usize = SIDE * SIDE;

/// A bfloat16 number, the upper half of an `f32`: 8 bits of exponent, 8 bits of precision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub struct Bf16(u16);

impl Bf16 {
    /// The unit roundoff, 2⁻⁸: the largest relative error of rounding. It is half the distance from 1 to the next larger number.
    pub const EPSILON: f32 = 1.0 / 256.0;

    /// Rounds to the nearest number, ties to even. NaNs become the NaN `0x7fc0`.
    pub fn from_f32(value: f32) -> Self {
        let bits = value.to_bits();
        if value.is_nan() {
            return Self(0x7fc0);
        }
        let odd = (bits >> 16) & 1;
        Self((bits.wrapping_add(0x7fff + odd) >> 16) as u16)
    }

    /// Converts to f32, without error.
    pub fn to_f32(self) -> f32 {
        f32::from_bits((self.0 as u32) << 16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_to_nearest_even_and_keeps_non_finite_values() {
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
