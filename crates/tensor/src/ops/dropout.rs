//! Dropout.

use crate::{Tape, Var};

impl Tape {
    /// Zeroes each value of `x [T, D]` with probability `p` and scales the others by `1/(1−p)`. The same `key` drops the same
    /// places.
    pub fn dropout(&self, x: &Var, p: f32, key: [u64; 4]) -> Var {
        let span = self.pass("dropout", 2.0 * x.tensor().bytes());
        let y = self.backend().dropout(x.tensor(), p, key);
        drop(span);
        let to_x = x.target();
        self.push(y, &[x], move |mut dy, back| {
            let _span = back.pass("dropout gradient", 2.0 * dy.bytes());
            back.backend().dropout_gradient(&mut dy, p, key);
            back.add(to_x, dy);
        })
    }
}
