//! Linear layers, norms and the pre-norm transformer block.

use super::BACKBONE_EPS;
use std::sync::Arc;
use vlct_tensor::{ParameterId, Parameters, Tape, Var};

/// Finds the numbers of declared parameters.
pub(super) struct Find<'a>(pub &'a Parameters);

impl Find<'_> {
    /// # Panics
    /// If the name was not declared: the declarations and the uses in this crate belong together.
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

/// `x·Wᵀ + b`.
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

/// Layer norm.
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

/// `x ← x + Attention(LN(x))`, `x ← x + MLP(LN(x))`.
pub(super) struct Block {
    norm1: Norm,
    qkv: Linear,
    proj: Linear,
    norm2: Norm,
    fc1: Linear,
    fc2: Linear,
}

impl Block {
    pub fn forward(&self, tape: &Tape, p: &Parameters, x: &Var, offsets: &Arc<[usize]>, heads: usize) -> Var {
        let normed = self.norm1.forward(tape, p, x, BACKBONE_EPS);
        let qkv = self.qkv.forward(tape, p, &normed, None);
        let attended = tape.attention(&qkv, offsets, heads);
        let x = self.proj.forward(tape, p, &attended, Some(x));
        let normed = self.norm2.forward(tape, p, &x, BACKBONE_EPS);
        let hidden = tape.gelu(&self.fc1.forward(tape, p, &normed, None));
        self.fc2.forward(tape, p, &hidden, Some(&x))
    }
}
