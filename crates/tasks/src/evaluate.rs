//! Evaluation: passes over a split. Validation, test and the quickstart's results are made here.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vlct_data::datasets::Dataset;
use vlct_data::loader::Position;
use vlct_model::Vlc;
use vlct_tensor::Tape;

use crate::batch::Batch;
use crate::error::Result;
use crate::inputs::InputSpec;
use crate::loader::{Loader, LoaderSpec};
use crate::metrics::{Phase, Report, Tally};
use crate::task::{Outcome, Task};

/// Runs the task on every batch; `each` sees the batch and its outcome. Returns whether the pass was completed: it ends early
/// when `stop` is set.
///
/// # Errors
/// Returns an error that names file and row if an image cannot be read.
pub fn pass(
    task: &dyn Task,
    model: &Vlc,
    mut batches: impl Iterator<Item = vlct_data::Result<Batch>>,
    stop: &AtomicBool,
    each: &mut dyn FnMut(&Batch, &Outcome),
) -> Result<bool> {
    while !stop.load(Ordering::Relaxed) {
        let Some(batch) = batches.next() else { return Ok(true) };
        let batch = batch?;
        let outcome = task.forward(model, &Tape::inference(model.compute()), &batch);
        each(&batch, &outcome);
    }
    Ok(false)
}

/// Something that a model is measured by.
pub trait Evaluator {
    /// Measures the model; `None` if told to stop on the way.
    ///
    /// # Errors
    /// Returns an error that names file and row if an item cannot be read.
    fn run(&self, model: &Vlc, stop: &AtomicBool) -> Result<Option<Report>>;
}

/// One pass of a task over a split, in order.
#[derive(Clone)]
pub struct SplitPass {
    /// The task.
    pub task: Arc<dyn Task>,
    /// The split.
    pub data: Arc<dyn Dataset>,
    /// How images and texts are read.
    pub inputs: Arc<InputSpec>,
    /// How batches are made; [`LoaderSpec::end_epoch`] is 1.
    pub loader: LoaderSpec,
    /// Number of batches; 0: all.
    pub limit: u64,
}

impl SplitPass {
    /// The sums of all measures; `watch` sees each batch. `None` if told to stop on the way.
    ///
    /// # Errors
    /// As [`pass`].
    pub fn tally(&self, model: &Vlc, stop: &AtomicBool, watch: &mut dyn FnMut(&Batch)) -> Result<Option<Tally>> {
        let mut tally = Tally::default();
        if self.data.is_empty() {
            return Ok(Some(tally));
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
        let complete = pass(&*self.task, model, loader.take(limit), stop, &mut |batch, outcome| {
            outcome.measures.iter().for_each(|measure| tally.measure(measure));
            watch(batch);
        })?;
        Ok(complete.then_some(tally))
    }
}

impl Evaluator for SplitPass {
    fn run(&self, model: &Vlc, stop: &AtomicBool) -> Result<Option<Report>> {
        let tally = self.tally(model, stop, &mut |_| ())?;
        Ok(tally.map(|tally| self.task.report(Phase::Val, &tally)))
    }
}
