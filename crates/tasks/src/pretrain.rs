//! Pre-training (VLC, section 3.2): masked language modelling, masked autoencoding, and image-text matching with word-patch
//! alignment.
//!
//! With all objectives, a sample has two sequences: the masked caption with its image (group 0), and the unmasked caption with its own or a
//! false image (group 1). The encoder runs once over all sequences of a batch.

use crate::batch::{Batch, Sample, Target, Text};
use crate::metrics::{Phase, Report, Tally};
use crate::rows::Rows;
use crate::sample::{SampleContext, SampleError};
use crate::task::{Outcome, Task};
use rand::RngExt;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use vlct_data::DataError;
use vlct_data::datasets::Contents;
use vlct_data::random::Purpose;
use vlct_model::{Encoded, Model, PatchMask, Sequence, Vlc};
use vlct_tensor::ops::{Ipot, Pair};
use vlct_tensor::tensor::Order;
use vlct_tensor::{Planes, Tape, Var};
use vlct_text::{MaskingConfig, mask_tokens};

/// Group of the masked captions with their images.
pub const MODELLING: u8 = 0;
/// Group of the unmasked captions with their own or false images.
pub const MATCHING: u8 = 1;

/// Weight of the word-patch alignment loss, as in the original.
const ALIGNMENT_WEIGHT: f32 = 0.1;

/// Row of the modality table (`token_type_embeddings`) for images.
const IMAGE_TYPE: u32 = 1;

/// The objectives of pre-training, and how tokens and patches are masked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PretrainSpec {
    /// Whether to train masked language modelling.
    pub mlm: bool,
    /// Weight of masked autoencoding, which uses the sequences of masked language modelling; `None` disables it.
    pub mae: Option<f32>,
    /// Whether to train image-text matching with word-patch alignment.
    pub itm: bool,
    /// Masking of tokens.
    pub masking: MaskingConfig,
    /// Fraction of the patches that are masked, in training and evaluation. With `None` all patches are visible, and masked
    /// autoencoding is skipped.
    pub mask_ratio: Option<f64>,
}

/// The pre-training task.
#[derive(Clone, Debug)]
pub struct Pretrain {
    spec: PretrainSpec,
    /// Number of patches per image.
    patches: usize,
}

impl Pretrain {
    /// Makes the task for a model with `patches` patches per image.
    ///
    /// # Errors
    /// Returns [`DataError::Invalid`] if the masking probability is not in 0..=1.
    pub fn new(spec: PretrainSpec, patches: usize) -> Result<Self, DataError> {
        let probability = spec.masking.probability;
        if !(0.0..=1.0).contains(&probability) {
            return Err(DataError::Invalid(format!("mlm_prob {probability} is not in 0..=1")));
        }
        Ok(Self { spec, patches })
    }

    /// Whether the sample has its own image in image-text matching. In a micro-batch of `n` samples, `floor(n / 2)` random samples
    /// have their own image.
    fn is_matched(&self, cx: &SampleContext) -> bool {
        let mut matched = vec![true; cx.batch_len()];
        matched[cx.batch_len() / 2..].fill(false);
        matched.shuffle(&mut cx.batch_rng(Purpose::MatchLabels));
        matched[cx.index()]
    }

    fn random_mask(&self, cx: &SampleContext, purpose: Purpose) -> Option<PatchMask> {
        let ratio = self.spec.mask_ratio?;
        let mut rng = cx.rng(purpose);
        let noise: Vec<f32> = (0..self.patches).map(|_| rng.random()).collect();
        Some(PatchMask::from_noise(&noise, ratio))
    }

    /// Computes the same as [`Task::forward`] and calls `trace` with the names and values of intermediate results: those of
    /// [`Vlc::encode_tracing`], `mlm_logits` (one row per masked token) and `itm_logits`.
    pub fn forward_tracing(
        &self,
        model: &Vlc,
        tape: &Tape,
        batch: &Batch,
        trace: &mut dyn FnMut(&str, &Var),
    ) -> Outcome {
        let (modelling, matching) = (batch.group(MODELLING), batch.group(MATCHING));
        let encoded = model.encode_tracing(tape, &batch.inputs(), batch.dropout, trace);
        let mut outcome = Outcome::default();
        let mut terms: Vec<(Var, f32)> = Vec::new();
        if self.spec.mlm {
            let (rows, targets) = masked_tokens(batch, &encoded, modelling.clone());
            let (loss, hits) = if rows.is_empty() {
                (Var::constant(tape.device().zeros(1, 1)), tape.device().zeros(1, 1))
            } else {
                let logits = model.mlm_logits(tape, &encoded, rows);
                trace("mlm_logits", &logits);
                let hits = tape.hits(&logits, &targets);
                (tape.cross_entropy(&logits, targets.as_slice()), hits)
            };
            outcome = outcome
                .with_loss("mlm/loss", &loss, 1.0)
                .with_sum("mlm/accuracy", hits, targets.len());
            terms.push((loss, 1.0));
            let masks: Option<Vec<&PatchMask>> = batch.sequences[modelling.clone()]
                .iter()
                .map(|sequence| sequence.mask.as_ref())
                .collect();
            if let (Some(weight), Some(masks)) = (self.spec.mae, masks) {
                let loss = autoencoding_loss(model, tape, batch, &encoded, modelling, &masks);
                outcome = outcome.with_loss("mae/loss", &loss, weight);
                terms.push((loss, weight));
            }
        }
        if self.spec.itm {
            let pooled = model.pool(tape, &encoded, matching.clone());
            let logits = model.itm_logits(tape, &pooled);
            trace("itm_logits", &logits);
            let targets = batch
                .classes()
                .unwrap_or_else(|| panic!("image-text matching needs a class for each sample"));
            let hits = tape.hits(&logits, &targets);
            let loss = tape.cross_entropy(&logits, targets.as_slice());
            let wpa = alignment_loss(tape, &encoded, matching, &targets);
            outcome = outcome
                .with_loss("itm/loss", &loss, 1.0)
                .with_loss("itm/wpa_loss", &wpa, ALIGNMENT_WEIGHT)
                .with_sum("itm/accuracy", hits, targets.len());
            terms.extend([(loss, 1.0), (wpa, ALIGNMENT_WEIGHT)]);
        }
        outcome.loss = Some(tape.weighted_sum(&terms.iter().map(|(loss, weight)| (loss, *weight)).collect::<Vec<_>>()));
        outcome
    }
}

impl Task for Pretrain {
    fn contents(&self) -> Contents {
        Contents::Captions
    }

    fn sample(&self, cx: &mut SampleContext<'_>) -> Result<Sample, SampleError> {
        let image = cx.image(0, &mut cx.rng(Purpose::Augmentation))?;
        let ids = cx.tokens();
        let (mut images, mut texts, mut sequences) = (vec![image], Vec::new(), Vec::new());
        let mut push = |group, text, image, mask| {
            texts.push(text);
            sequences.push(Sequence {
                group,
                text: Some(texts.len() as u32 - 1),
                image: Some(image),
                token_type: IMAGE_TYPE,
                mask,
            });
        };
        if self.spec.mlm {
            let masked = mask_tokens(
                cx.tokenizer(),
                &ids,
                &self.spec.masking,
                &mut cx.rng(Purpose::TokenMask),
            );
            let text = Text {
                ids: masked.ids,
                labels: masked.labels,
            };
            push(MODELLING, text, 0, self.random_mask(cx, Purpose::PatchMaskMlm));
        }
        let mut target = Target::None;
        if self.spec.itm {
            let matched = self.is_matched(cx);
            if !matched {
                images.push(cx.peer_image(&mut cx.rng(Purpose::FalseImage))?);
            }
            let mask = self.random_mask(cx, Purpose::PatchMaskItm);
            push(MATCHING, Text::unmasked(ids), images.len() as u32 - 1, mask);
            target = Target::Class(matched as u32);
        }
        Ok(Sample {
            item: cx.item(),
            images,
            texts,
            sequences,
            target,
        })
    }

    fn forward(&self, model: &Model, tape: &Tape, batch: &Batch) -> Outcome {
        let model = model.vlc();
        self.forward_tracing(model, tape, batch, &mut |_, _| ())
    }

    /// Reports mean losses and accuracies under the original's names. The sum of the accuracies selects the best checkpoint.
    fn report(&self, phase: Phase, tally: &Tally, _rows: &Rows) -> Report {
        let keys = [
            "itm/accuracy",
            "itm/loss",
            "itm/wpa_loss",
            "mlm/accuracy",
            "mlm/loss",
            "mae/loss",
        ];
        // An epoch without masked tokens has no `mlm/accuracy`, which then counts as 0 in the selection.
        Report::from_tally(phase, tally, &keys, &["itm/accuracy", "mlm/accuracy"])
    }
}

/// Returns the rows of the masked tokens in `encoded`, and the original ids of these tokens.
fn masked_tokens(batch: &Batch, encoded: &Encoded, sequences: Range<usize>) -> (Vec<u32>, Vec<u32>) {
    let (mut rows, mut targets) = (Vec::new(), Vec::new());
    for s in sequences {
        let labels = batch.text_of(&batch.sequences[s]).map_or(&[][..], |text| &text.labels);
        for (row, label) in encoded.text_rows(s).zip(labels) {
            if let Some(label) = label {
                rows.push(row as u32);
                targets.push(*label);
            }
        }
    }
    (rows, targets)
}

/// Returns the mean squared error of the reconstructed masked patches. Each target patch is normalised to mean 0 and variance 1.
fn autoencoding_loss(
    model: &Vlc,
    tape: &Tape,
    batch: &Batch,
    encoded: &Encoded,
    sequences: Range<usize>,
    masks: &[&PatchMask],
) -> Var {
    let prediction = model.decode(tape, encoded, sequences.clone(), masks, |mask| mask.removed.clone());
    let masked: Vec<(Planes, &[u32])> = batch.sequences[sequences]
        .iter()
        .zip(masks)
        .filter_map(|(sequence, mask)| Some((batch.image_of(sequence)?, mask.removed.as_slice())))
        .collect();
    let side = model.config().backbone.patch_size;
    let target = tape.device().patches(&masked, side, Order::ChannelLast);
    tape.patch_loss(&prediction, target)
}

/// Returns the word-patch alignment loss: the sum of optimal-transport distances over matched pairs minus the sum over false pairs,
/// divided by the number of pairs. The distance is between words (without `[CLS]` and `[SEP]`) and patches (without the class token).
fn alignment_loss(tape: &Tape, encoded: &Encoded, sequences: Range<usize>, matched: &[u32]) -> Var {
    let n = matched.len() as f32;
    let pair = |(s, matched): (usize, &u32)| {
        let (text, image) = (encoded.text_rows(s), encoded.image_rows(s));
        Pair {
            text: text.start + 1..(text.end - 1).max(text.start + 1),
            image: image.start + 1..image.end,
            weight: if *matched == 1 { 1.0 / n } else { -1.0 / n },
        }
    };
    let pairs = sequences.zip(matched).map(pair).collect();
    tape.transport(&encoded.features, pairs, Ipot::TRAINING)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Ratio;

    #[test]
    fn the_metric_is_the_sum_of_the_accuracies() {
        let masking = MaskingConfig {
            whole_word: false,
            probability: 0.15,
            max_text_len: 8,
        };
        let spec = PretrainSpec {
            mlm: true,
            mae: None,
            itm: true,
            masking,
            mask_ratio: None,
        };
        let task = Pretrain::new(spec.clone(), 4).unwrap();
        let mut tally = Tally::default();
        for (key, sum, count) in [
            ("mlm/loss", 2.0, 1),
            ("mlm/accuracy", 1.0, 4),
            ("itm/accuracy", 3.0, 4),
            ("itm/loss", 0.5, 1),
            ("itm/wpa_loss", 0.25, 1),
        ] {
            tally.add(key, Ratio::new(sum, count));
        }
        let mut report = Report {
            values: vec![("recalls/ir_r1".into(), 0.125)],
            selection: vec![0.25],
            ..Report::default()
        };
        report.extend(task.report(Phase::Val, &tally, &Rows::new()));
        let values = report.values(Phase::Val);
        let want = [
            ("recalls/ir_r1", 0.125),
            ("itm/val/accuracy_epoch", 0.75),
            ("itm/val/loss_epoch", 0.5),
            ("itm/val/wpa_loss_epoch", 0.25),
            ("mlm/val/accuracy_epoch", 0.25),
            ("mlm/val/loss_epoch", 2.0),
            ("val/the_metric", 1.25),
        ];
        assert_eq!(values, want.map(|(name, value)| (name.to_string(), value)));

        for probability in [1.5, f64::NAN] {
            let mut invalid = spec.clone();
            invalid.masking.probability = probability;
            assert!(Pretrain::new(invalid, 4).is_err());
        }
    }
}
