//! Numbers on the held-out pictures.

use super::baseline;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use vlct_data::datasets::{CaptionDataset, Split};
use vlct_data::loader::ImageLoader;
use vlct_data::text::Tokenizer;
use vlct_image::TransformKind;
use vlct_model::Vlc;
use vlct_train::config::Config;
use vlct_train::error::Result;
use vlct_train::metrics::{Accuracy, Scalar};
use vlct_train::retrieval::{Recalls, recalls, score_picture};
use vlct_train::trainer::evaluate::evaluate_watching;
use vlct_train::trainer::setup;

/// Pictures among which the right one is searched.
const CANDIDATES: usize = 200;

/// Results and what examples are made from.
pub struct Evaluation {
    pub tokenizer: Tokenizer,
    pub held_out: Arc<CaptionDataset>,
    /// Matching accuracy with all patches visible.
    pub itm: Accuracy,
    /// Matching accuracy with patches hidden as in training.
    pub itm_masked: Accuracy,
    /// Masked-word accuracy with all patches visible.
    pub mlm: Accuracy,
    /// The same positions guessed from the text alone.
    pub text_only: Accuracy,
    /// Masked-autoencoding loss.
    pub mae: Scalar,
    pub recalls: Recalls,
    /// Normalised pictures of the candidates.
    pub pictures: Vec<Vec<f32>>,
    /// The first caption of each candidate, and its tokens.
    pub captions: Vec<String>,
    pub texts: Vec<Vec<u32>>,
    /// `[candidates, candidates]`, pictures by captions.
    pub scores: Vec<f32>,
}

/// Evaluates `model` on the held-out split.
pub fn evaluate(model: &Vlc, config: &Config) -> Result<Evaluation> {
    let tokenizer = setup::tokenizer(config)?;
    let held_out = setup::dataset(config, Split::Test)?;
    let never = AtomicBool::new(false);

    let masked = evaluate_watching(model, config, &held_out, &tokenizer, 0, &never, &mut |_| ())?;
    let guesser = baseline::fit(config, &tokenizer)?;
    let mut text_only = Accuracy::default();
    let whole = Config {
        is_pretrain: false,
        use_mae: false,
        ..config.clone()
    };
    let visible = evaluate_watching(model, &whole, &held_out, &tokenizer, 0, &never, &mut |batch| {
        for (ids, labels) in batch.mlm_ids.iter().zip(&batch.mlm_labels) {
            for (position, label) in labels.iter().enumerate() {
                if let Some(label) = label {
                    text_only.add(((guesser.predict(ids, position) == *label) as usize, 1));
                }
            }
        }
    })?;

    let (mut pictures, mut captions) = (Vec::new(), Vec::new());
    let size = config.image_size;
    let loader = ImageLoader::new(
        Arc::clone(&held_out),
        TransformKind::MaeTest,
        size,
        1,
        config.num_workers,
        8,
    )?;
    for batch in loader.take(CANDIDATES) {
        let batch = batch?;
        for (picture, pixels) in batch.rows.zip(batch.images) {
            pictures.push(pixels);
            captions.push(held_out.caption(held_out.items_of(picture)?.start)?);
        }
    }
    let texts: Vec<Vec<u32>> = captions
        .iter()
        .map(|c| tokenizer.encode(c, config.max_text_len))
        .collect();
    let scores: Vec<f32> = pictures
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
        pictures,
        captions,
        texts,
        scores,
    })
}
