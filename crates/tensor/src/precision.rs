//! The number format of a computation.

use vlct_kernels::bf16::engine;

/// Number format of products and of what is kept for the backward pass. Weights, sums, losses and the residual stream are
/// f32 in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Precision {
    /// 32 bits.
    #[default]
    F32,
    /// bfloat16.
    Bf16,
}

impl Precision {
    /// Whether this CPU multiplies bfloat16 faster than f32.
    pub fn bf16_is_fast() -> bool {
        engine().is_some()
    }
}
