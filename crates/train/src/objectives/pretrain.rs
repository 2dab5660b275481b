//! One pre-training step, from captions and pictures to the losses (VLC, section 3.2).
//!
//! The masked captions with their pictures (first group) and the clean captions with true or false pictures (second group)
//! are sequences of one packed batch: the encoder runs once over all of them.

use super::{Pools, argmax};
use vlct_model::{Encoded, PatchMask, Vlc};
use vlct_tensor::ops::{Ipot, Pair};
use vlct_tensor::tensor::Order;
use vlct_tensor::{Tape, Tensor, Var};

/// Weight of the alignment term inside the matching objective.
const ALIGNMENT_WEIGHT: f32 = 0.1;

/// What is computed, and how much it counts.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Objectives {
    /// Masked language modelling.
    pub mlm: bool,
    /// Weight of masked autoencoding, which shares the pass of masked language modelling; `None`: left out.
    pub mae: Option<f32>,
    /// Image-text matching with word-patch alignment.
    pub itm: bool,
}

/// Input of the first pass, in parallel lists.
#[derive(Clone, Debug)]
pub struct Modelling<'a> {
    /// Corrupted token ids from `[CLS]` to `[SEP]`.
    pub texts: Vec<&'a [u32]>,
    /// The original id where a token is to be predicted.
    pub labels: Vec<&'a [Option<u32>]>,
    /// Pictures `[3, S, S]`.
    pub pictures: Vec<&'a [f32]>,
    /// Visible patches; `None`: all (then there is nothing to autoencode).
    pub masks: Option<Vec<PatchMask>>,
}

/// Input of the second pass, in parallel lists.
#[derive(Clone, Debug)]
pub struct Matching<'a> {
    /// Token ids from `[CLS]` to `[SEP]`.
    pub texts: Vec<&'a [u32]>,
    /// Pictures `[3, S, S]`: the caption's own where `matched`, another one elsewhere.
    pub pictures: Vec<&'a [f32]>,
    /// Whether caption and picture belong together.
    pub matched: Vec<bool>,
    /// Visible patches; `None`: all.
    pub masks: Option<Vec<PatchMask>>,
}

/// Everything that a step reads.
#[derive(Clone, Debug)]
pub struct PretrainStep<'a> {
    /// First pass, unless masked language modelling is left out.
    pub modelling: Option<Modelling<'a>>,
    /// Second pass, unless matching is left out.
    pub matching: Option<Matching<'a>>,
    /// Key of the text embedding's dropout; `None`: no dropout.
    pub dropout: Option<[u64; 4]>,
}

/// Losses of one step as they are logged: with their weights in.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Losses {
    /// Masked language modelling; `None` if not computed.
    pub mlm: Option<f32>,
    /// Masked autoencoding, times its weight.
    pub mae: Option<f32>,
    /// Image-text matching.
    pub itm: Option<f32>,
    /// Word-patch alignment, times 0.1.
    pub wpa: Option<f32>,
}

/// Result of one step.
pub struct Outcome {
    /// What is minimised: the sum of all losses.
    pub total: Var,
    /// The parts.
    pub losses: Losses,
    /// Masked tokens predicted right, and their number.
    pub mlm_hits: (usize, usize),
    /// Pairs judged right, and their number.
    pub itm_hits: (usize, usize),
    /// Vocabulary logits at the masked positions, in order, for evaluation.
    pub mlm_logits: Option<Var>,
    /// Matching logits `[n, 2]`.
    pub itm_logits: Option<Var>,
}

impl PretrainStep<'_> {
    /// Runs the model and computes the losses.
    pub fn run(&self, model: &Vlc, tape: &Tape, objectives: Objectives) -> Outcome {
        self.run_tracing(model, tape, objectives, &mut |_, _| ())
    }

    /// As [`PretrainStep::run`]; `trace` sees the encoder's intermediates (see [`Vlc::encode_tracing`]).
    pub fn run_tracing(
        &self,
        model: &Vlc,
        tape: &Tape,
        objectives: Objectives,
        trace: &mut dyn FnMut(&str, &Var),
    ) -> Outcome {
        let mut pools = Pools::default();
        if let Some(m) = &self.modelling {
            pools.extend(0, &m.texts, &m.pictures, m.masks.as_deref());
        }
        if let Some(m) = &self.matching {
            pools.extend(1, &m.texts, &m.pictures, m.masks.as_deref());
        }
        let first = self.modelling.as_ref().map_or(0, |m| m.texts.len());
        let encoded = model.encode_tracing(tape, &pools.inputs(), self.dropout, trace);

        let mut losses = Losses::default();
        let mut terms: Vec<(Var, f32)> = Vec::new();
        let (mut mlm_hits, mut itm_hits) = ((0, 0), (0, 0));
        let (mut mlm_logits, mut itm_logits) = (None, None);
        if let Some(m) = &self.modelling {
            let (loss, hits, logits) = mlm(model, tape, &encoded, m);
            losses.mlm = Some(loss.tensor().item());
            terms.push((loss, 1.0));
            (mlm_hits, mlm_logits) = (hits, logits);
            if let (Some(weight), Some(masks)) = (objectives.mae, &m.masks) {
                let loss = mae(model, tape, &encoded, m, masks);
                losses.mae = Some(weight * loss.tensor().item());
                terms.push((loss, weight));
            }
        }
        if let Some(m) = &self.matching {
            let pooled = model.pool(tape, &encoded, first..first + m.texts.len());
            let logits = model.itm_logits(tape, &pooled);
            itm_hits = count_hits(&logits, m.matched.iter().map(|matched| *matched as u32));
            let targets: Vec<u32> = m.matched.iter().map(|matched| *matched as u32).collect();
            let loss = tape.cross_entropy(&logits, targets);
            losses.itm = Some(loss.tensor().item());
            terms.push((loss, 1.0));
            itm_logits = Some(logits);
            let loss = alignment(tape, &encoded, first, &m.matched);
            losses.wpa = Some(ALIGNMENT_WEIGHT * loss.tensor().item());
            terms.push((loss, ALIGNMENT_WEIGHT));
        }
        let total = tape.weighted_sum(&terms.iter().map(|(v, w)| (v, *w)).collect::<Vec<_>>());
        Outcome {
            total,
            losses,
            mlm_hits,
            itm_hits,
            mlm_logits,
            itm_logits,
        }
    }
}

/// Cross-entropy at the masked positions; 0 where the batch has none.
fn mlm(model: &Vlc, tape: &Tape, encoded: &Encoded, m: &Modelling) -> (Var, (usize, usize), Option<Var>) {
    let (mut rows, mut targets) = (Vec::new(), Vec::new());
    for (s, labels) in m.labels.iter().enumerate() {
        for (row, label) in encoded.text_rows(s).zip(*labels) {
            if let Some(label) = label {
                rows.push(row as u32);
                targets.push(*label);
            }
        }
    }
    if rows.is_empty() {
        return (Var::constant(Tensor::zeros(1, 1)), (0, 0), None);
    }
    let logits = model.mlm_logits(tape, encoded, rows);
    let hits = count_hits(&logits, targets.iter().copied());
    (tape.cross_entropy(&logits, targets), hits, Some(logits))
}

/// Error at the hidden patches.
fn mae(model: &Vlc, tape: &Tape, encoded: &Encoded, m: &Modelling, masks: &[PatchMask]) -> Var {
    let prediction = model.decode(
        tape,
        encoded,
        0..masks.len(),
        &masks.iter().collect::<Vec<_>>(),
        |mask| mask.removed.clone(),
    );
    let pictures: Vec<(&[f32], &[u32])> = m
        .pictures
        .iter()
        .zip(masks)
        .map(|(p, mask)| (*p, mask.removed.as_slice()))
        .collect();
    let (size, side) = (model.config().image_size, model.config().backbone.patch_size);
    tape.patch_loss(&prediction, Tensor::patches(&pictures, size, side, Order::ChannelLast))
}

/// Transport distances between words (without `[CLS]` and `[SEP]`) and patches (without the class token), those of matched
/// pairs minus those of the others, over the number of pairs.
fn alignment(tape: &Tape, encoded: &Encoded, first: usize, matched: &[bool]) -> Var {
    let n = matched.len() as f32;
    let pair = |(i, matched): (usize, &bool)| {
        let (text, image) = (encoded.text_rows(first + i), encoded.image_rows(first + i));
        let words = text.start + 1..(text.end - 1).max(text.start + 1);
        Pair {
            text: words,
            image: image.start + 1..image.end,
            weight: if *matched { 1.0 / n } else { -1.0 / n },
        }
    };
    tape.transport(
        &encoded.features,
        matched.iter().enumerate().map(pair).collect(),
        Ipot::TRAINING,
    )
}

fn count_hits(logits: &Var, targets: impl Iterator<Item = u32>) -> (usize, usize) {
    let classes = logits.columns();
    let host = logits.tensor().to_host();
    let hit = |(row, target): (&[f32], u32)| argmax(row) == target as usize;
    (
        host.chunks_exact(classes)
            .zip(targets)
            .filter(|(r, t)| hit((r, *t)))
            .count(),
        logits.rows(),
    )
}
