//! From a batch of the loader to the input of the objectives: which patches are seen, which values are dropped.

use crate::objectives::{Matching, Modelling, PretrainStep};
use crate::spec::PretrainSpec;
use rand::RngExt;
use vlct_data::loader::Batch;
use vlct_data::random::{Purpose, stream};
use vlct_model::PatchMask;

/// Set in the seed of validation, so that it does not hide the patches that training hides.
const EVALUATION: u64 = 1 << 63;

/// What the objectives read of a batch. `training` turns dropout on.
///
/// With a mask ratio patches are hidden in training and in validation alike, as in the original.
pub fn step<'a>(batch: &'a Batch, spec: &PretrainSpec, patches: usize, training: bool) -> PretrainStep<'a> {
    let seed = if training { spec.seed } else { spec.seed ^ EVALUATION };
    let n = batch.len();
    let first = batch.index * spec.micro_batch;
    let masks = |purpose| {
        spec.mask_ratio.map(|mask_ratio| -> Vec<PatchMask> {
            let mask = |i| {
                let random = &mut stream(seed, purpose, batch.epoch, first + i as u64);
                let noise: Vec<f32> = (0..patches).map(|_| random.random()).collect();
                PatchMask::from_noise(&noise, mask_ratio)
            };
            (0..n).map(mask).collect()
        })
    };
    let own: Vec<&[f32]> = batch.images.iter().map(Vec::as_slice).collect();
    let others: Vec<&[f32]> = batch.false_images.iter().map(Vec::as_slice).collect();
    let objectives = spec.objectives;
    let texts = || batch.text_ids.iter().map(Vec::as_slice).collect();
    PretrainStep {
        modelling: objectives.mlm.then(|| Modelling {
            texts: batch.mlm_ids.iter().map(Vec::as_slice).collect(),
            labels: batch.mlm_labels.iter().map(Vec::as_slice).collect(),
            pictures: own.clone(),
            masks: masks(Purpose::PatchMaskMlm),
        }),
        matching: objectives.itm.then(|| Matching {
            texts: texts(),
            pictures: (0..n)
                .map(|i| batch.false_position(i).map_or(own[i], |f| others[f]))
                .collect(),
            matched: batch.matched.clone(),
            masks: masks(Purpose::PatchMaskItm),
        }),
        dropout: training.then_some([seed, Purpose::Dropout as u64, batch.epoch, batch.index]),
    }
}
