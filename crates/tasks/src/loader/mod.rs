//! The loader of all tasks: items in order, samples made by threads, batches delivered ahead of time.
//!
//! Every random decision is a function of seed, epoch and position ([`vlct_data::random`]), so the number of threads does not
//! matter and a run can be resumed at any batch.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use vlct_data::datasets::Dataset;
use vlct_data::loader::{Buffers, Job, Order, Pipeline, Position};
use vlct_data::random::{Purpose, stream};
use vlct_data::{DataError, Result};
use vlct_image::Transform;

use crate::batch::{Batch, Sample};
use crate::inputs::{InputSpec, Mode};
use crate::sample::{MAX_WARNINGS, Replacements, SampleCx, SampleError, Source};
use crate::task::Task;

/// How batches are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoaderSpec {
    /// Seed of the run. Together with epoch and position it decides everything random.
    pub seed: u64,
    /// What the batches are made for.
    pub mode: Mode,
    /// Samples per batch; the last batch of an epoch may be smaller.
    pub batch_size: usize,
    /// Threads that make samples (at least one).
    pub threads: usize,
    /// Batches in the making or waiting (at least one).
    pub prefetch: usize,
    /// First epoch that is not delivered; `None`: the loader never ends.
    pub end_epoch: Option<u64>,
}

/// Delivers [`Batch`]es in order, the same for any number of threads.
///
/// An error takes the place of its batch.
pub struct Loader {
    pipeline: Pipeline<Samples>,
}

impl Loader {
    /// Starts the threads. The first batch delivered is that at `start`; a position beyond the last batch of an epoch is the
    /// beginning of the next.
    ///
    /// # Errors
    /// Returns [`DataError::Invalid`] for an empty dataset or a value out of range.
    pub fn new(
        task: Arc<dyn Task>,
        data: Arc<dyn Dataset>,
        inputs: Arc<InputSpec>,
        spec: LoaderSpec,
        start: Position,
    ) -> Result<Self> {
        let transform = Transform::new(inputs.transform(spec.mode), inputs.image_size)?;
        let values = spec.batch_size.checked_mul(transform.values());
        if spec.batch_size == 0 || values.is_none_or(|values| values > isize::MAX as usize / 4) {
            return Err(DataError::Invalid(format!(
                "batch size {} is out of range",
                spec.batch_size
            )));
        }
        if inputs.max_text_len < 2 {
            return Err(DataError::Invalid(
                "max_text_len must be at least 2, for [CLS] and [SEP]".into(),
            ));
        }
        let job = Samples {
            task,
            source: Source {
                data,
                inputs,
                transform,
                // What one batch gives back: at most an image and a false image for each sample.
                buffers: Arc::new(Buffers::new(spec.batch_size.saturating_mul(2))),
                seed: spec.seed,
                mode: spec.mode,
            },
            batch_size: spec.batch_size,
        };
        Ok(Self {
            pipeline: Pipeline::new(job, start, spec.end_epoch, spec.threads, spec.prefetch)?,
        })
    }

    /// Batches per epoch.
    pub fn epoch_len(&self) -> u64 {
        self.pipeline.job().epoch_len()
    }

    /// Time that the caller spent waiting for batches, since the beginning.
    pub fn wait_time(&self) -> Duration {
        self.pipeline.wait_time()
    }
}

impl Iterator for Loader {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        self.pipeline.next()
    }
}

/// Makes the samples of a task.
struct Samples {
    task: Arc<dyn Task>,
    source: Source,
    batch_size: usize,
}

/// What the samples of a batch have in common.
struct Plan {
    at: Position,
    order: Order,
    /// Positions in the epoch.
    places: Range<usize>,
}

impl Job for Samples {
    type Plan = Plan;
    type Sample = (Sample, Replacements);
    type Batch = Batch;

    fn epoch_len(&self) -> u64 {
        self.source.data.len().div_ceil(self.batch_size) as u64
    }

    fn plan(&self, at: Position) -> (usize, Plan) {
        let len = self.source.data.len();
        let first = at.batch as usize * self.batch_size;
        let places = first..first.saturating_add(self.batch_size).min(len);
        let order = match self.source.mode {
            Mode::Train => self.source.data.order(self.source.seed, at.epoch),
            Mode::Evaluate => Order::sequential(len),
        };
        (places.len(), Plan { at, order, places })
    }

    fn sample(&self, plan: &Plan, number: usize) -> Result<(Sample, Replacements)> {
        let place = plan.places.start + number;
        let missing = || DataError::Invalid(format!("there is no sample {place} in an epoch"));
        let wanted = plan.order.at(place).ok_or_else(missing)?;
        let mut replacement = stream(self.source.seed, Purpose::Replacement, plan.at.epoch, place as u64);
        let mut replacements = Replacements::default();
        let mut item = wanted;
        loop {
            let example = self.source.data.example(item).map_err(SampleError::Unreadable);
            let sample = example.and_then(|example| {
                self.task.sample(&mut SampleCx {
                    source: &self.source,
                    at: plan.at,
                    place,
                    number,
                    count: plan.places.len(),
                    item,
                    example: &example,
                    replacements: &mut replacements,
                })
            });
            match sample {
                Ok(sample) => return Ok((sample, replacements)),
                Err(SampleError::Unreadable(error)) => replacements.note(error, self.source.mode)?,
                Err(SampleError::Fatal(error)) => return Err(error),
            }
            item = replacement.random_range(self.source.data.peers(wanted));
        }
    }

    fn collate(&self, plan: &Plan, samples: Vec<(Sample, Replacements)>) -> Result<Batch> {
        let (samples, replaced): (Vec<Sample>, Vec<Replacements>) = samples.into_iter().unzip();
        let mut batch = Batch::collate(plan.at, samples);
        batch.dropout = (self.source.mode == Mode::Train).then_some([
            self.source.seed,
            Purpose::Dropout as u64,
            plan.at.epoch,
            plan.at.batch,
        ]);
        for replacements in replaced {
            batch.replaced += replacements.count as u64;
            batch.warnings.extend(replacements.warnings);
        }
        batch.warnings.truncate(MAX_WARNINGS);
        Ok(batch)
    }
}

#[cfg(test)]
mod tests;
