//! The evaluators of a run: one for the metrics of its task on a split, one for retrieval recalls.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use log::{info, warn};
use vlct_data::answers::Annotations;
use vlct_data::datasets::{Answer, Dataset, Split};
use vlct_model::Model;
use vlct_tasks::evaluate::SplitEvaluator;
use vlct_tasks::scoring::{RecallEvaluator, ScorePlace, StoredScores};
use vlct_tasks::vqa::Vqa;
use vlct_tasks::{InputSpec, LoaderSpec, Mode, Phase, Report, Rows, TaskSpec, gather};
use vlct_tensor::Collectives;

use crate::data;
use crate::error::Result;
use crate::spec::RunSpec;
use vlct_logs::progress;

use super::scoring_log::ScoringLog;
use vlct_util::text::counted;

/// Makes the evaluator of the run's task on a split.
///
/// # Errors
/// Returns an error if a value of the task is out of range, or the annotations of VQA cannot be read or have none of the questions.
pub fn split_evaluator(spec: &RunSpec, split: Arc<dyn Dataset>, inputs: &Arc<InputSpec>) -> Result<SplitEvaluator> {
    let task = match (&spec.task, &spec.validation.annotations) {
        (TaskSpec::Vqa(vqa), Some(path)) => {
            let annotations = Annotations::open(path)?;
            let question_id = |item| match split.example(item).ok()?.answer {
                Answer::Question { question_id, .. } => Some(question_id),
                _ => None,
            };
            let annotated = annotations.check((0..split.len()).filter_map(question_id))?;
            let (all, path) = (split.len(), path.display());
            info!("official accuracy: {annotated} of {all} questions have annotations in {path}");
            Arc::new(Vqa::new(vqa.clone(), Some(Arc::new(annotations))))
        }
        _ => spec.task.build(&spec.model)?,
    };
    Ok(SplitEvaluator {
        task,
        data: split,
        inputs: Arc::clone(inputs),
        loader: LoaderSpec {
            // A damaged image must not end a training run. The result of a test has every item.
            replaces_unreadable: !spec.test_only,
            ..data::loader_spec(spec, Mode::Evaluate)
        },
        limit: 0,
    })
}

/// An evaluation of recalls.
pub(super) struct RecallRun<'a> {
    pub evaluator: &'a RecallEvaluator,
    /// The place of the scores.
    pub place: ScorePlace<'a>,
    /// Whether to show progress.
    pub progress: bool,
    /// Whether all images of the split are scored.
    pub all_images: bool,
}

/// The result of [`evaluate`].
pub(super) struct Evaluated {
    /// The recalls and the metrics of the task, under the names of the original.
    pub report: Report,
    /// The results of single items.
    pub rows: Rows,
    /// The stored scores of retrieval.
    pub scores: Option<StoredScores>,
}

/// Makes the evaluator of recalls on a split of the first dataset; `None` if the run does not compute recalls.
///
/// # Errors
/// Returns an error if files are missing or the split has too few images.
pub(super) fn recall_evaluator(
    spec: &RunSpec,
    split: Split,
    inputs: &Arc<InputSpec>,
) -> Result<Option<RecallEvaluator>> {
    let Some(recalls) = spec.validation.recalls else {
        return Ok(None);
    };
    let dataset = data::open_first(spec, split)?;
    let (inputs, threads) = (Arc::clone(inputs), spec.data.workers);
    Ok(Some(RecallEvaluator::new(dataset, inputs, threads, recalls)?))
}

/// Runs the evaluators on all ranks, which get the same results. Returns `None` if `stop` is set before the end.
///
/// # Errors
/// Returns an error that names file and row if an image cannot be read, errors of storing scores, and errors of other ranks.
pub(super) fn evaluate(
    recall: Option<RecallRun>,
    split: &SplitEvaluator,
    model: &Model,
    collectives: &dyn Collectives,
    stop: &AtomicBool,
) -> Result<Option<Evaluated>> {
    let (mut report, mut scores) = (Report::default(), None);
    if let Some(recall) = recall {
        let recalls = progress::suspend(|| {
            let directory = recall.place.directory();
            let mut log = directory.map(|directory| ScoringLog::new(directory, recall.progress, recall.all_images));
            recall
                .evaluator
                .recalls(model.vlc(), recall.place, collectives, stop, &mut |event| {
                    if let Some(log) = &mut log {
                        log.handle(event);
                    }
                })
        });
        match recalls? {
            Some((values, stored)) => {
                report.extend(values);
                scores = Some(stored);
            }
            None => {
                if let ScorePlace::Resumable(directory) = recall.place {
                    let directory = directory.display();
                    info!("the scores are stored in {directory}: the same command continues from them");
                }
                return Ok(None);
            }
        }
    }
    let mut unreadable: Vec<(u64, usize, String)> = Vec::new();
    let results = split.tally_of_ranks(model, collectives, stop, &mut |batch| {
        let of_batch = batch.unreadable.iter();
        unreadable.extend(of_batch.map(|image| (batch.position.batch, image.item, image.reason.clone())));
    })?;
    let Some((tally, rows)) = results else { return Ok(None) };
    let unreadable = gather::all(collectives, unreadable)?.concat();
    if collectives.rank() == 0 {
        warn_of_replaced(unreadable);
    }
    report.extend(split.task.report(Phase::Val, &tally, &rows));
    Ok(Some(Evaluated { report, rows, scores }))
}

/// Warns of images that were replaced: the batch, the item and what is wrong with each.
fn warn_of_replaced(mut unreadable: Vec<(u64, usize, String)>) {
    unreadable.sort_by_key(|(batch, ..)| *batch);
    let Some((.., first)) = unreadable.first() else {
        return;
    };
    // The images that replace others may be unreadable, too, so an image can occur more than once.
    let items: BTreeSet<usize> = unreadable.iter().map(|(_, item, _)| *item).collect();
    let images = counted(items.len(), "unreadable image");
    warn!("the validation has replaced {images}, such as {first}");
}
