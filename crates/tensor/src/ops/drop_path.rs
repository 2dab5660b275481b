//! Stochastic depth: whole sublayers are left out for some sequences (Huang et al. 2016, arXiv 1603.09382).

use crate::{Tape, Var};
use std::sync::Arc;

impl Tape {
    /// Returns `x + factors[r] · (y − x)` for each row `r` of `x` and `y`, both `[T, D]`. If `y` is `x` plus a sublayer, the sublayer is
    /// multiplied by the factors: 0 leaves it out, `1/(1−p)` compensates the probability `p` of leaving it out.
    ///
    /// # Panics
    /// If the shapes differ, or there is not one factor per row.
    pub fn drop_path(&self, x: &Var, y: &Var, factors: impl Into<Arc<[f32]>>) -> Var {
        let factors = factors.into();
        assert_eq!((x.rows(), x.columns()), (y.rows(), y.columns()), "different shapes");
        assert_eq!(factors.len(), x.rows(), "one factor per row");
        let bytes = 3.0 * x.tensor().bytes();
        let span = self.memory_bound_span("drop path", bytes);
        let out = self.backend().interpolate_rows(x.tensor(), y.tensor(), &factors);
        drop(span);
        let (x_edge, y_edge) = (x.gradient_edge(), y.gradient_edge());
        self.push(out, &[x, y], move |d, back| {
            let (backend, _span) = (back.backend(), back.memory_bound_span("drop path gradient", bytes));
            let rest: Vec<f32> = factors.iter().map(|factor| 1.0 - factor).collect();
            back.add(x_edge, backend.scale_rows(&d, &rest));
            back.add(y_edge, backend.scale_rows(&d, &factors));
        })
    }
}
