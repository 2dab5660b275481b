//! A linear layer with PyTorch's weight layout and a fused residual connection: `y = x·wᵀ + b (+ residual)`.

use crate::backend::Input;
use crate::{Tape, Var};

impl Tape {
    /// Returns `x·wᵀ + b (+ residual)`, `[T, out]`, for `x [T, in]`, `w [out, in]`, `b [1, out]` and `residual [T, out]`.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn linear(&self, x: &Var, w: &Var, b: Option<&Var>, residual: Option<&Var>) -> Var {
        let (rows, out) = (x.rows(), w.rows());
        assert_eq!(
            x.columns(),
            w.columns(),
            "linear layer: input and weight differ in width"
        );
        assert!(
            residual.is_none_or(|r| r.rows() == rows && r.columns() == out),
            "linear layer: residual of another shape"
        );
        let layer = self.linear_layer(w, b);
        let (backend, precision) = (self.backend(), self.compute().precision);
        let input = backend.operand(x.tensor(), precision);
        let y = backend.linear(&input, &layer, residual.map(Var::tensor));
        let (x_edge, w_edge) = (x.gradient_edge(), w.gradient_edge());
        let [b_edge, residual_edge] = [b, residual].map(|v| v.map(Var::gradient_edge));
        let inputs: Vec<&Var> = [Some(x), Some(w), b, residual].into_iter().flatten().collect();
        self.push(y, &inputs, move |dy, back| {
            let width = input.columns();
            let d = backend.operand(&dy, precision);
            back.accumulate(x_edge, input.rows(), width, |dx, beta| {
                backend.input_gradient(&d, &layer, dx, beta);
            });
            back.add_layer_gradients(w_edge, b_edge, &d, Input::Operand(&input), width);
            if let Some(residual_edge) = residual_edge {
                drop(d);
                back.add(residual_edge, dy);
            }
        })
    }
}
