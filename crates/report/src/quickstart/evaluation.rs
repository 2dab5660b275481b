//! Evaluation on the held-out images, and the text-only baseline.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use vlct_data::datasets::{Dataset, Split, TableDataset};
use vlct_data::loader::ImageLoader;
use vlct_data::text::Tokenizer;
use vlct_image::TransformKind;
use vlct_model::Vlc;
use vlct_synthetic::TextBaseline;
use vlct_train::data;
use vlct_train::error::Result;
use vlct_train::metrics::{Accuracy, Scalar};
use vlct_train::retrieval::{Recalls, recalls, score_picture};
use vlct_train::spec::{DataSpec, RunSpec};
use vlct_train::trainer::evaluate::evaluate_watching;

/// Images and captions of the retrieval evaluation.
const CANDIDATES: usize = 200;

/// Metrics, and the data that the examples are made from.
pub struct Evaluation {
    /// Tokenizer of the run.
    pub tokenizer: Tokenizer,
    /// The dataset that was evaluated.
    pub held_out: Arc<TableDataset>,
    /// Matching accuracy with all patches visible.
    pub itm: Accuracy,
    /// Matching accuracy with patches masked as in training.
    pub itm_masked: Accuracy,
    /// Masked-word accuracy with all patches visible.
    pub mlm: Accuracy,
    /// Accuracy of the text-only baseline at the same masked positions.
    pub text_only: Accuracy,
    /// Masked-autoencoding loss.
    pub mae: Scalar,
    /// Retrieval among the candidates.
    pub recalls: Recalls,
    /// Normalised images of the candidates, each `[3, size, size]`.
    pub images: Vec<Vec<f32>>,
    /// The first caption of each candidate.
    pub captions: Vec<String>,
    /// The token ids of each caption.
    pub texts: Vec<Vec<u32>>,
    /// Matching scores `[candidates, candidates]`, one row per image and one column per caption.
    pub scores: Vec<f32>,
}

/// Evaluates `model` on the held-out split.
///
/// # Errors
/// Returns an error if the dataset or the vocabulary cannot be read.
pub fn evaluate(model: &Vlc, spec: &RunSpec) -> Result<Evaluation> {
    let tokenizer = data::tokenizer(spec)?;
    let held_out = data::open(&spec.data, Split::Test)?;
    let never = AtomicBool::new(false);

    let masked = evaluate_watching(model, spec, &held_out, &tokenizer, 0, &never, &mut |_| ())?;
    let baseline = text_baseline(&spec.data, &tokenizer)?;
    let mut text_only = Accuracy::default();
    let mut whole = spec.clone();
    whole.pretrain.mask_ratio = None;
    whole.pretrain.objectives.mae = None;
    let visible = evaluate_watching(model, &whole, &held_out, &tokenizer, 0, &never, &mut |batch| {
        for (ids, labels) in batch.mlm_ids.iter().zip(&batch.mlm_labels) {
            for (position, label) in labels.iter().enumerate() {
                if let Some(label) = label {
                    text_only.add(((baseline.predict(ids, position) == *label) as usize, 1));
                }
            }
        }
    })?;

    let (mut images, mut captions) = (Vec::new(), Vec::new());
    let size = spec.data.image_size;
    let loader = ImageLoader::new(
        Arc::clone(&held_out),
        TransformKind::MaeTest,
        size,
        1,
        spec.data.workers,
        8,
    )?;
    for batch in loader.take(CANDIDATES) {
        let batch = batch?;
        for (row, pixels) in batch.rows.zip(batch.images) {
            images.push(pixels);
            let first = held_out.items_of(row)?.start;
            captions.push(held_out.text(first)?.unwrap_or_default().into_owned());
        }
    }
    let texts: Vec<Vec<u32>> = captions
        .iter()
        .map(|c| tokenizer.encode(c, spec.data.max_text_len))
        .collect();
    let scores: Vec<f32> = images
        .iter()
        .flat_map(|pixels| score_picture(model, pixels, &texts))
        .collect();
    let owner: Vec<usize> = (0..captions.len()).collect();
    Ok(Evaluation {
        recalls: recalls(&scores, &owner),
        itm: visible.itm_accuracy(),
        itm_masked: masked.itm_accuracy(),
        mlm: visible.mlm_accuracy(),
        text_only,
        mae: masked.mae_loss(),
        tokenizer,
        held_out,
        images,
        captions,
        texts,
        scores,
    })
}

/// Fits the text-only baseline to all captions of the training split.
fn text_baseline(spec: &DataSpec, tokenizer: &Tokenizer) -> Result<TextBaseline> {
    let training = data::open(spec, Split::Train)?;
    let mut sequences = Vec::with_capacity(training.len());
    for index in 0..training.len() {
        sequences.push(tokenizer.encode(&training.text(index)?.unwrap_or_default(), spec.max_text_len));
    }
    Ok(TextBaseline::fit(sequences.iter().map(Vec::as_slice)))
}
