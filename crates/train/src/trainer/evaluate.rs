//! The evaluators of a run: one pass over a split with the task that is trained, and recalls.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use vlct_data::datasets::{Dataset, Split};
use vlct_model::Vlc;
use vlct_tasks::evaluate::{Evaluator, SplitEvaluator};
use vlct_tasks::scoring::RecallEvaluator;
use vlct_tasks::{InputSpec, Mode, Phase, Report};

use crate::data;
use crate::error::Result;
use crate::spec::RunSpec;

/// One pass over a split with the task of a run.
///
/// # Errors
/// Returns an error if a value of the task is out of range.
pub fn split_evaluator(spec: &RunSpec, split: Arc<dyn Dataset>, inputs: &Arc<InputSpec>) -> Result<SplitEvaluator> {
    Ok(SplitEvaluator {
        task: spec.task.build(&spec.model)?,
        data: split,
        inputs: Arc::clone(inputs),
        loader: data::loader(spec, Mode::Evaluate),
        limit: 0,
    })
}

/// Recalls of a split of the first dataset, if the run measures them.
///
/// # Errors
/// Returns an error if files are missing or the split has too few images.
pub(super) fn recall(spec: &RunSpec, split: Split, inputs: &Arc<InputSpec>) -> Result<Option<RecallEvaluator>> {
    if !spec.validation.recalls {
        return Ok(None);
    }
    let dataset = data::open_first(&spec.data, split)?;
    Ok(Some(RecallEvaluator::new(
        dataset,
        Arc::clone(inputs),
        spec.data.workers,
    )?))
}

/// Runs the evaluators: the values under the original's names, recalls first, last the value by which the best checkpoint is
/// chosen. `None` if told to stop on the way.
///
/// # Errors
/// Returns an error that names file and row if an image cannot be read.
pub(super) fn evaluate(
    recall: Option<&RecallEvaluator>,
    pass: &SplitEvaluator,
    model: &Vlc,
    stop: &AtomicBool,
) -> Result<Option<Vec<(String, f64)>>> {
    let recall = recall.map(|recall| recall as &dyn Evaluator);
    let mut report = Report::default();
    for evaluator in recall.into_iter().chain([pass as &dyn Evaluator]) {
        match evaluator.run(model, stop)? {
            Some(found) => report.extend(found),
            None => return Ok(None),
        }
    }
    Ok(Some(report.into_values(Phase::Val)))
}
