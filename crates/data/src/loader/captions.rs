//! Batches of picture and caption for pre-training and for image-text matching.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use rand::seq::SliceRandom;

use super::buffers::Buffers;
use super::pipeline::{Job, Pipeline, Position};
use super::{Order, images};
use crate::datasets::{Dataset, Location, TableDataset};
use crate::random::{Purpose, stream};
use crate::text::{self, MaskingConfig, Tokenizer};
use crate::{DataError, Result};
use vlct_image::{Transform, TransformKind};

/// Unreadable pictures in a row after which replacing them is given up: the data, not a picture, are broken.
const MAX_REPLACEMENTS: usize = 100;
/// Messages kept per batch about replaced samples.
const MAX_WARNINGS: usize = 4;

/// What a [`Loader`] makes of a dataset.
#[derive(Clone, Debug)]
pub struct LoaderConfig {
    /// Seed of the run. Together with epoch and position it decides everything random.
    pub seed: u64,
    /// Samples per batch; the last batch of an epoch may be smaller.
    pub batch_size: usize,
    /// Side of the pictures in pixels.
    pub image_size: usize,
    /// How pictures are cropped and augmented.
    pub transform: TransformKind,
    /// Longest token sequence, `[CLS]` and `[SEP]` included.
    pub max_text_len: usize,
    /// Mask whole words rather than single tokens.
    pub whole_word_masking: bool,
    /// Fraction of tokens to predict.
    pub mlm_prob: f64,
    /// Whether batches are for image-text matching: half of the samples are shown the picture of another one.
    pub draw_false_image: bool,
    /// Training: shuffled, and unreadable pictures are replaced. Otherwise in sequence, and an unreadable picture is an error.
    pub training: bool,
    /// Threads that make samples (at least one).
    pub threads: usize,
    /// Batches in the making or waiting (at least one).
    pub prefetch: usize,
    /// First epoch that is not delivered; none: the loader never ends.
    pub end_epoch: Option<u64>,
}

/// Which item a sample is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleId {
    /// Number of the item in the dataset; [`TableDataset::text`] gives its text.
    pub index: usize,
    /// Dataset, file, row and caption.
    pub location: Location,
}

/// One batch of n samples. Token sequences have their own lengths: nothing is padded.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Epoch, from 0.
    pub epoch: u64,
    /// Number of the batch in its epoch, from 0.
    pub index: u64,
    /// The samples.
    pub samples: Vec<SampleId>,
    /// Pictures of the samples, each `[3, size, size]`, normalised. Each in memory of its own, so that the threads that make
    /// them need not copy them.
    pub images: Vec<Vec<f32>>,
    /// Whether image-text matching shows the sample its own picture. `floor(n / 2)` are true, in random order; all of
    /// them if no false pictures are drawn.
    pub matched: Vec<bool>,
    /// The pictures shown instead, one for each sample that is not matched, in the order of the samples; see
    /// [`Self::false_position`].
    pub false_images: Vec<Vec<f32>>,
    /// Where the pictures in `false_images` come from.
    pub false_samples: Vec<SampleId>,
    /// Token ids of the captions, from `[CLS]` to `[SEP]`.
    pub text_ids: Vec<Vec<u32>>,
    /// The same with masked tokens.
    pub mlm_ids: Vec<Vec<u32>>,
    /// The original id at each position that is to be predicted.
    pub mlm_labels: Vec<Vec<Option<u32>>>,
    /// How many pictures could not be read and were replaced.
    pub replaced: usize,
    /// Why, for the first few.
    pub warnings: Vec<String>,
}

impl Batch {
    /// Number of samples.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Whether there is no sample. Never so for a batch of a [`Loader`].
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// Number of the sample's picture in `false_images`; none if the sample is matched.
    pub fn false_position(&self, sample: usize) -> Option<usize> {
        match self.matched.get(sample) {
            Some(false) => Some(self.matched[..sample].iter().filter(|m| !**m).count()),
            _ => None,
        }
    }

    /// Where to start a loader that goes on after this batch.
    pub fn next_position(&self) -> Position {
        Position {
            epoch: self.epoch,
            batch: self.index + 1,
        }
    }
}

/// Delivers [`Batch`]es in order, the same for any number of threads. See [`LoaderConfig`].
///
/// An error takes the place of its batch.
pub struct Loader {
    pipeline: Pipeline<Captions>,
}

impl Loader {
    /// Starts the threads. The first batch delivered is that at `start`; a position beyond the last batch of an
    /// epoch is the beginning of the next.
    ///
    /// # Errors
    /// [`DataError::Invalid`] for an empty dataset or a number out of range.
    pub fn new(
        dataset: Arc<TableDataset>,
        tokenizer: Tokenizer,
        config: LoaderConfig,
        start: Position,
    ) -> Result<Self> {
        let transform = Transform::new(config.transform, config.image_size)?;
        let values = config.batch_size.checked_mul(transform.values());
        if config.batch_size == 0 || values.is_none_or(|values| values > isize::MAX as usize / 4) {
            return Err(DataError::Invalid(format!(
                "batch size {} is out of range",
                config.batch_size
            )));
        }
        if config.max_text_len < 2 {
            return Err(DataError::Invalid(
                "max_text_len must be at least 2, for [CLS] and [SEP]".into(),
            ));
        }
        if !(0.0..=1.0).contains(&config.mlm_prob) {
            return Err(DataError::Invalid(format!(
                "mlm_prob {} is not in 0..=1",
                config.mlm_prob
            )));
        }
        let (end, threads, prefetch) = (config.end_epoch, config.threads, config.prefetch);
        let job = Captions {
            masking: MaskingConfig {
                whole_word: config.whole_word_masking,
                probability: config.mlm_prob,
                max_text_len: config.max_text_len,
            },
            // What one batch gives back, true and false pictures.
            buffers: Buffers::new(config.batch_size.saturating_mul(2)),
            dataset,
            tokenizer,
            transform,
            config,
        };
        Ok(Self {
            pipeline: Pipeline::new(job, start, end, threads, prefetch)?,
        })
    }

    /// Batches per epoch.
    pub fn epoch_len(&self) -> u64 {
        self.pipeline.job().epoch_len()
    }

    /// Takes a batch that is no longer needed, to use its memory again: saves some time with large batches.
    pub fn recycle(&self, batch: Batch) {
        let buffers = &self.pipeline.job().buffers;
        batch
            .images
            .into_iter()
            .chain(batch.false_images)
            .for_each(|picture| buffers.give_back(picture));
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

/// Makes samples of a caption dataset.
struct Captions {
    dataset: Arc<TableDataset>,
    tokenizer: Tokenizer,
    transform: Transform,
    masking: MaskingConfig,
    config: LoaderConfig,
    buffers: Buffers,
}

/// What is decided for a batch as a whole.
struct Plan {
    position: Position,
    order: Order,
    /// Positions in the epoch.
    places: Range<usize>,
    matched: Vec<bool>,
}

/// A sample before it is put into a batch.
struct Sample {
    id: SampleId,
    image: Vec<f32>,
    false_image: Option<(SampleId, Vec<f32>)>,
    text_ids: Vec<u32>,
    mlm_ids: Vec<u32>,
    mlm_labels: Vec<Option<u32>>,
    replaced: usize,
    warnings: Vec<String>,
}

impl Captions {
    /// The picture of an item, transformed.
    fn picture(&self, index: usize, rng: &mut impl rand::Rng) -> Result<(SampleId, Vec<f32>)> {
        let location = self.dataset.locate(index)?;
        let mut image = self.buffers.take(self.transform.values());
        match images::load_into(&self.dataset, &location, &self.transform, rng, &mut image) {
            Ok(()) => Ok((SampleId { index, location }, image)),
            Err(error) => {
                self.buffers.give_back(image);
                Err(error)
            }
        }
    }
}

/// Counts replaced samples and keeps the first messages.
#[derive(Default)]
struct Replacements {
    count: usize,
    warnings: Vec<String>,
}

impl Replacements {
    /// Notes that a picture is replaced because of `error`; hands the error back if that is not to be done.
    fn note(&mut self, error: DataError, training: bool) -> Result<()> {
        if !training {
            return Err(error);
        }
        self.count += 1;
        if self.count > MAX_REPLACEMENTS {
            return Err(DataError::Invalid(format!(
                "{MAX_REPLACEMENTS} pictures in a row cannot be read; check the data set. The last one: {error}"
            )));
        }
        if self.warnings.len() < MAX_WARNINGS {
            self.warnings.push(format!("{error}; another sample takes its place"));
        }
        Ok(())
    }
}

impl Job for Captions {
    type Plan = Plan;
    type Sample = Sample;
    type Batch = Batch;

    fn epoch_len(&self) -> u64 {
        self.dataset.len().div_ceil(self.config.batch_size) as u64
    }

    fn plan(&self, position: Position) -> (usize, Plan) {
        let (seed, len) = (self.config.seed, self.dataset.len());
        let first = position.batch as usize * self.config.batch_size;
        let places = first..(first + self.config.batch_size).min(len);
        let order = if self.config.training {
            Order::shuffled(seed, position.epoch, len)
        } else {
            Order::sequential(len)
        };
        let count = places.len();
        let mut matched = vec![true; count];
        if self.config.draw_false_image {
            matched[count / 2..].fill(false);
            matched.shuffle(&mut stream(seed, Purpose::MatchLabels, position.epoch, position.batch));
        }
        let plan = Plan {
            position,
            order,
            places,
            matched,
        };
        (count, plan)
    }

    fn sample(&self, plan: &Plan, number: usize) -> Result<Sample> {
        let place = plan.places.start + number;
        let missing = || DataError::Invalid(format!("there is no sample {place} in an epoch"));
        let wanted = plan.order.at(place).ok_or_else(missing)?;
        let matched = *plan.matched.get(number).ok_or_else(missing)?;
        let random = |purpose| stream(self.config.seed, purpose, plan.position.epoch, place as u64);
        let mut replacements = Replacements::default();

        let mut index = wanted;
        let mut replacement = random(Purpose::Replacement);
        let (id, image) = loop {
            match self.picture(index, &mut random(Purpose::Augmentation)) {
                Ok(picture) => break picture,
                Err(error) => replacements.note(error, self.config.training)?,
            }
            index = replacement.random_range(self.dataset.peers(wanted));
        };

        let caption = self.dataset.text(id.index)?.unwrap_or_default();
        let text_ids = self.tokenizer.encode(&caption, self.config.max_text_len);
        let masked = text::mask_tokens(
            &self.tokenizer,
            &text_ids,
            &self.masking,
            &mut random(Purpose::TokenMask),
        );

        let mut false_image = None;
        if !matched {
            let mut rng = random(Purpose::FalseImage);
            while false_image.is_none() {
                let index = rng.random_range(self.dataset.peers(id.index));
                match self.picture(index, &mut rng) {
                    Ok(picture) => false_image = Some(picture),
                    Err(error) => replacements.note(error, self.config.training)?,
                }
            }
        }
        Ok(Sample {
            id,
            image,
            false_image,
            text_ids,
            mlm_ids: masked.ids,
            mlm_labels: masked.labels,
            replaced: replacements.count,
            warnings: replacements.warnings,
        })
    }

    fn collate(&self, plan: &Plan, samples: Vec<Sample>) -> Result<Batch> {
        let count = samples.len();
        let false_count = plan.matched.iter().filter(|m| !**m).count();
        let mut batch = Batch {
            epoch: plan.position.epoch,
            index: plan.position.batch,
            samples: Vec::with_capacity(count),
            images: Vec::with_capacity(count),
            matched: plan.matched.clone(),
            false_images: Vec::with_capacity(false_count),
            false_samples: Vec::with_capacity(false_count),
            text_ids: Vec::with_capacity(count),
            mlm_ids: Vec::with_capacity(count),
            mlm_labels: Vec::with_capacity(count),
            replaced: 0,
            warnings: Vec::new(),
        };
        for sample in samples {
            batch.samples.push(sample.id);
            batch.images.push(sample.image);
            if let Some((id, image)) = sample.false_image {
                batch.false_samples.push(id);
                batch.false_images.push(image);
            }
            batch.text_ids.push(sample.text_ids);
            batch.mlm_ids.push(sample.mlm_ids);
            batch.mlm_labels.push(sample.mlm_labels);
            batch.replaced += sample.replaced;
            batch.warnings.extend(sample.warnings);
        }
        batch.warnings.truncate(MAX_WARNINGS);
        Ok(batch)
    }
}
