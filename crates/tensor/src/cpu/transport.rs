//! Optimal transport between groups of rows.

use super::memory::{CpuTensor, build, scalar};
use crate::backend::{Beta, Pair, SavedTransport};
use crate::tensor::Tensor;
use rayon::prelude::*;
use std::ops::Range;
use vlct_kernels::transport::{self, Alignment, Ipot};

fn rows_of<'a>(x: &'a [f32], width: usize, rows: &Range<usize>) -> &'a [f32] {
    &x[rows.start * width..rows.end * width]
}

/// Returns, for each pair, the rows of `x` that are its words and the rows that are its patches.
fn pair_rows_mut<'a>(mut x: &'a mut [f32], width: usize, pairs: &[Pair]) -> Vec<[&'a mut [f32]; 2]> {
    let mut row = 0;
    let mut split_off = |rows: &Range<usize>| {
        let skipped = rows.start.checked_sub(row).expect("ranges are in ascending order");
        let (head, tail) = std::mem::take(&mut x)[skipped * width..].split_at_mut(rows.len() * width);
        (x, row) = (tail, rows.end);
        head
    };
    pairs
        .iter()
        .map(|p| [split_off(&p.text), split_off(&p.image)])
        .collect()
}

/// Returns `Σ weight · distance` over the pairs, and the alignments for the backward pass.
pub(super) fn transport(features: &Tensor, pairs: &[Pair], ipot: Ipot) -> (Tensor, SavedTransport) {
    let (x, width) = (features.data(), features.columns());
    let alignments: Vec<Alignment> = pairs
        .par_iter()
        .map(|p| transport::align(rows_of(x, width, &p.text), rows_of(x, width, &p.image), width, ipot))
        .collect();
    let total: f32 = alignments.iter().zip(pairs).map(|(a, p)| a.distance * p.weight).sum();
    (scalar(total), SavedTransport(Box::new(alignments)))
}

/// Writes the gradient of the features to `d_features`, or adds it (`beta`).
pub(super) fn transport_gradient(saved: &SavedTransport, pairs: &[Pair], d: f32, d_features: &mut Tensor, beta: Beta) {
    let Some(alignments) = saved.0.downcast_ref::<Vec<Alignment>>() else {
        panic!("the saved alignments belong to another device");
    };
    let width = d_features.columns();
    let out = d_features.data_mut();
    if beta == Beta::Zero {
        out.fill(0.0);
    }
    pair_rows_mut(out, width, pairs)
        .into_par_iter()
        .zip(alignments)
        .zip(pairs)
        .for_each(|(([text, image], a), p)| a.backward(d * p.weight, width, text, image));
}

/// Returns the transport plan `[words, patches]`.
pub(super) fn transport_plan(features: &Tensor, text: Range<usize>, image: Range<usize>, ipot: Ipot) -> Tensor {
    let (x, width) = (features.data(), features.columns());
    let plan = transport::align(rows_of(x, width, &text), rows_of(x, width, &image), width, ipot).plan;
    build(text.len(), image.len(), |out| out.copy_from_slice(&plan))
}
