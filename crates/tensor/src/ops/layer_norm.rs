//! Layer normalisation of each row, with scale and shift.

use crate::profile::pass;
use crate::tensor::bytes;
use crate::{Tape, Tensor, Var};
use vlct_kernels::layer_norm;
use vlct_kernels::mat::Beta;

impl Tape {
    /// `x [rows, width]`, `w` and `b` `[1, width]` → `[rows, width]`; `eps` is added to the variance.
    ///
    /// # Panics
    /// If the widths differ.
    pub fn layer_norm(&self, x: &Var, w: &Var, b: &Var, eps: f32) -> Var {
        let (rows, width) = (x.rows(), x.columns());
        assert!(
            w.columns() == width && b.columns() == width,
            "layer norm: width of scale and shift"
        );
        let (mut mean, mut rstd) = (Tensor::zeros(1, rows), Tensor::zeros(1, rows));
        let span = pass("layer norm", 2.0 * bytes(x.tensor()));
        let y = Tensor::build(rows, width, |y| {
            let (x, w, b) = (x.tensor().data(), w.tensor().data(), b.tensor().data());
            layer_norm::forward(x, w, b, eps, y, mean.make_mut(), rstd.make_mut());
        });
        drop(span);
        let (xt, wt) = (x.tensor().clone(), w.tensor().clone());
        let (to_x, to_w, to_b) = (x.target(), w.target(), b.target());
        self.push(y, &[x, w, b], move |dy, back| {
            let _span = pass("layer norm gradient", 4.0 * bytes(&dy));
            let mut dw = Tensor::zeros(1, width);
            let mut db = Tensor::zeros(1, width);
            let mut unwanted = (!back.wants(to_x)).then(|| Tensor::zeros(rows, width));
            let mut run = |dx: &mut [f32], beta| {
                let (mean, rstd) = (mean.data(), rstd.data());
                layer_norm::backward(
                    dy.data(),
                    xt.data(),
                    wt.data(),
                    mean,
                    rstd,
                    dx,
                    beta,
                    dw.make_mut(),
                    db.make_mut(),
                );
            };
            match &mut unwanted {
                Some(dx) => run(dx.make_mut(), Beta::Zero),
                None => back.accumulate(to_x, rows, width, run),
            }
            back.add(to_w, dw);
            back.add(to_b, db);
        })
    }
}
