//! Parameter updates of the optimisers, and operations on lists of matrices. Each is one launch, or two, for all matrices.

use super::memory::CudaTensor;
use super::{Cuda, complete};
use crate::backend::{ADAM, ADAMW, Clip, MOMENTUM, ParameterUpdate, Rule};
use crate::tensor::Tensor;
use vlct_cuda::lists;
use vlct_cuda::matrix::Matrix;
use vlct_cuda::optimizer;

fn matrices<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> Vec<Matrix<'a>> {
    tensors.into_iter().map(CudaTensor::matrix).collect()
}

impl Cuda {
    /// Updates the parameters, and those of their copies in bfloat16 that products read.
    pub(super) fn update_parameters(&self, rule: Rule, clip: Option<&Clip>, updates: &mut [ParameterUpdate]) {
        let rule = match rule {
            Rule::AdamW => optimizer::Rule::AdamW(ADAMW),
            Rule::Adam => optimizer::Rule::Adam(ADAM),
            Rule::AdamWPyTorch => optimizer::Rule::AdamWPyTorch(ADAM),
            Rule::Sgd => optimizer::Rule::Sgd(MOMENTUM),
            Rule::Lars => optimizer::Rule::Lars(MOMENTUM),
        };
        let clip = clip.map(|clip| optimizer::Clip {
            norm: clip.norm.matrix(),
            limit: clip.limit,
        });
        let mut rounded: Vec<Option<Tensor>> = updates.iter_mut().map(|u| u.values.take_rounded()).collect();
        let list = updates
            .iter_mut()
            .zip(&mut rounded)
            .map(|(u, rounded)| optimizer::ParameterUpdate {
                values: u.values.matrix_mut(),
                gradient: u.gradient.matrix(),
                moments: u.moments.iter_mut().map(|moment| moment.matrix_mut()).collect(),
                rounded: rounded.as_mut().map(CudaTensor::overwritten),
                learning_rate: u.learning_rate,
                weight_decay: u.weight_decay,
                step: u.step,
            });
        let mut list: Vec<_> = list.collect();
        complete(optimizer::update(&self.context, rule, clip, &mut list));
        drop(list);
        for (u, rounded) in updates.iter_mut().zip(rounded) {
            if let Some(rounded) = rounded {
                u.values.set_rounded(rounded);
            }
        }
    }

    /// Returns the L2 norm of all values of the matrices.
    pub(super) fn norm_of_all(&self, tensors: &[&Tensor]) -> Tensor {
        let matrices = matrices(tensors.iter().copied());
        self.build(1, 1, |norm| lists::l2_norm(&self.context, &matrices, norm))
    }

    /// Computes `y += rate · (x − y)` for each pair of matrices `(y, x)`.
    pub(super) fn interpolate_all(&self, pairs: &mut [(&mut Tensor, &Tensor)], rate: f32) {
        let mut pairs: Vec<_> = pairs.iter_mut().map(|(y, x)| (y.matrix_mut(), x.matrix())).collect();
        complete(lists::interpolate(&self.context, &mut pairs, rate));
    }

    /// Returns the index of the first matrix with a value that is infinite or NaN.
    pub(super) fn find_non_finite(&self, tensors: &[Tensor]) -> Option<usize> {
        complete(lists::first_non_finite(&self.context, &matrices(tensors)))
    }
}
