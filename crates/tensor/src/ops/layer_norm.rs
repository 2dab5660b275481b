//! Layer normalisation of each row, with scale and shift.

use crate::backend::{Beta, LayerNorm};
use crate::{Precision, Tape, Var};

impl Tape {
    /// Returns the layer norm of `x [T, D]` with scale `w` and shift `b`, `[1, D]` each; `eps` is added to the variance.
    ///
    /// # Panics
    /// If the widths differ.
    pub fn layer_norm(&self, x: &Var, w: &Var, b: &Var, eps: f32) -> Var {
        let (rows, width) = (x.rows(), x.columns());
        assert!(
            w.columns() == width && b.columns() == width,
            "layer norm: scale and shift have another width"
        );
        let norm = LayerNorm {
            weight: w.tensor().clone(),
            bias: b.tensor().clone(),
            eps,
        };
        let (saved, y) = self.backend().norm(x.tensor(), &norm, Precision::F32);
        let [x_edge, w_edge, b_edge] = [x, w, b].map(Var::gradient_edge);
        self.push(y, &[x, w, b], move |dy, back| {
            let backend = back.backend();
            let gradients = if back.needs_gradient(x_edge) {
                let mut gradients = None;
                back.accumulate(x_edge, rows, width, |dx, beta| {
                    gradients = Some(backend.norm_gradient(&saved, &dy, &norm, dx, beta));
                });
                gradients
            } else {
                let mut unused = backend.empty(rows, width);
                Some(backend.norm_gradient(&saved, &dy, &norm, &mut unused, Beta::Zero))
            };
            let Some([dw, db]) = gradients else {
                unreachable!("`accumulate` calls its closure if a gradient is needed");
            };
            back.add(w_edge, dw);
            back.add(b_edge, db);
        })
    }
}
