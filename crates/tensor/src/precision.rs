//! The number format of a computation, and how f32 products are computed.

use std::fmt;

/// Number format of the operands of matrix products and of what is saved for the backward pass. Weights, sums, losses and the
/// residual stream are f32 in either case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Precision {
    /// 32 bits.
    #[default]
    F32,
    /// bfloat16.
    Bf16,
}

/// How f32 matrix products are computed. Results differ within the rounding errors of f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum F32Products {
    /// By fused multiply-add of f32.
    #[default]
    Fma,
    /// As six products of bfloat16 parts on AMX; products that are too small for that, and all products on other CPUs, by FMA.
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
