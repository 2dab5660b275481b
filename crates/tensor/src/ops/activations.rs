//! GELU and tanh.

use crate::{Tape, Var};

impl Tape {
    /// The exact GELU of every value of `x [T, D]`.
    pub fn gelu(&self, x: &Var) -> Var {
        let span = self.pass("GELU", 2.0 * x.tensor().bytes());
        let y = self.backend().gelu(x.tensor());
        drop(span);
        let (xt, to_x) = (x.tensor().clone(), x.target());
        self.push(y, &[x], move |mut dy, back| {
            let _span = back.pass("GELU gradient", 3.0 * dy.bytes());
            back.backend().gelu_gradient(&xt, &mut dy);
            back.add(to_x, dy);
        })
    }

    /// The hyperbolic tangent of every value of `x [T, D]`.
    pub fn tanh(&self, x: &Var) -> Var {
        let y = self.backend().tanh(x.tensor());
        let (yt, to_x) = (y.clone(), x.target());
        self.push(y, &[x], move |mut dy, back| {
            back.backend().tanh_gradient(&yt, &mut dy);
            back.add(to_x, dy);
        })
    }
}
