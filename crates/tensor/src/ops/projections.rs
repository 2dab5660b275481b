//! The attention sublayer in two parts, for inference. The first part, `qkv(norm(x))`, acts on each row separately, so that sequences with
//! equal rows can share its results.

use super::Affine;
use crate::varlen::Varlen;
use crate::{Tape, Tensor, Var};

/// Queries, keys and values of rows, `[rows, 3·width]`.
pub struct Projections {
    qkv: Tensor,
}

impl Projections {
    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.qkv.rows()
    }
}

impl Tape {
    /// Returns `qkv(norm(x))`. `x` is `[rows, width]`, the weight of `qkv` is `[3·width, width]`.
    ///
    /// # Panics
    /// If the tape records the operation, or the shapes do not fit.
    pub fn project(&self, x: &Var, norm: Affine, eps: f32, qkv: Affine) -> Projections {
        let inputs = [x, norm.weight, norm.bias, qkv.weight, qkv.bias];
        assert!(!self.records(&inputs), "projections have no gradient");
        let (backend, precision) = (self.backend(), self.compute().precision);
        let ((norm, _), (qkv, _)) = (norm.layer_norm(eps), qkv.linear_layer(self));
        let (_, y) = backend.norm(x.tensor(), &norm, precision);
        Projections {
            qkv: backend.linear_operand(&y, &qkv),
        }
    }

    /// Copies rows of projections: row `i` of the result is row `rows[i]` of the only pick whose `rows[i]` is not
    /// [`NONE`](super::NONE).
    ///
    /// # Panics
    /// If the picks have different lengths or widths, or there are no picks.
    pub fn gather_projections(&self, picks: &[(&Projections, &[u32])]) -> Projections {
        let (n, width) = (picks[0].1.len(), picks[0].0.qkv.columns());
        assert!(
            picks
                .iter()
                .all(|(from, rows)| rows.len() == n && from.qkv.columns() == width),
            "picks of different shapes"
        );
        let _span = self.memory_bound_span(
            "gather projections",
            2.0 * picks[0].0.qkv.bytes() / picks[0].0.rows().max(1) as f64 * n as f64,
        );
        let sources: Vec<(&Tensor, &[u32])> = picks.iter().map(|(from, rows)| (&from.qkv, *rows)).collect();
        Projections {
            qkv: self.backend().gather(&sources),
        }
    }

    /// Returns `x + proj(attention(projections))`: the value of [`Tape::attention_sublayer`] if `projections` are those of `x`.
    ///
    /// # Panics
    /// If the tape records the operation, the shapes do not fit, the sequences do not cover the rows, or the width is not divisible by
    /// the number of heads.
    pub fn attend_to_projections(
        &self,
        x: &Var,
        projections: &Projections,
        proj: Affine,
        varlen: &Varlen,
        heads: usize,
    ) -> Var {
        assert_eq!(
            [varlen.tokens(), projections.rows()],
            [x.rows(); 2],
            "rows of x, of the projections and of the sequences"
        );
        let inputs = [x, proj.weight, proj.bias];
        assert!(!self.records(&inputs), "projections have no gradient");
        let backend = self.backend();
        let (proj, _) = proj.linear_layer(self);
        let (out, _) = backend.attention(&projections.qkv, varlen, heads);
        let residual = match varlen.query_rows() {
            None => x.tensor().clone(),
            Some(rows) => backend.gather(&[(x.tensor(), &rows)]),
        };
        Var::constant(backend.linear(&out, &proj, Some(&residual)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::NONE;
    use crate::{Compute, Device, Parameters, Precision};
    use std::sync::Arc;

    fn constant(rows: usize, columns: usize, seed: usize) -> Var {
        let values: Vec<f32> = (0..rows * columns)
            .map(|i| ((i * 7919 + seed * 31) % 1013) as f32 / 506.5 - 1.0)
            .collect();
        Var::constant(Device::cpu().tensor(rows, columns, &values))
    }

    #[test]
    fn gathered_projections_give_the_values_of_the_sublayer() {
        const WIDTH: usize = 48;
        for precision in [Precision::F32, Precision::Bf16] {
            let tape = Tape::inference(Compute {
                precision,
                ..Compute::default()
            });
            // Two sources of rows, and three sequences of rows of both.
            let (first, second) = (constant(5, WIDTH, 1), constant(40, WIDTH, 2));
            let n = NONE;
            let from_first: Arc<[u32]> = Arc::new([0, 1, n, n, 3, 4, 2, n, n, n]);
            let from_second: Arc<[u32]> = Arc::new([n, n, 39, 1, n, n, n, 39, 2, 33]);
            let x = tape.gather(&[
                crate::ops::Pick {
                    from: &first,
                    rows: from_first.clone(),
                },
                crate::ops::Pick {
                    from: &second,
                    rows: from_second.clone(),
                },
            ]);
            let pair = |rows, columns, seed| [constant(rows, columns, seed), constant(1, rows, seed + 1)];
            let norm = [constant(1, WIDTH, 3), constant(1, WIDTH, 4)];
            let (qkv, proj) = (pair(3 * WIDTH, WIDTH, 5), pair(WIDTH, WIDTH, 7));
            let (norm, qkv, proj): (Affine, Affine, Affine) = ((&norm).into(), (&qkv).into(), (&proj).into());
            let offsets: Arc<[usize]> = Arc::new([0, 4, 7, 10]);
            for varlen in [Varlen::full(&offsets), Varlen::prefix_queries(&offsets, [1, 1, 1])] {
                let want = tape.attention_sublayer(&x, norm, 1e-6, qkv, proj, &varlen, 3);
                let sources = [&first, &second].map(|x| tape.project(x, norm, 1e-6, qkv));
                let projections = tape.gather_projections(&[(&sources[0], &from_first), (&sources[1], &from_second)]);
                let got = tape.attend_to_projections(&x, &projections, proj, &varlen, 3);
                assert_eq!((got.rows(), got.columns()), (want.rows(), WIDTH));
                assert_eq!(got.tensor().to_host(), want.tensor().to_host(), "{precision:?}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "projections have no gradient")]
    fn rejects_a_recording_tape() {
        let parameters = Parameters::new([("x".to_string(), vec![2, 4], true)], Device::cpu());
        let (norm, qkv) = (
            [constant(1, 4, 1), constant(1, 4, 2)],
            [constant(12, 4, 3), constant(1, 12, 4)],
        );
        let tape = Tape::new(Compute::default());
        let x = tape.parameter(&parameters, parameters.id("x").expect("declared"));
        tape.project(&x, (&norm).into(), 1e-6, (&qkv).into());
    }
}
