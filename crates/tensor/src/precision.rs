//! The number format of a computation, and the method for f32 products.

use std::fmt;

/// Number format of the operands of matrix products and of saved activations. Weights, sums, losses and the residual stream are always
/// f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Precision {
    /// 32-bit floating point.
    #[default]
    F32,
    /// bfloat16.
    Bf16,
}

/// The method for f32 matrix products. Results of the methods differ by rounding errors of f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum F32Products {
    /// Fused multiply-add of f32.
    #[default]
    Fma,
    /// Each operand is split into three bfloat16 matrices; AMX adds six of the nine products. Small products use FMA, and so do CPUs
    /// without AMX.
    Bf16x3,
}

impl F32Products {
    /// All methods.
    pub const ALL: [Self; 2] = [Self::Fma, Self::Bf16x3];

    /// The name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fma => "fma",
            Self::Bf16x3 => "bf16x3",
        }
    }
}

impl fmt::Display for F32Products {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fma => "FMA",
            Self::Bf16x3 => "bf16x3",
        })
    }
}
