//! The trait [`Task`] and the result of its forward pass.

use crate::batch::{Batch, Sample};
use crate::metrics::{Measure, Phase, Report, Tally};
use crate::rows::Rows;
use crate::sample::{SampleContext, SampleError};
use vlct_data::datasets::{Contents, Dataset};
use vlct_model::{BatchStatistics, Model};
use vlct_tensor::{Tape, Tensor, Var};

/// A task. It is immutable and holds no weights; the threads of the loader share it.
pub trait Task: Send + Sync {
    /// Returns the kind of rows that the task's datasets hold.
    fn contents(&self) -> Contents;

    /// Makes the sample of one item. Runs on the loader's threads.
    ///
    /// # Errors
    /// Returns [`SampleError::Unreadable`] if the item's own image cannot be read, and [`SampleError::Fatal`] for any other
    /// error.
    fn sample(&self, cx: &mut SampleContext<'_>) -> Result<Sample, SampleError>;

    /// Changes a whole micro-batch of training: mixes its images. Runs on the loader's threads. `seed` is the seed of the run.
    fn finish_batch(&self, _seed: u64, _batch: &mut Batch) {}

    /// Runs the model on a batch. The values of losses and measures stay on the device.
    fn forward(&self, model: &Model, tape: &Tape, batch: &Batch) -> Outcome;

    /// Adds the results of the items of a batch to `rows`, for metrics and files that need more than sums. Only evaluation calls this
    /// method.
    ///
    /// # Errors
    /// Returns an error that names file and row if an item of `data` is damaged.
    fn record(
        &self,
        _data: &dyn Dataset,
        _batch: &Batch,
        _outcome: &Outcome,
        _rows: &mut Rows,
    ) -> vlct_data::Result<()> {
        Ok(())
    }

    /// Returns the metrics of an epoch or a split, whose measures `tally` has summed. `rows` has the results of single items, none in
    /// training.
    fn report(&self, phase: Phase, tally: &Tally, rows: &Rows) -> Report;
}

/// Result of [`Task::forward`].
#[derive(Default)]
pub struct Outcome {
    /// The total loss, a scalar; `None` if the batch has no targets.
    pub loss: Option<Var>,
    /// The measures, in the order in which they are logged.
    pub measures: Vec<Measure>,
    /// Logits of the samples `[samples, classes]`, if the task computes them.
    pub logits: Option<Var>,
    /// Statistics of the batch that are added to the running statistics of the model after the update; linear probing has them.
    pub statistics: Option<BatchStatistics>,
}

impl Outcome {
    /// Returns the total loss, a scalar.
    ///
    /// # Panics
    /// Panics if the batch has no targets.
    pub fn total(&self) -> &Var {
        self.loss.as_ref().unwrap_or_else(|| panic!("the batch has no targets"))
    }

    /// Adds the measure of a loss, with this weight and count 1, and returns the outcome.
    pub fn with_loss(mut self, key: &'static str, loss: &Var, weight: f32) -> Self {
        self.measures.push(Measure {
            key,
            sum: loss.tensor().clone(),
            scale: weight,
            count: 1,
        });
        self
    }

    /// Adds a measure that is a sum over `count` predictions and returns the outcome.
    pub fn with_sum(mut self, key: &'static str, sum: Tensor, count: usize) -> Self {
        self.measures.push(Measure {
            key,
            sum,
            scale: 1.0,
            count: count as u64,
        });
        self
    }
}
