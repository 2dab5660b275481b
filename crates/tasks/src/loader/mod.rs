//! The loader of all tasks: threads make samples and batches ahead of time, in a fixed order.
//!
//! Every random decision is a function of seed, epoch and position ([`vlct_data::random`]), so the number of threads does not
//! change the batches, and a run can be resumed at any batch.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use vlct_data::datasets::Dataset;
use vlct_data::loader::{Buffers, Job, Order, Pipeline, Position, Share};
use vlct_data::random::{Purpose, stream};
use vlct_data::{DataError, Result};
use vlct_image::Transform;
use vlct_model::PatchMask;

use crate::batch::{Batch, Sample, planes};
use crate::inputs::{InputSpec, MaxPatches, Mode};
use crate::sample::{Replacements, SampleContext, SampleError, Source};
use crate::task::Task;

/// Settings of a [`Loader`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoaderSpec {
    /// Seed of the run. Seed, epoch and position determine all random decisions.
    pub seed: u64,
    /// Training or evaluation.
    pub mode: Mode,
    /// Samples per [`Batch`]; the last batch of an epoch may be smaller.
    pub batch_size: usize,
    /// Whether samples whose images cannot be read are replaced by others. Otherwise they are errors.
    pub replaces_unreadable: bool,
    /// Number of batches per epoch, if later ones are left out.
    pub batches: Option<u64>,
    /// Number of threads that make samples, at least 1.
    pub threads: usize,
    /// Maximum number of batches that are in preparation or ready, at least 1.
    pub prefetch: usize,
    /// The first epoch of which the loader returns no batch; with `None` the loader never ends.
    pub end_epoch: Option<u64>,
    /// The batches that the loader returns; those of other ranks are not made.
    pub share: Share,
}

/// An iterator over [`Batch`]es, whose order and content do not depend on the number of threads.
///
/// With a [`Share`] of the batches, it returns those that a loader of all batches returns at the same positions.
///
/// If a batch cannot be made, the iterator returns the error instead of the batch and continues with the next batch.
pub struct Loader {
    pipeline: Pipeline<BatchJob>,
}

impl Loader {
    /// Starts the threads. The first batch is the one at `start`; a position beyond the last batch of an epoch means the
    /// beginning of the next epoch.
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
        let transform = Transform::with_format(inputs.transform(spec.mode), &inputs.format)?;
        let values = spec.batch_size.checked_mul(transform.max_values());
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
        let job = BatchJob {
            task,
            source: Source {
                data,
                inputs,
                transform,
                // A dropped batch returns at most two buffers per sample: those of the sample's image and of a false image.
                buffers: Arc::new(Buffers::new(spec.batch_size.saturating_mul(2))),
                seed: spec.seed,
                mode: spec.mode,
                replaces_unreadable: spec.replaces_unreadable,
            },
            batch_size: spec.batch_size,
            batches: spec.batches.unwrap_or(u64::MAX),
        };
        Ok(Self {
            pipeline: Pipeline::new(job, start, spec.end_epoch, spec.share, spec.threads, spec.prefetch)?,
        })
    }

    /// Returns the number of batches per epoch.
    pub fn epoch_len(&self) -> u64 {
        self.pipeline.job().epoch_len()
    }

    /// Returns the total time that the caller has waited for batches.
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

/// The work of the loader threads: making and collating samples.
struct BatchJob {
    task: Arc<dyn Task>,
    source: Source,
    batch_size: usize,
    /// Largest number of batches per epoch.
    batches: u64,
}

/// The values that all samples of a batch share.
struct Plan {
    position: Position,
    order: Order,
    /// Indices of the samples in the epoch.
    indices: Range<usize>,
}

impl BatchJob {
    /// Hides random patches of the images that have more than the encoder sees. Sequences that hide patches for another reason stay as
    /// they are.
    fn limit_patches(&self, epoch: u64, index_in_epoch: usize, sample: &mut Sample) {
        let Some(MaxPatches { count, patch_size }) = self.source.inputs.max_patches else {
            return;
        };
        let mut rng = stream(self.source.seed, Purpose::PatchLimit, epoch, index_in_epoch as u64);
        for sequence in sample.sequences.iter_mut().filter(|sequence| sequence.mask.is_none()) {
            let Some(image) = sequence.image else { continue };
            let [rows, columns] = planes(&sample.images[image as usize]).grid(patch_size);
            if rows * columns > count {
                let noise: Vec<f32> = (0..rows * columns).map(|_| rng.random()).collect();
                sequence.mask = Some(PatchMask::lowest(&noise, count));
            }
        }
    }
}

impl Job for BatchJob {
    type Plan = Plan;
    type Sample = (Sample, Replacements);
    type Batch = Batch;

    fn epoch_len(&self) -> u64 {
        (self.source.data.len().div_ceil(self.batch_size) as u64).min(self.batches)
    }

    fn plan(&self, position: Position) -> (usize, Plan) {
        let len = self.source.data.len();
        let first = position.batch as usize * self.batch_size;
        let indices = first..first.saturating_add(self.batch_size).min(len);
        let order = match self.source.mode {
            Mode::Train => self.source.data.order(self.source.seed, position.epoch),
            Mode::Evaluate => Order::sequential(len),
        };
        (
            indices.len(),
            Plan {
                position,
                order,
                indices,
            },
        )
    }

    fn sample(&self, plan: &Plan, index: usize) -> Result<(Sample, Replacements)> {
        let index_in_epoch = plan.indices.start + index;
        let missing = || DataError::Invalid(format!("an epoch has no sample {index_in_epoch}"));
        let first_item = plan.order.at(index_in_epoch).ok_or_else(missing)?;
        let mut rng = stream(
            self.source.seed,
            Purpose::Replacement,
            plan.position.epoch,
            index_in_epoch as u64,
        );
        let mut replacements = Replacements::default();
        let mut item = first_item;
        loop {
            let example = self.source.data.example(item).map_err(SampleError::Unreadable);
            let sample = example.and_then(|example| {
                self.task.sample(&mut SampleContext {
                    source: &self.source,
                    position: plan.position,
                    index_in_epoch,
                    index,
                    batch_len: plan.indices.len(),
                    item,
                    example: &example,
                    replacements: &mut replacements,
                })
            });
            match sample {
                Ok(mut sample) => {
                    self.limit_patches(plan.position.epoch, index_in_epoch, &mut sample);
                    return Ok((sample, replacements));
                }
                Err(SampleError::Unreadable(error)) => {
                    replacements.record(item, error, self.source.replaces_unreadable)?;
                }
                Err(SampleError::Fatal(error)) => return Err(error),
            }
            item = rng.random_range(self.source.data.peers(first_item));
        }
    }

    fn collate(&self, plan: &Plan, samples: Vec<(Sample, Replacements)>) -> Result<Batch> {
        let (samples, replaced): (Vec<Sample>, Vec<Replacements>) = samples.into_iter().unzip();
        let mut batch = Batch::collate(plan.position, samples);
        batch.dropout = (self.source.mode == Mode::Train).then_some([
            self.source.seed,
            Purpose::Dropout as u64,
            plan.position.epoch,
            plan.position.batch,
        ]);
        batch.unreadable = replaced.into_iter().flat_map(|replaced| replaced.unreadable).collect();
        if self.source.mode == Mode::Train {
            self.task.finish_batch(self.source.seed, &mut batch);
        }
        Ok(batch)
    }
}

#[cfg(test)]
mod tests;
