//! The weighted sum of scalars, such as losses.

use crate::{Tape, Tensor, Var};

impl Tape {
    /// Returns `Σ factor · value` of scalars.
    ///
    /// # Panics
    /// If a value is not a scalar.
    pub fn weighted_sum(&self, terms: &[(&Var, f32)]) -> Var {
        assert!(terms.iter().all(|(v, _)| v.rows() * v.columns() == 1), "not a scalar");
        let values: Vec<(&Tensor, f32)> = terms.iter().map(|(v, f)| (v.tensor(), *f)).collect();
        let inputs: Vec<&Var> = terms.iter().map(|(v, _)| *v).collect();
        let edges: Vec<_> = terms.iter().map(|(v, f)| (v.gradient_edge(), *f)).collect();
        self.push_scalar(self.backend().weighted_sum(&values), &inputs, move |d, back| {
            for (edge, factor) in edges {
                back.add_scalar(edge, d * factor);
            }
        })
    }
}
