//! GELU and tanh.

use crate::{Tape, Var};

impl Tape {
    /// Returns the GELU of every value of `x [T, D]`, computed with the error function.
    pub fn gelu(&self, x: &Var) -> Var {
        let span = self.memory_bound_span("GELU", 2.0 * x.tensor().bytes());
        let y = self.backend().gelu(x.tensor());
        drop(span);
        let (input, x_edge) = (x.tensor().clone(), x.gradient_edge());
        self.push(y, &[x], move |mut dy, back| {
            let _span = back.memory_bound_span("GELU gradient", 3.0 * dy.bytes());
            back.backend().gelu_gradient(&input, &mut dy);
            back.add(x_edge, dy);
        })
    }

    /// Returns the hyperbolic tangent of every value of `x [T, D]`.
    pub fn tanh(&self, x: &Var) -> Var {
        let y = self.backend().tanh(x.tensor());
        let (output, x_edge) = (y.clone(), x.gradient_edge());
        self.push(y, &[x], move |mut dy, back| {
            back.backend().tanh_gradient(&output, &mut dy);
            back.add(x_edge, dy);
        })
    }
}
