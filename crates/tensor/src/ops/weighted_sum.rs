//! The total of several losses.

use crate::{Tape, Tensor, Var};

impl Tape {
    /// `Σ factor · value` of scalars.
    ///
    /// # Panics
    /// If one of them is not a scalar.
    pub fn weighted_sum(&self, terms: &[(&Var, f32)]) -> Var {
        let total: f32 = terms.iter().map(|(v, f)| v.tensor().item() * f).sum();
        let inputs: Vec<&Var> = terms.iter().map(|(v, _)| *v).collect();
        let targets: Vec<_> = terms.iter().map(|(v, f)| (v.target(), *f)).collect();
        self.push(Tensor::from_slice(1, 1, &[total]), &inputs, move |d, back| {
            for (target, factor) in targets {
                back.add(target, Tensor::from_slice(1, 1, &[d.item() * factor]));
            }
        })
    }
}
