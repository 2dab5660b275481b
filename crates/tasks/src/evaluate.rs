//! Evaluation of a model on a split, for validation, test runs and the quickstart's results.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vlct_data::datasets::Dataset;
use vlct_data::loader::Position;
use vlct_model::Model;
use vlct_tensor::Tape;

use crate::batch::Batch;
use crate::error::Result;
use crate::inputs::InputSpec;
use crate::loader::{Loader, LoaderSpec};
use crate::metrics::{Phase, Report, Tally};
use crate::rows::Rows;
use crate::task::{Outcome, Task};

/// Runs the task on every batch and calls `on_outcome` with the batch and its outcome. Stops early if `stop` is set.
/// Returns whether all batches were evaluated.
///
/// # Errors
/// Returns an error that names file and row if an image cannot be read, and errors of `on_outcome`.
pub fn evaluate_batches(
    task: &dyn Task,
    model: &Model,
    mut batches: impl Iterator<Item = vlct_data::Result<Batch>>,
    stop: &AtomicBool,
    on_outcome: &mut dyn FnMut(&Batch, &Outcome) -> Result<()>,
) -> Result<bool> {
    while !stop.load(Ordering::Relaxed) {
        let Some(batch) = batches.next() else { return Ok(true) };
        let batch = batch?;
        let outcome = task.forward(model, &Tape::inference(model.compute()), &batch);
        on_outcome(&batch, &outcome)?;
    }
    Ok(false)
}

/// Computes metrics of a model.
pub trait Evaluator {
    /// Evaluates the model. Returns `None` if `stop` is set before the end.
    ///
    /// # Errors
    /// Returns an error that names file and row if an item cannot be read.
    fn run(&self, model: &Model, stop: &AtomicBool) -> Result<Option<Report>>;
}

/// Evaluates a task on a split, in the split's order.
#[derive(Clone)]
pub struct SplitEvaluator {
    /// The task.
    pub task: Arc<dyn Task>,
    /// The split.
    pub data: Arc<dyn Dataset>,
    /// Settings for preparing images and texts.
    pub inputs: Arc<InputSpec>,
    /// Settings of the loader, whose [`LoaderSpec::end_epoch`] must be 1.
    pub loader: LoaderSpec,
    /// Maximum number of batches; 0 means all.
    pub limit: u64,
}

impl SplitEvaluator {
    /// Returns the sums of all measures and the results of the items, or `None` if `stop` is set before the end. Calls `on_batch` with
    /// each batch.
    ///
    /// # Errors
    /// Returns the errors of [`Loader::new`] and [`evaluate_batches`].
    pub fn tally(
        &self,
        model: &Model,
        stop: &AtomicBool,
        on_batch: &mut dyn FnMut(&Batch),
    ) -> Result<Option<(Tally, Rows)>> {
        let (mut tally, mut rows) = (Tally::default(), Rows::new());
        let complete = self.each(model, stop, &mut |batch, outcome| {
            outcome.measures.iter().for_each(|measure| tally.add_measure(measure));
            self.task.record(&*self.data, batch, outcome, &mut rows)?;
            on_batch(batch);
            Ok(())
        })?;
        Ok(complete.then_some((tally, rows)))
    }

    /// Runs the task on every batch of the split and calls `on_outcome` with the batch and its outcome. Returns whether all batches were
    /// evaluated; it ends early if `stop` is set.
    ///
    /// # Errors
    /// Returns the errors of [`Loader::new`] and [`evaluate_batches`].
    pub fn each(
        &self,
        model: &Model,
        stop: &AtomicBool,
        on_outcome: &mut dyn FnMut(&Batch, &Outcome) -> Result<()>,
    ) -> Result<bool> {
        if self.data.is_empty() {
            return Ok(true);
        }
        let loader = Loader::new(
            Arc::clone(&self.task),
            Arc::clone(&self.data),
            Arc::clone(&self.inputs),
            self.loader,
            Position::default(),
        )?;
        let limit = if self.limit == 0 {
            usize::MAX
        } else {
            self.limit as usize
        };
        evaluate_batches(&*self.task, model, loader.take(limit), stop, on_outcome)
    }
}

impl Evaluator for SplitEvaluator {
    fn run(&self, model: &Model, stop: &AtomicBool) -> Result<Option<Report>> {
        let results = self.tally(model, stop, &mut |_| ())?;
        Ok(results.map(|(tally, rows)| self.task.report(Phase::Val, &tally, &rows)))
    }
}
