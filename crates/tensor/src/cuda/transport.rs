//! Optimal transport between groups of rows.

use super::memory::CudaTensor;
use super::{Cuda, complete, destination};
use crate::backend::{Beta, Ipot, Pair, SavedTransport};
use crate::tensor::Tensor;
use std::ops::Range;
use vlct_cuda::transport::{self, Saved};

fn device_pairs(pairs: &[Pair]) -> Vec<transport::Pair> {
    let pair = |pair: &Pair| transport::Pair {
        text: pair.text.clone(),
        image: pair.image.clone(),
        weight: pair.weight,
    };
    pairs.iter().map(pair).collect()
}

impl Cuda {
    /// Returns `Σ weight · distance` over the pairs, and the state for the backward pass.
    pub(super) fn transport_forward(&self, features: &Tensor, pairs: &[Pair], ipot: Ipot) -> (Tensor, SavedTransport) {
        let pairs = device_pairs(pairs);
        let mut saved = None;
        let distance = self.build(1, 1, |distance| {
            saved = Some(transport::forward(
                &self.context,
                features.matrix(),
                &pairs,
                ipot,
                distance,
            )?);
            Ok(())
        });
        let saved = saved.unwrap_or_else(|| unreachable!("made together with `distance`"));
        (distance, SavedTransport(Box::new(saved)))
    }

    /// Writes the gradient of the features to `d_features`, or adds it (`beta`).
    pub(super) fn transport_backward(&self, saved: &SavedTransport, d: f32, d_features: &mut Tensor, beta: Beta) {
        let Some(saved) = saved.0.downcast_ref::<Saved>() else {
            panic!("the saved alignments belong to another device");
        };
        let d_features = destination(d_features, beta);
        complete(transport::backward(&self.context, saved, d, d_features, beta));
    }

    /// Returns the transport plan `[words, patches]`.
    pub(super) fn plan_of_pair(
        &self,
        features: &Tensor,
        text: Range<usize>,
        image: Range<usize>,
        ipot: Ipot,
    ) -> Tensor {
        self.build(text.len(), image.len(), |plan| {
            transport::plan(
                &self.context,
                features.matrix(),
                text.clone(),
                image.clone(),
                ipot,
                plan,
            )
        })
    }
}
