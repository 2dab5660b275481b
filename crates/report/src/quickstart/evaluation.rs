//! Evaluation on the held-out images, and the text-only baseline.

use crate::examples::Candidates;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use vlct_data::datasets::{Dataset, Split, TableDataset};
use vlct_image::TransformKind;
use vlct_model::Model;
use vlct_synthetic::TextBaseline;
use vlct_tasks::scoring::{Recalls, RetrievalScorer};
use vlct_tasks::{Batch, InputSpec, Ratio, Tally, TaskSpec};
use vlct_text::Tokenizer;
use vlct_train::data;
use vlct_train::error::Result;
use vlct_train::spec::RunSpec;
use vlct_train::trainer::evaluate::split_evaluator;

/// Maximum number of images, and of captions, in the retrieval evaluation.
pub const CANDIDATES: usize = 200;

/// The metrics of the model, and the data for the examples of the report.
pub struct Evaluation {
    /// The dataset that was evaluated.
    pub held_out: Arc<TableDataset>,
    /// Matching accuracy with all patches visible.
    pub itm: Ratio,
    /// Matching accuracy with patches masked as in training.
    pub itm_masked: Ratio,
    /// Masked-word accuracy with all patches visible.
    pub mlm: Ratio,
    /// Accuracy of the text-only baseline at the masked positions of `mlm`.
    pub text_only: Ratio,
    /// Masked-autoencoding loss.
    pub mae: Ratio,
    /// Recalls of retrieval among the candidates.
    pub recalls: Recalls,
    /// The images and captions among which retrieval was evaluated.
    pub candidates: Candidates,
}

/// Evaluates `model` on the held-out split.
///
/// # Errors
/// Returns an error if the dataset or the vocabulary cannot be read.
pub fn evaluate(model: &Model, spec: &RunSpec) -> Result<Evaluation> {
    let inputs = data::inputs(spec)?;
    let held_out = data::open(spec, Split::Test)?;
    let no_stop = AtomicBool::new(false);
    let evaluate_split = |spec: &RunSpec, watch: &mut dyn FnMut(&Batch)| -> Result<Tally> {
        let results = split_evaluator(spec, held_out.clone(), &inputs)?.tally(model, &no_stop, watch)?;
        Ok(results.unwrap_or_default().0)
    };

    let masked = evaluate_split(spec, &mut |_| ())?;
    let baseline = text_baseline(spec, &inputs.tokenizer)?;
    let mut text_only = Ratio::default();
    let mut unmasked = spec.clone();
    if let TaskSpec::Pretrain(pretrain) = &mut unmasked.task {
        (pretrain.mask_ratio, pretrain.mae) = (None, None);
    }
    let visible = evaluate_split(&unmasked, &mut |batch| {
        for text in &batch.texts {
            for (position, label) in text.labels.iter().enumerate() {
                if let Some(label) = label {
                    let is_correct = baseline.predict(&text.ids, position) == *label;
                    text_only.add(Ratio::new(is_correct as u8 as f64, 1));
                }
            }
        }
    })?;

    let (recalls, candidates) = retrieval(model, spec)?;
    let ratio = |tally: &Tally, key| tally.get(key).unwrap_or_default();
    Ok(Evaluation {
        recalls,
        itm: ratio(&visible, "itm/accuracy"),
        itm_masked: ratio(&masked, "itm/accuracy"),
        mlm: ratio(&visible, "mlm/accuracy"),
        text_only,
        mae: ratio(&masked, "mae/loss"),
        candidates,
        held_out,
    })
}

/// Ranks the first held-out images, at most [`CANDIDATES`], and the first caption of each. Returns the recalls and what was ranked.
///
/// # Errors
/// Returns an error if the dataset or the vocabulary cannot be read.
pub fn retrieval(model: &Model, spec: &RunSpec) -> Result<(Recalls, Candidates)> {
    let inputs = data::inputs(spec)?;
    let held_out = data::open(spec, Split::Test)?;
    let candidates = held_out.rows().min(CANDIDATES);
    let mut captions = Vec::with_capacity(candidates);
    for row in 0..candidates {
        let first = held_out.items_of(row)?.start;
        captions.push(held_out.text(first)?.unwrap_or_default().into_owned());
    }
    let texts: Vec<Vec<u32>> = captions
        .iter()
        .map(|c| inputs.tokenizer.encode(c, spec.data.max_text_len))
        .collect();
    let test_inputs = Arc::new(InputSpec {
        eval_transform: TransformKind::MaeTest.into(),
        ..(*inputs).clone()
    });
    let mut images = Vec::with_capacity(candidates);
    let scoring = RetrievalScorer::new(held_out.clone(), test_inputs, texts.clone(), spec.data.workers);
    let scores = scoring.scores(model.vlc(), candidates, &AtomicBool::new(false), &mut |image| {
        images.push(image.clone())
    })?;
    let scores = scores.unwrap_or_default();
    let owner: Vec<usize> = (0..candidates).collect();
    let recalls = Recalls::from_scores(&scores, &owner);
    let candidates = Candidates {
        tokenizer: inputs.tokenizer.clone(),
        images,
        normalisation: inputs.format.normalisation,
        captions,
        texts,
        scores,
    };
    Ok((recalls, candidates))
}

/// Fits the text-only baseline to all captions of the training split.
fn text_baseline(spec: &RunSpec, tokenizer: &Tokenizer) -> Result<TextBaseline> {
    let training = data::open(spec, Split::Train)?;
    let mut sequences = Vec::with_capacity(training.len());
    for index in 0..training.len() {
        sequences.push(tokenizer.encode(&training.text(index)?.unwrap_or_default(), spec.data.max_text_len));
    }
    Ok(TextBaseline::fit(sequences.iter().map(Vec::as_slice)))
}
