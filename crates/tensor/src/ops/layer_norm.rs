//! Layer normalisation of each row, with scale and shift.

use crate::backend::{Beta, Scale};
use crate::{Precision, Tape, Var};

impl Tape {
    /// The layer norm of `x [T, D]` with scale `w` and shift `b`, `[1, D]` each; `eps` is added to the variance.
    ///
    /// # Panics
    /// If the widths differ.
    pub fn layer_norm(&self, x: &Var, w: &Var, b: &Var, eps: f32) -> Var {
        let (rows, width) = (x.rows(), x.columns());
        assert!(
            w.columns() == width && b.columns() == width,
            "layer norm: width of scale and shift"
        );
        let scale = Scale {
            weight: w.tensor().clone(),
            bias: b.tensor().clone(),
            eps,
        };
        let (normed, y) = self.backend().norm(x.tensor(), &scale, Precision::F32);
        let (to_x, to_w, to_b) = (x.target(), w.target(), b.target());
        self.push(y, &[x, w, b], move |dy, back| {
            let backend = back.backend();
            let gradients = if back.wants(to_x) {
                let mut gradients = None;
                back.accumulate(to_x, rows, width, |dx, beta| {
                    gradients = Some(backend.norm_gradient(&normed, &dy, &scale, dx, beta));
                });
                gradients
            } else {
                let mut unwanted = backend.empty(rows, width);
                Some(backend.norm_gradient(&normed, &dy, &scale, &mut unwanted, Beta::Zero))
            };
            let Some([dw, db]) = gradients else {
                unreachable!("a gradient that is wanted is accumulated");
            };
            back.add(to_w, dw);
            back.add(to_b, db);
        })
    }
}
