//! Linear layers, norms and the pre-norm transformer block.

use super::BACKBONE_EPS;
use vlct_tensor::ops::{Projections, Varlen};
use vlct_tensor::{ParameterId, Parameters, Tape, Var};

/// Lookup of parameters by name.
pub(super) struct ParameterIds<'a>(pub &'a Parameters);

impl ParameterIds<'_> {
    /// Returns the id of a parameter.
    ///
    /// # Panics
    /// Panics if [`VlcConfig::parameters`](crate::VlcConfig::parameters) does not declare the name.
    pub fn id(&self, name: &str) -> ParameterId {
        self.0
            .id(name)
            .unwrap_or_else(|| panic!("parameter {name} is used but not declared"))
    }

    pub fn linear(&self, name: &str) -> Linear {
        Linear {
            weight: self.id(&format!("{name}.weight")),
            bias: self.id(&format!("{name}.bias")),
        }
    }

    pub fn norm(&self, name: &str) -> Norm {
        Norm {
            weight: self.id(&format!("{name}.weight")),
            bias: self.id(&format!("{name}.bias")),
        }
    }

    pub fn block(&self, name: &str) -> Block {
        Block {
            norm1: self.norm(&format!("{name}.norm1")),
            qkv: self.linear(&format!("{name}.attn.qkv")),
            proj: self.linear(&format!("{name}.attn.proj")),
            norm2: self.norm(&format!("{name}.norm2")),
            fc1: self.linear(&format!("{name}.mlp.fc1")),
            fc2: self.linear(&format!("{name}.mlp.fc2")),
        }
    }
}

/// A linear layer, `x·Wᵀ + b`.
pub(super) struct Linear {
    weight: ParameterId,
    bias: ParameterId,
}

impl Linear {
    pub fn forward(&self, tape: &Tape, parameters: &Parameters, x: &Var, residual: Option<&Var>) -> Var {
        let (w, b) = (
            tape.parameter(parameters, self.weight),
            tape.parameter(parameters, self.bias),
        );
        tape.linear(x, &w, Some(&b), residual)
    }
}

/// A layer norm.
pub(super) struct Norm {
    weight: ParameterId,
    bias: ParameterId,
}

impl Norm {
    pub fn forward(&self, tape: &Tape, parameters: &Parameters, x: &Var, eps: f32) -> Var {
        let (w, b) = (
            tape.parameter(parameters, self.weight),
            tape.parameter(parameters, self.bias),
        );
        tape.layer_norm(x, &w, &b, eps)
    }
}

/// A pre-norm block: `x ← x + Attention(LN(x))`, then `x ← x + MLP(LN(x))`.
pub(super) struct Block {
    norm1: Norm,
    qkv: Linear,
    proj: Linear,
    norm2: Norm,
    fc1: Linear,
    fc2: Linear,
}

impl Block {
    /// Returns `x + Attention(LN(x))`, one row per query token.
    pub fn attend(&self, tape: &Tape, p: &Parameters, x: &Var, varlen: &Varlen, heads: usize) -> Var {
        let pair = |weight, bias| [weight, bias].map(|id| tape.parameter(p, id));
        let norm = pair(self.norm1.weight, self.norm1.bias);
        let qkv = pair(self.qkv.weight, self.qkv.bias);
        let proj = pair(self.proj.weight, self.proj.bias);
        let (norm, qkv, proj) = ((&norm).into(), (&qkv).into(), (&proj).into());
        tape.attention_sublayer(x, norm, BACKBONE_EPS, qkv, proj, varlen, heads)
    }

    /// Returns the queries, keys and values of rows, the first part of [`Block::attend`]; for inference.
    pub fn project(&self, tape: &Tape, p: &Parameters, x: &Var) -> Projections {
        let pair = |weight, bias| [weight, bias].map(|id| tape.parameter(p, id));
        let norm = pair(self.norm1.weight, self.norm1.bias);
        let qkv = pair(self.qkv.weight, self.qkv.bias);
        tape.project(x, (&norm).into(), BACKBONE_EPS, (&qkv).into())
    }

    /// Returns [`Block::attend`] of `x`, given the result of [`Block::project`] for its rows.
    pub fn attend_to_projections(
        &self,
        tape: &Tape,
        p: &Parameters,
        x: &Var,
        projections: &Projections,
        varlen: &Varlen,
        heads: usize,
    ) -> Var {
        let proj = [self.proj.weight, self.proj.bias].map(|id| tape.parameter(p, id));
        tape.attend_to_projections(x, projections, (&proj).into(), varlen, heads)
    }

    /// Returns `x + MLP(LN(x))`.
    pub fn mlp(&self, tape: &Tape, p: &Parameters, x: &Var) -> Var {
        let pair = |weight, bias| [weight, bias].map(|id| tape.parameter(p, id));
        let norm = pair(self.norm2.weight, self.norm2.bias);
        let fc1 = pair(self.fc1.weight, self.fc1.bias);
        let fc2 = pair(self.fc2.weight, self.fc2.bias);
        tape.mlp_sublayer(x, (&norm).into(), BACKBONE_EPS, (&fc1).into(), (&fc2).into())
    }
}
