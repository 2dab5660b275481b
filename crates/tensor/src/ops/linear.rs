//! `y = x·wᵀ + b (+ residual)`: a linear layer in PyTorch's layout, with the residual connection fused.

use crate::backend::Input;
use crate::{Tape, Var};

impl Tape {
    /// `x [T, in]`, `w [out, in]`, `b [1, out]`, `residual [T, out]` → `[T, out]`.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn linear(&self, x: &Var, w: &Var, b: Option<&Var>, residual: Option<&Var>) -> Var {
        let (rows, out) = (x.rows(), w.rows());
        assert_eq!(x.columns(), w.columns(), "linear layer: input width against weight");
        assert!(
            residual.is_none_or(|r| r.rows() == rows && r.columns() == out),
            "linear layer: residual shape"
        );
        let layer = self.layer(w, b);
        let (backend, precision) = (self.backend(), self.compute().precision);
        let xt = backend.operand(x.tensor(), precision);
        let y = backend.linear(&xt, &layer, residual.map(Var::tensor));
        let (to_x, to_w, to_b, to_r) = (x.target(), w.target(), b.map(Var::target), residual.map(Var::target));
        let inputs: Vec<&Var> = [Some(x), Some(w), b, residual].into_iter().flatten().collect();
        self.push(y, &inputs, move |dy, back| {
            let width_in = xt.columns();
            let d = backend.operand(&dy, precision);
            back.accumulate(to_x, xt.rows(), width_in, |dx, beta| {
                backend.input_gradient(&d, &layer, dx, beta);
            });
            back.layer(to_w, to_b, &d, Input::Operand(&xt), width_in);
            if let Some(to_r) = to_r {
                drop(d);
                back.add(to_r, dy);
            }
        })
    }
}
