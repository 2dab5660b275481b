//! Word-patch alignment: optimal-transport distances between the text and image rows of packed sequences.

use crate::profile::{bytes, pass};
use crate::{Tape, Tensor, Var};
use rayon::prelude::*;
use std::ops::Range;
use vlct_kernels::transport::{self, Alignment, Ipot};

/// One caption and picture: consecutive rows of a packed matrix, and the factor of its distance in the loss.
#[derive(Clone, Debug)]
pub struct Pair {
    /// Rows of the words.
    pub text: Range<usize>,
    /// Rows of the patches.
    pub image: Range<usize>,
    /// Factor.
    pub weight: f32,
}

fn part<'a>(x: &'a [f32], width: usize, rows: &Range<usize>) -> &'a [f32] {
    &x[rows.start * width..rows.end * width]
}

impl Tape {
    /// `Σ weight · distance` over the pairs, a scalar. The gradient flows through the costs, not through the plans.
    ///
    /// # Panics
    /// If a range lies outside `features`, or two pairs overlap.
    pub fn transport(&self, features: &Var, pairs: Vec<Pair>, method: Ipot) -> Var {
        let width = features.columns();
        let x = features.tensor().data();
        let span = pass("optimal transport", bytes(features.tensor()));
        let alignments: Vec<Alignment> = pairs
            .par_iter()
            .map(|p| transport::align(part(x, width, &p.text), part(x, width, &p.image), width, method))
            .collect();
        drop(span);
        let total: f32 = alignments.iter().zip(&pairs).map(|(a, p)| a.distance * p.weight).sum();
        let (rows, target) = (features.rows(), features.target());
        self.push(Tensor::from_slice(1, 1, &[total]), &[features], move |d, back| {
            let _span = pass("optimal transport gradient", (2 * rows * width * 4) as f64);
            let seed = d.item();
            let parts: Vec<(Vec<f32>, Vec<f32>)> = alignments
                .par_iter()
                .zip(&pairs)
                .map(|(a, p)| {
                    let (mut dt, mut di) = (vec![0f32; p.text.len() * width], vec![0f32; p.image.len() * width]);
                    a.backward(seed * p.weight, width, &mut dt, &mut di);
                    (dt, di)
                })
                .collect();
            back.accumulate(target, rows, width, |out, add| {
                if !add {
                    out.fill(0.0);
                }
                for ((dt, di), p) in parts.iter().zip(&pairs) {
                    vlct_kernels::elementwise::add(dt, &mut out[p.text.start * width..p.text.end * width]);
                    vlct_kernels::elementwise::add(di, &mut out[p.image.start * width..p.image.end * width]);
                }
            });
        })
    }
}

/// The transport plan `[words, patches]` between two groups of rows of `features`, for pictures of alignments.
pub fn align(features: &Tensor, text: Range<usize>, image: Range<usize>, method: Ipot) -> Vec<f32> {
    let (x, width) = (features.data(), features.columns());
    transport::align(part(x, width, &text), part(x, width, &image), width, method).plan
}
