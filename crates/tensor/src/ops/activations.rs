//! GELU and tanh.

use crate::profile::pass;
use crate::tensor::bytes;
use crate::{Tape, Tensor, Var};
use vlct_kernels::{elementwise, gelu};

impl Tape {
    /// Exact GELU of every value.
    pub fn gelu(&self, x: &Var) -> Var {
        let span = pass("GELU", 2.0 * bytes(x.tensor()));
        let y = Tensor::build(x.rows(), x.columns(), |y| gelu::forward(x.tensor().data(), y));
        drop(span);
        let (xt, to_x) = (x.tensor().clone(), x.target());
        self.push(y, &[x], move |mut dy, back| {
            let _span = pass("GELU gradient", 3.0 * bytes(&dy));
            gelu::backward_in_place(xt.data(), dy.make_mut());
            back.add(to_x, dy);
        })
    }

    /// Hyperbolic tangent of every value.
    pub fn tanh(&self, x: &Var) -> Var {
        let y = Tensor::build(x.rows(), x.columns(), |y| elementwise::tanh(x.tensor().data(), y));
        let (yt, to_x) = (y.clone(), x.target());
        self.push(y, &[x], move |mut dy, back| {
            elementwise::tanh_backward_in_place(yt.data(), dy.make_mut());
            back.add(to_x, dy);
        })
    }
}
