//! The interface between a task and everything that is common to all tasks.

use crate::batch::{Batch, Sample};
use crate::metrics::{Measure, Phase, Report, Tally};
use crate::sample::{SampleCx, SampleError};
use vlct_data::datasets::Contents;
use vlct_model::Vlc;
use vlct_tensor::{Tape, Tensor, Var};

/// A task: immutable, without weights, shared with the threads of its loader.
pub trait Task: Send + Sync {
    /// What the rows of its datasets hold.
    fn contents(&self) -> Contents;

    /// One item as the task reads it. Called on loader threads.
    ///
    /// # Errors
    /// Returns [`SampleError::Unreadable`] if the sample's own image cannot be read, [`SampleError::Fatal`] for any other
    /// error.
    fn sample(&self, cx: &mut SampleCx<'_>) -> Result<Sample, SampleError>;

    /// Runs the model on a batch. Losses and counts stay on the device.
    fn forward(&self, model: &Vlc, tape: &Tape, batch: &Batch) -> Outcome;

    /// Names and values of what was measured over an epoch or a split.
    fn report(&self, phase: Phase, tally: &Tally) -> Report;
}

/// Result of [`Task::forward`].
#[derive(Default)]
pub struct Outcome {
    /// The scalar to minimise; `None` where the batch has no targets.
    pub loss: Option<Var>,
    /// Losses and counts, in the order in which they are logged.
    pub measures: Vec<Measure>,
    /// The prediction for each sample, if the task makes one: `[samples, classes]`.
    pub logits: Option<Var>,
}

impl Outcome {
    /// The scalar to minimise.
    ///
    /// # Panics
    /// If the batch has no targets.
    pub fn total(&self) -> &Var {
        self.loss.as_ref().unwrap_or_else(|| panic!("a batch with targets"))
    }

    /// Adds a loss, which counts once per batch, and returns the outcome.
    pub fn with_loss(mut self, key: &'static str, loss: &Var, weight: f32) -> Self {
        self.measures.push(Measure {
            key,
            sum: loss.tensor().clone(),
            scale: weight,
            count: 1,
        });
        self
    }

    /// Adds a sum over `count` decisions and returns the outcome.
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
