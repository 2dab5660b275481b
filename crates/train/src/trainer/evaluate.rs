//! Evaluation: one pass over a split with the training objectives.

use super::{batch, setup};
use crate::config::Config;
use crate::error::Result;
use crate::metrics::{Phase, PretrainMetrics};
use crate::retrieval::{self, Recalls};
use setup::Use;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use vlct_data::datasets::{CaptionDataset, Split};
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
    let mut loader = setup::loader(config, dataset, tokenizer, Use::Evaluation, Position::default())?;
    let mut left = if limit == 0 { u64::MAX } else { limit };
    while left > 0 && !stop.load(Ordering::Relaxed) {
        let Some(batch) = loader.next() else { break };
        let batch = batch?;
        left -= 1;
        let step = batch::step(&batch, config, model.config().patches(), false);
        let outcome = step.run(model, &Tape::inference(model.compute()), setup::objectives(config));
        metrics.add(&outcome);
        watch(&batch);
        loader.recycle(batch);
    }
    Ok(metrics)
}

/// What came of measuring recalls.
pub(super) enum Recall {
    /// The configuration does not ask for them.
    NotAsked,
    /// Told to stop on the way.
    Stopped,
    /// The recalls.
    Measured(Recalls),
}

/// Refuses at once what could not be measured after hours of training.
pub(super) fn check_recalls(config: &Config) -> Result<()> {
    match config.get_recall_metric && config.fast_dev_run.0 == 0 {
        true => retrieval::check_size(setup::dataset(&recalled(config), Split::Val)?.rows()),
        false => Ok(()),
    }
}

/// Recalls are those of the first dataset.
fn recalled(config: &Config) -> Config {
    Config {
        datasets: config.datasets[..1].to_vec(),
        ..config.clone()
    }
}

/// Recalls of a split of the first dataset, if the configuration asks for them.
pub(super) fn measure_recalls(
    config: &Config,
    model: &Vlc,
    split: Split,
    tokenizer: &Tokenizer,
    stop: &AtomicBool,
) -> Result<Recall> {
    if !config.get_recall_metric {
        return Ok(Recall::NotAsked);
    }
    let dataset = &setup::dataset(&recalled(config), split)?;
    let transform = config
        .val_transform_keys
        .first()
        .map(String::as_str)
        .unwrap_or_default()
        .parse()?;
    let threads = config.num_workers.max(1);
    let recalls = retrieval::evaluate(model, dataset, tokenizer, config.max_text_len, transform, threads, stop)?;
    Ok(recalls.map_or(Recall::Stopped, Recall::Measured))
}

/// The values of an evaluation; recalls come first and count in `the_metric`.
pub(super) fn with_recalls(metrics: &PretrainMetrics, recall: Recall) -> Vec<(String, f64)> {
    let recalls = match recall {
        Recall::Measured(recalls) => Some(recalls),
        Recall::NotAsked | Recall::Stopped => None,
    };
    let extra = recalls.map_or(0.0, |r| r.ir_r1 + r.tr_r1);
    let listed = recalls
        .iter()
        .flat_map(Recalls::values)
        .map(|(name, value)| (name.to_string(), value));
    listed.chain(metrics.epoch_values(Phase::Val, extra)).collect()
}
