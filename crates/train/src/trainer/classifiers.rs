//! Training and evaluation of image classifiers, whose runs are described by [`imagenet::Settings`](crate::imagenet::Settings).

use std::sync::Arc;

use log::warn;
use vlct_classes::ClassSplits;
use vlct_data::datasets::Dataset;
use vlct_tasks::evaluate::SplitEvaluator;
use vlct_tasks::images::Images;
use vlct_tasks::neighbours::{self, Features, NeighbourAccuracy};
use vlct_tasks::{Phase, Report, Rows, TaskSpec};
use vlct_tensor::Collectives;
use vlct_tensor::collectives::Single;
use vlct_util::text::counted;

use super::training::{Control, Finished};
use super::{Threads, evaluate, test, use_threads};
use crate::data::Data;
use crate::error::{Result, TrainError};
use crate::imagenet::classes;
use crate::spec::RunSpec;
use crate::weights;
use vlct_logs::Progress;

/// Trains a run on `splits`.
///
/// # Errors
/// Returns an error if data or weights cannot be read, a loss is not finite, or a file cannot be written.
pub fn train(spec: RunSpec, splits: ClassSplits, control: &Control) -> Result<Finished> {
    train_rank(spec, splits, control, &Single)
}

/// Trains one rank of a run on `splits`; see [`run_rank`](super::run_rank).
///
/// # Errors
/// Returns the errors of [`train`], and those of other ranks.
pub fn train_rank(
    spec: RunSpec,
    splits: ClassSplits,
    control: &Control,
    collectives: &dyn Collectives,
) -> Result<Finished> {
    super::together(collectives, || {
        use_threads(Threads::from_spec(&spec.compute))?;
        let data = Data::of_classes(splits, &spec)?;
        super::train(spec, data, control, collectives)
    })
}

/// The evaluation of a split.
pub struct Evaluation {
    /// The metrics.
    pub report: Report,
    /// The split.
    pub data: Arc<dyn Dataset>,
    /// The results of the items of `data`. Images that cannot be read have a result, too.
    pub rows: Rows,
}

/// Evaluates the weights of `load_path` of a run on its validation split. Returns `None` if it is stopped before the end.
///
/// # Errors
/// Returns an error if the data or the weights cannot be read, a tensor of the model is not in the file, or there are no validation images.
/// An image that cannot be read is a result in [`Evaluation::rows`].
pub fn evaluate(spec: &RunSpec, splits: ClassSplits, control: &Control) -> Result<Option<Evaluation>> {
    evaluate_rank(spec, splits, control, &Single)
}

/// Evaluates on one rank of several, which divide the images and get the same results; see [`evaluate()`] and
/// [`run_rank`](super::run_rank).
///
/// # Errors
/// Returns the errors of [`evaluate()`], and those of other ranks.
pub fn evaluate_rank(
    spec: &RunSpec,
    splits: ClassSplits,
    control: &Control,
    collectives: &dyn Collectives,
) -> Result<Option<Evaluation>> {
    super::together(collectives, || evaluate_share(spec, splits, control, collectives))
}

fn evaluate_share(
    spec: &RunSpec,
    splits: ClassSplits,
    control: &Control,
    collectives: &dyn Collectives,
) -> Result<Option<Evaluation>> {
    // Every tensor comes from the file.
    let spec = &RunSpec {
        test_only: true,
        ..spec.clone()
    };
    use_threads(Threads::from_spec(&spec.compute))?;
    let data = Data::of_classes(splits, spec)?;
    data.check_validation(spec)?;
    let mut model = weights::fresh_model(spec);
    if let Some(report) = weights::load_and_log(&mut model, spec)? {
        if let Some(head) = report.skipped.first() {
            return Err(TrainError::OtherClasses {
                path: spec.weights.load_path.clone().unwrap_or_default(),
                difference: head.clone(),
            });
        }
        test::check_complete(spec, &report)?;
    }
    let mut split = evaluate::split_evaluator(spec, data.val.clone(), &data.inputs)?;
    split.loader.replaces_unreadable = true;
    let is_first = collectives.rank() == 0;
    let mut progress = ImageProgress::new(data.val.len(), control.progress && is_first);
    let results = split.tally_of_ranks(&model, collectives, control.stop, &mut |batch| {
        // The other ranks evaluate as many images in the same time.
        progress.add(batch.len() * collectives.ranks());
    })?;
    progress.finish();
    Ok(results.map(|(tally, rows)| {
        if let TaskSpec::Images(images) = &spec.task
            && is_first
        {
            classes::warn_of_unreadable(&images.names, &rows);
        }
        Evaluation {
            report: split.task.report(Phase::Val, &tally, &rows),
            data: data.val,
            rows,
        }
    }))
}

/// Computes the accuracy of nearest neighbours, for each number of neighbours `ks`, on the features of the weights of `load_path` of a run.
/// Returns `None` if it is stopped before the end.
///
/// # Errors
/// Returns an error if data or weights cannot be read, or there are no validation images.
///
/// # Panics
/// Panics if the run does not classify images.
pub fn neighbours(
    spec: &RunSpec,
    splits: ClassSplits,
    ks: &[usize],
    control: &Control,
) -> Result<Option<Vec<NeighbourAccuracy>>> {
    use_threads(Threads::from_spec(&spec.compute))?;
    let data = Data::of_classes(splits, spec)?;
    data.check_validation(spec)?;
    let TaskSpec::Images(task) = &spec.task else {
        panic!("the run does not classify images")
    };
    // The features need no head.
    let mut spec = spec.clone();
    spec.weights.skip_heads = true;
    let spec = &spec;
    let mut model = weights::fresh_model(spec);
    weights::load_and_log(&mut model, spec)?;
    let features = |split| -> Result<SplitEvaluator> {
        let mut evaluator = evaluate::split_evaluator(spec, split, &data.inputs)?;
        evaluator.task = Arc::new(Features(Images::new(task.clone())));
        evaluator.loader.replaces_unreadable = true;
        Ok(evaluator)
    };
    let (train, val) = (features(Arc::clone(&data.train))?, features(Arc::clone(&data.val))?);
    let (mut unreadable, mut first) = (0, None);
    let mut progress = ImageProgress::new(data.train.len() + data.val.len(), control.progress);
    let accuracies = neighbours::accuracies(&model, [&train, &val], ks, control.stop, &mut |batch| {
        progress.add(batch.len());
        unreadable += batch.unreadable.len();
        first = first.take().or_else(|| batch.unreadable.first().cloned());
    })?;
    progress.finish();
    if let Some(first) = first {
        let images = counted(unreadable, "image");
        warn!("{images} could not be read and are left out, such as {}", first.reason);
    }
    Ok(accuracies)
}

/// The progress of an evaluation.
struct ImageProgress {
    progress: Progress,
    images: u64,
    done: u64,
}

impl ImageProgress {
    fn new(images: usize, is_shown: bool) -> Self {
        Self {
            progress: match is_shown {
                true => Progress::counting("image", images as u64, 0),
                false => Progress::quiet(),
            },
            images: images as u64,
            done: 0,
        }
    }

    fn add(&mut self, images: usize) {
        self.done = (self.done + images as u64).min(self.images);
        self.progress.reach(self.done);
    }

    fn finish(mut self) {
        self.progress.finish();
    }
}
