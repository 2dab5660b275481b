//! `y = x·wᵀ + b (+ residual)`: a linear layer in PyTorch's layout, with the residual connection fused.

use crate::{Tape, Tensor, Var};
use vlct_kernels::elementwise::bias_rows;
use vlct_kernels::gemm::{Threads, View, gemm};
use vlct_kernels::parallel::add_column_sums;

fn view(t: &Tensor) -> View<'_> {
    View::new(t.data(), t.rows(), t.columns(), t.columns())
}

impl Tape {
    /// `x [rows, in]`, `w [out, in]`, `b [1, out]`, `residual [rows, out]` → `[rows, out]`.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn linear(&self, x: &Var, w: &Var, b: Option<&Var>, residual: Option<&Var>) -> Var {
        let (rows, out) = (x.rows(), w.rows());
        assert_eq!(x.columns(), w.columns(), "linear layer: input width against weight");
        assert!(
            residual.is_none_or(|r| r.rows() == rows && r.columns() == out),
            "linear layer: residual shape"
        );
        let y = Tensor::build(rows, out, |y| {
            let initialised = match (b, residual) {
                (Some(b), r) => {
                    bias_rows(b.tensor().data(), r.map(|r| r.tensor().data()), y);
                    true
                }
                (None, Some(r)) => {
                    y.copy_from_slice(r.tensor().data());
                    true
                }
                (None, None) => false,
            };
            gemm(
                y,
                out,
                initialised,
                1.0,
                view(x.tensor()),
                view(w.tensor()).transposed(),
                Threads::All,
            );
        });
        let (xt, wt) = (x.tensor().clone(), w.tensor().clone());
        let (to_x, to_w, to_b, to_r) = (x.target(), w.target(), b.map(Var::target), residual.map(Var::target));
        let inputs: Vec<&Var> = [Some(x), Some(w), b, residual].into_iter().flatten().collect();
        self.push(y, &inputs, move |dy, back| {
            let (width_in, width_out) = (xt.columns(), dy.columns());
            back.accumulate(to_x, xt.rows(), width_in, |dx, add| {
                gemm(dx, width_in, add, 1.0, view(&dy), view(&wt), Threads::All);
            });
            back.accumulate(to_w, width_out, width_in, |dw, add| {
                gemm(dw, width_in, add, 1.0, view(&dy).transposed(), view(&xt), Threads::All);
            });
            if let Some(to_b) = to_b {
                back.accumulate(to_b, 1, width_out, |db, add| {
                    if !add {
                        db.fill(0.0);
                    }
                    add_column_sums(dy.data(), width_out, db);
                });
            }
            if let Some(to_r) = to_r {
                back.add(to_r, dy);
            }
        })
    }
}
