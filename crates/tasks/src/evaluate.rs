//! Evaluation of a model on a split, for validation, test runs and the quickstart's results.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};
use vlct_data::datasets::Dataset;
use vlct_data::loader::{Position, Share};
use vlct_model::Model;
use vlct_tensor::collectives::Single;
use vlct_tensor::{Collectives, Tape};

use crate::batch::Batch;
use crate::error::Result;
use crate::gather;
use crate::inputs::InputSpec;
use crate::loader::{Loader, LoaderSpec};
use crate::metrics::{Phase, Report, Tally, Values, read_values};
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

/// The results of a batch.
#[derive(Serialize, Deserialize)]
struct BatchResults {
    /// Index of the batch in the split.
    batch: u64,
    values: Values,
    rows: Rows,
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
        self.tally_of_ranks(model, &Single, stop, on_batch)
    }

    /// Does what [`SplitEvaluator::tally`] does on all ranks together. Batch `k` is evaluated by rank `k mod ranks`, and all ranks get the
    /// same results: the bits that a single rank computes. `on_batch` sees only the batches of this rank. If `stop` is set for one rank, all
    /// get `None`, after the others have evaluated their batches.
    ///
    /// # Errors
    /// Returns the errors of [`SplitEvaluator::tally`], and those of [`Collectives::sum`].
    pub fn tally_of_ranks(
        &self,
        model: &Model,
        collectives: &dyn Collectives,
        stop: &AtomicBool,
        on_batch: &mut dyn FnMut(&Batch),
    ) -> Result<Option<(Tally, Rows)>> {
        let mut own = Vec::new();
        let share = Share::of_rank(collectives.rank(), collectives.ranks());
        let complete = self.each_of(share, model, stop, &mut |batch, outcome| {
            let mut rows = Rows::new();
            self.task.record(&*self.data, batch, outcome, &mut rows)?;
            own.push(BatchResults {
                batch: batch.position.batch,
                values: read_values(&outcome.measures),
                rows,
            });
            on_batch(batch);
            Ok(())
        })?;
        let ranks = gather::all(collectives, (complete, own))?;
        if ranks.iter().any(|(complete, _)| !complete) {
            return Ok(None);
        }
        let mut batches: Vec<BatchResults> = ranks.into_iter().flat_map(|(_, batches)| batches).collect();
        // The order of a single rank: it determines the bits of the sums, and which result of an item that occurs twice counts.
        batches.sort_by_key(|results| results.batch);
        let (mut tally, mut rows) = (Tally::default(), Rows::new());
        for results in batches {
            tally.add_values(&results.values);
            rows.extend(results.rows);
        }
        Ok(Some((tally, rows)))
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
        self.each_of(self.loader.share, model, stop, on_outcome)
    }

    fn each_of(
        &self,
        share: Share,
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
            LoaderSpec {
                batches: match self.limit {
                    0 => self.loader.batches,
                    limit => Some(self.loader.batches.unwrap_or(limit).min(limit)),
                },
                share,
                ..self.loader
            },
            Position::default(),
        )?;
        evaluate_batches(&*self.task, model, loader, stop, on_outcome)
    }
}

impl Evaluator for SplitEvaluator {
    fn run(&self, model: &Model, stop: &AtomicBool) -> Result<Option<Report>> {
        let results = self.tally(model, stop, &mut |_| ())?;
        Ok(results.map(|(tally, rows)| self.task.report(Phase::Val, &tally, &rows)))
    }
}
