//! Linear layers, norms and the pre-norm transformer block.

use vlct_tensor::ops::{Projections, Varlen};
use vlct_tensor::{ParameterId, Parameters, Tape, Var};

/// ε of the backbone's layer norms.
pub(crate) const BACKBONE_EPS: f32 = 1e-6;

/// ε of BERT's layer norms, in the text embedding and in the head for masked words.
pub(crate) const TEXT_EPS: f32 = 1e-12;

/// Lookup of parameters by name.
pub(crate) struct ParameterIds<'a>(pub &'a Parameters);

impl ParameterIds<'_> {
    /// Returns the id of a parameter.
    ///
    /// # Panics
    /// Panics if the configuration of the model does not declare the name.
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

    /// Returns the parameters of a block, whose layer norms add `eps` to the variance.
    pub fn block(&self, name: &str, eps: f32) -> Block {
        Block {
            eps,
            norm1: self.norm(&format!("{name}.norm1")),
            qkv: self.linear(&format!("{name}.attn.qkv")),
            proj: self.linear(&format!("{name}.attn.proj")),
            norm2: self.norm(&format!("{name}.norm2")),
            fc1: self.linear(&format!("{name}.mlp.fc1")),
            fc2: self.linear(&format!("{name}.mlp.fc2")),
        }
    }
}

/// Parameters of the embedding of images.
pub(crate) struct ImageEmbedding {
    pub projection: Linear,
    pub class_token: ParameterId,
    pub positions: ParameterId,
}

impl ImageEmbedding {
    /// Returns the parameters whose names begin with `prefix`.
    pub fn new(ids: &ParameterIds, prefix: &str) -> Self {
        Self {
            projection: ids.linear(&format!("{prefix}patch_embed.proj")),
            class_token: ids.id(&format!("{prefix}cls_token")),
            positions: ids.id(&format!("{prefix}pos_embed")),
        }
    }
}

/// A linear layer, `x·Wᵀ + b`.
pub(crate) struct Linear {
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
pub(crate) struct Norm {
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
pub(crate) struct Block {
    norm1: Norm,
    qkv: Linear,
    proj: Linear,
    norm2: Norm,
    fc1: Linear,
    fc2: Linear,
    eps: f32,
}

impl Block {
    /// Returns `x + Attention(LN(x))`, one row per query token.
    pub fn attend(&self, tape: &Tape, p: &Parameters, x: &Var, varlen: &Varlen, heads: usize) -> Var {
        let pair = |weight, bias| [weight, bias].map(|id| tape.parameter(p, id));
        let norm = pair(self.norm1.weight, self.norm1.bias);
        let qkv = pair(self.qkv.weight, self.qkv.bias);
        let proj = pair(self.proj.weight, self.proj.bias);
        let (norm, qkv, proj) = ((&norm).into(), (&qkv).into(), (&proj).into());
        tape.attention_sublayer(x, norm, self.eps, qkv, proj, varlen, heads)
    }

    /// Returns the queries, keys and values of rows, the first part of [`Block::attend`]; for inference.
    pub fn project(&self, tape: &Tape, p: &Parameters, x: &Var) -> Projections {
        let pair = |weight, bias| [weight, bias].map(|id| tape.parameter(p, id));
        let norm = pair(self.norm1.weight, self.norm1.bias);
        let qkv = pair(self.qkv.weight, self.qkv.bias);
        tape.project(x, (&norm).into(), self.eps, (&qkv).into())
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
        tape.mlp_sublayer(x, (&norm).into(), self.eps, (&fc1).into(), (&fc2).into())
    }
}
