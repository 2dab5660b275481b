//! The loader of all tasks: items in order, samples made by threads, batches delivered ahead of time.
//!
//! Every random decision is a function of seed, epoch and position ([`vlct_data::random`]), so the number of threads does not
//! matter and a run can be resumed at any batch.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use rand::{Rng, RngExt};
use rand_chacha::ChaCha8Rng;
use vlct_data::datasets::{Answer, Dataset, Example};
use vlct_data::loader::{Buffers, Job, Order, Pipeline, Pixels, Position};
use vlct_data::random::{Purpose, stream};
use vlct_data::text::Tokenizer;
use vlct_data::{DataError, Result};
use vlct_image::Transform;

use crate::batch::{Batch, Sample};
use crate::spec::InputSpec;
use crate::task::{Mode, SampleError, Task};

/// Unreadable images in a row after which replacing them is given up: the data, not an image, are broken.
const MAX_REPLACEMENTS: usize = 100;
/// Messages kept per batch about replaced images.
const MAX_WARNINGS: usize = 4;
/// Set in the seed of patch masks in evaluation, so that it does not hide the patches that training hides.
const EVALUATION: u64 = 1 << 63;

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
            data,
            inputs,
            transform,
            spec,
            // What one batch gives back: at most an image and a false image for each sample.
            buffers: Arc::new(Buffers::new(spec.batch_size.saturating_mul(2))),
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
    data: Arc<dyn Dataset>,
    inputs: Arc<InputSpec>,
    transform: Transform,
    spec: LoaderSpec,
    buffers: Arc<Buffers>,
}

/// What the samples of a batch have in common.
struct Plan {
    at: Position,
    order: Order,
    /// Positions in the epoch.
    places: Range<usize>,
}

/// Counts replaced images and keeps the first messages.
#[derive(Default)]
struct Replacements {
    count: usize,
    warnings: Vec<String>,
}

impl Replacements {
    /// Notes that an image is replaced because of `error`; returns the error where images are not to be replaced.
    fn note(&mut self, error: DataError, mode: Mode) -> Result<()> {
        if mode != Mode::Train {
            return Err(error);
        }
        self.count += 1;
        if self.count > MAX_REPLACEMENTS {
            return Err(DataError::Invalid(format!(
                "{MAX_REPLACEMENTS} images in a row cannot be read; check the dataset. The last one: {error}"
            )));
        }
        if self.warnings.len() < MAX_WARNINGS {
            self.warnings.push(format!("{error}; another sample takes its place"));
        }
        Ok(())
    }
}

/// What [`Task::sample`] reads: one item, and the only source of its images, tokens and randomness.
pub struct SampleCx<'a> {
    job: &'a Samples,
    plan: &'a Plan,
    number: usize,
    item: usize,
    example: &'a Example<'a>,
    replacements: &'a mut Replacements,
}

impl SampleCx<'_> {
    /// The item.
    pub fn item(&self) -> usize {
        self.item
    }

    /// Position of the sample in its micro-batch.
    pub fn number(&self) -> usize {
        self.number
    }

    /// Number of samples in the micro-batch.
    pub fn count(&self) -> usize {
        self.plan.places.len()
    }

    /// The tokeniser.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.job.inputs.tokenizer
    }

    /// What is to be predicted.
    pub fn answer(&self) -> &Answer {
        &self.example.answer
    }

    /// The generator of one decision about this sample.
    pub fn rng(&self, purpose: Purpose) -> ChaCha8Rng {
        let evaluation = self.job.spec.mode == Mode::Evaluate;
        let seed = match purpose {
            Purpose::PatchMaskMlm | Purpose::PatchMaskItm if evaluation => self.job.spec.seed ^ EVALUATION,
            _ => self.job.spec.seed,
        };
        let place = self.plan.places.start + self.number;
        stream(seed, purpose, self.plan.at.epoch, place as u64)
    }

    /// The generator of one decision about the whole micro-batch: the same for each of its samples.
    pub fn batch_rng(&self, purpose: Purpose) -> ChaCha8Rng {
        stream(self.job.spec.seed, purpose, self.plan.at.epoch, self.plan.at.batch)
    }

    /// Image `which` of the item, decoded and transformed.
    ///
    /// # Errors
    /// Returns [`SampleError::Unreadable`] if it cannot be decoded.
    pub fn image(&self, which: usize, rng: &mut impl Rng) -> Result<Pixels, SampleError> {
        self.job
            .image(self.item, self.example, which, rng)
            .map_err(SampleError::Unreadable)
    }

    /// Token ids of the item's text.
    pub fn tokens(&self) -> Vec<u32> {
        self.job.tokens(self.example.text.as_deref())
    }

    /// The image of a random item of the same dataset, which may be the item itself. In training, an unreadable image is
    /// replaced by the next one drawn.
    ///
    /// # Errors
    /// Returns [`SampleError::Fatal`] if too many images in a row cannot be read; in evaluation if one cannot.
    pub fn peer_image(&mut self, rng: &mut impl Rng) -> Result<Pixels, SampleError> {
        let job = self.job;
        loop {
            let peer = rng.random_range(job.data.peers(self.item));
            let image = job
                .data
                .example(peer)
                .and_then(|example| job.image(peer, &example, 0, rng));
            match image {
                Ok(image) => return Ok(image),
                Err(error) => self.replacements.note(error, job.spec.mode)?,
            }
        }
    }

    /// Token ids of the text of a random item of the same dataset, which may be the item itself.
    ///
    /// # Errors
    /// Returns [`SampleError::Fatal`] if the text is damaged.
    pub fn peer_tokens(&self, rng: &mut impl Rng) -> Result<Vec<u32>, SampleError> {
        let peer = rng.random_range(self.job.data.peers(self.item));
        Ok(self.job.tokens(self.job.data.text(peer)?.as_deref()))
    }
}

impl Samples {
    fn image(&self, item: usize, example: &Example, which: usize, rng: &mut impl Rng) -> Result<Pixels> {
        let Some(bytes) = example.images.get(which).and_then(Option::as_deref) else {
            return Err(self.data.error(item, "has no image"));
        };
        let mut pixels = self.buffers.take(self.transform.values());
        match self.transform.load_into(bytes, rng, &mut pixels) {
            Ok(_) => Ok(pixels),
            Err(error) => Err(self.data.error(item, &error.to_string())),
        }
    }

    fn tokens(&self, text: Option<&str>) -> Vec<u32> {
        let text = text.unwrap_or_default();
        self.inputs.tokenizer.encode(text, self.inputs.max_text_len)
    }
}

impl Job for Samples {
    type Plan = Plan;
    type Sample = (Sample, Replacements);
    type Batch = Batch;

    fn epoch_len(&self) -> u64 {
        self.data.len().div_ceil(self.spec.batch_size) as u64
    }

    fn plan(&self, at: Position) -> (usize, Plan) {
        let len = self.data.len();
        let first = at.batch as usize * self.spec.batch_size;
        let places = first..first.saturating_add(self.spec.batch_size).min(len);
        let order = match self.spec.mode {
            Mode::Train => self.data.order(self.spec.seed, at.epoch),
            Mode::Evaluate => Order::sequential(len),
        };
        (places.len(), Plan { at, order, places })
    }

    fn sample(&self, plan: &Plan, number: usize) -> Result<(Sample, Replacements)> {
        let place = plan.places.start + number;
        let missing = || DataError::Invalid(format!("there is no sample {place} in an epoch"));
        let wanted = plan.order.at(place).ok_or_else(missing)?;
        let mut replacement = stream(self.spec.seed, Purpose::Replacement, plan.at.epoch, place as u64);
        let mut replacements = Replacements::default();
        let mut item = wanted;
        loop {
            let sample = self
                .data
                .example(item)
                .map_err(SampleError::Unreadable)
                .and_then(|example| {
                    self.task.sample(&mut SampleCx {
                        job: self,
                        plan,
                        number,
                        item,
                        example: &example,
                        replacements: &mut replacements,
                    })
                });
            match sample {
                Ok(sample) => return Ok((sample, replacements)),
                Err(SampleError::Unreadable(error)) => replacements.note(error, self.spec.mode)?,
                Err(SampleError::Fatal(error)) => return Err(error),
            }
            item = replacement.random_range(self.data.peers(wanted));
        }
    }

    fn collate(&self, plan: &Plan, samples: Vec<(Sample, Replacements)>) -> Result<Batch> {
        let (samples, replaced): (Vec<Sample>, Vec<Replacements>) = samples.into_iter().unzip();
        let mut batch = Batch::collate(plan.at, samples);
        batch.dropout = (self.spec.mode == Mode::Train).then_some([
            self.spec.seed,
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
