//! Word-patch alignment: optimal-transport distances between the text and image rows of packed sequences.

use crate::profile::pass;
use crate::tensor::bytes;
use crate::{Tape, Tensor, Var};
use rayon::prelude::*;
use std::ops::Range;
use vlct_kernels::mat::Beta;
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

/// The rows of each pair's words and patches, apart from each other.
fn parts_mut<'a>(mut x: &'a mut [f32], width: usize, pairs: &[Pair]) -> Vec<[&'a mut [f32]; 2]> {
    let mut row = 0;
    let mut part = |rows: &Range<usize>| {
        let skipped = rows.start.checked_sub(row).expect("ranges in the order of rows");
        let (part, rest) = std::mem::take(&mut x)[skipped * width..].split_at_mut(rows.len() * width);
        (x, row) = (rest, rows.end);
        part
    };
    pairs.iter().map(|p| [part(&p.text), part(&p.image)]).collect()
}

impl Tape {
    /// `Σ weight · distance` over the pairs, a scalar. The gradient flows through the costs, not through the plans.
    ///
    /// # Panics
    /// If a range lies outside `features`, or the ranges, each pair's words and then its patches, are not in the order of rows.
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
            back.accumulate(target, rows, width, |out, beta| {
                if beta == Beta::Zero {
                    out.fill(0.0);
                }
                parts_mut(out, width, &pairs)
                    .into_par_iter()
                    .zip(&alignments)
                    .zip(&pairs)
                    .for_each(|(([text, image], a), p)| a.backward(seed * p.weight, width, text, image));
            });
        })
    }
}

/// The transport plan `[words, patches]` between two groups of rows of `features`, for pictures of alignments.
pub fn align(features: &Tensor, text: Range<usize>, image: Range<usize>, method: Ipot) -> Vec<f32> {
    let (x, width) = (features.data(), features.columns());
    transport::align(part(x, width, &text), part(x, width, &image), width, method).plan
}
