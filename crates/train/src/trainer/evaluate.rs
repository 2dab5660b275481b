//! Evaluation: one pass over a split with the training objectives.

use super::batch;
use crate::data::{self, LoaderMode};
use crate::error::Result;
use crate::metrics::{Phase, PretrainMetrics};
use crate::retrieval::{self, Recalls};
use crate::spec::RunSpec;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use vlct_data::datasets::{Dataset, Split, TableDataset};
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
    spec: &RunSpec,
    dataset: &Arc<TableDataset>,
    tokenizer: &Tokenizer,
    limit: u64,
    stop: &AtomicBool,
) -> Result<PretrainMetrics> {
    evaluate_watching(model, spec, dataset, tokenizer, limit, stop, &mut |_| ())
}

/// As [`evaluate`]; `watch` sees each batch.
pub fn evaluate_watching(
    model: &Vlc,
    spec: &RunSpec,
    dataset: &Arc<TableDataset>,
    tokenizer: &Tokenizer,
    limit: u64,
    stop: &AtomicBool,
    watch: &mut dyn FnMut(&Batch),
) -> Result<PretrainMetrics> {
    let mut metrics = PretrainMetrics::default();
    if dataset.is_empty() {
        return Ok(metrics);
    }
    let mut loader = data::loader(spec, dataset, tokenizer, LoaderMode::Evaluate, Position::default())?;
    let mut left = if limit == 0 { u64::MAX } else { limit };
    while left > 0 && !stop.load(Ordering::Relaxed) {
        let Some(batch) = loader.next() else { break };
        let batch = batch?;
        left -= 1;
        let step = batch::step(&batch, &spec.pretrain, model.config().patches(), false);
        let outcome = step.run(model, &Tape::inference(model.compute()), spec.pretrain.objectives);
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
pub(super) fn check_recalls(spec: &RunSpec) -> Result<()> {
    if spec.validation.recalls && spec.trial.is_none() {
        retrieval::check_size(data::open_first(&spec.data, Split::Val)?.rows())?;
    }
    Ok(())
}

/// Recalls of a split of the first dataset, if the run measures them.
pub(super) fn measure_recalls(
    model: &Vlc,
    spec: &RunSpec,
    split: Split,
    tokenizer: &Tokenizer,
    stop: &AtomicBool,
) -> Result<Recall> {
    if !spec.validation.recalls {
        return Ok(Recall::NotAsked);
    }
    let dataset = &data::open_first(&spec.data, split)?;
    let (length, transform) = (spec.data.max_text_len, spec.data.val_transform);
    let recalls = retrieval::evaluate(model, dataset, tokenizer, length, transform, spec.data.workers, stop)?;
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
