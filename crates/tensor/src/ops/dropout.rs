//! Dropout.

use crate::profile::pass;
use crate::tensor::bytes;
use crate::{Tape, Tensor, Var};
use vlct_kernels::dropout::apply_in_place;

impl Tape {
    /// Zeroes each value with probability `p` and scales the others by `1/(1−p)`. The same `key` drops the same values.
    pub fn dropout(&self, x: &Var, p: f32, key: [u64; 4]) -> Var {
        let width = x.columns();
        let span = pass("dropout", 2.0 * bytes(x.tensor()));
        let y = Tensor::build(x.rows(), width, |y| {
            y.copy_from_slice(x.tensor().data());
            apply_in_place(y, width, p, key);
        });
        drop(span);
        let to_x = x.target();
        self.push(y, &[x], move |mut dy, back| {
            let _span = pass("dropout gradient", 2.0 * bytes(&dy));
            apply_in_place(dy.make_mut(), width, p, key);
            back.add(to_x, dy);
        })
    }
}
