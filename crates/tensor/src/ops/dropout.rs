//! Dropout.

use crate::{Tape, Var};

impl Tape {
    /// Zeroes each value of `x [T, D]` with probability `p` and scales the others by `1/(1−p)`. Calls with equal keys zero the
    /// same values.
    pub fn dropout(&self, x: &Var, p: f32, key: [u64; 4]) -> Var {
        let span = self.memory_bound_span("dropout", 2.0 * x.tensor().bytes());
        let y = self.backend().dropout(x.tensor(), p, key);
        drop(span);
        let x_edge = x.gradient_edge();
        self.push(y, &[x], move |mut dy, back| {
            let _span = back.memory_bound_span("dropout gradient", 2.0 * dy.bytes());
            back.backend().dropout_gradient(&mut dy, p, key);
            back.add(x_edge, dy);
        })
    }
}
