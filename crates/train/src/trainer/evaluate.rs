//! Evaluation: one pass over a split with the training objectives.

use super::{batch, setup};
use crate::config::Config;
use crate::error::Result;
use crate::metrics::PretrainMetrics;
use setup::Use;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use vlct_data::datasets::CaptionDataset;
use vlct_data::loader::{Batch, Position};
use vlct_data::text::Tokenizer;
use vlct_model::Vlc;
use vlct_tensor::Tape;

/// Metrics over the first `limit` batches (0: all) of `dataset`. Ends early when `stop` is set.
///
/// # Errors
/// If a picture cannot be read, with its file and row.
pub fn evaluate(
    model: &Vlc,
    config: &Config,
    dataset: &Arc<CaptionDataset>,
    tokenizer: &Tokenizer,
    limit: u64,
    stop: &AtomicBool,
) -> Result<PretrainMetrics> {
    evaluate_watching(model, config, dataset, tokenizer, limit, stop, &mut |_| ())
}

/// As [`evaluate`]; `watch` sees each batch.
pub fn evaluate_watching(
    model: &Vlc,
    config: &Config,
    dataset: &Arc<CaptionDataset>,
    tokenizer: &Tokenizer,
    limit: u64,
    stop: &AtomicBool,
    watch: &mut dyn FnMut(&Batch),
) -> Result<PretrainMetrics> {
    let mut metrics = PretrainMetrics::default();
    if dataset.is_empty() {
        return Ok(metrics);
    }
    let loader = setup::loader(config, dataset, tokenizer, Use::Evaluation, Position::default())?;
    let limit = if limit == 0 { usize::MAX } else { limit as usize };
    for batch in loader.take(limit) {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let batch = batch?;
        let step = batch::step(&batch, config, model.config().patches(), false);
        let outcome = step.run(model, &Tape::inference(), setup::objectives(config));
        metrics.add(&outcome);
        watch(&batch);
    }
    Ok(metrics)
}
