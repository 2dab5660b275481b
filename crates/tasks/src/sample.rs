//! The inputs of [`Task::sample`](crate::Task::sample): one item, its images and tokens, and the sample's random generators.

use std::sync::Arc;

use rand::{Rng, RngExt};
use rand_chacha::ChaCha8Rng;
use vlct_data::datasets::{Answer, Dataset, Example};
use vlct_data::loader::{Buffers, Pixels, Position};
use vlct_data::random::{Purpose, stream};
use vlct_data::{DataError, Result};
use vlct_image::Transform;
use vlct_text::Tokenizer;

use crate::inputs::{InputSpec, Mode};

/// Maximum number of replacements for one sample. If more consecutive images are unreadable, the dataset is damaged.
const MAX_REPLACEMENTS: usize = 100;
/// The bit of the seed that is flipped for patch masks in evaluation, so that these masks differ from those of training.
pub(crate) const EVALUATION_SEED_BIT: u64 = 1 << 63;

/// The reason why a sample cannot be made.
#[derive(Debug)]
pub enum SampleError {
    /// The item cannot be read. In training, the loader replaces it by another item.
    Unreadable(DataError),
    /// Any other error; the loader returns it.
    Fatal(DataError),
}

impl From<DataError> for SampleError {
    fn from(error: DataError) -> Self {
        Self::Fatal(error)
    }
}

/// An item whose image could not be read, so that another item has replaced it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Index of the item in the dataset.
    pub item: usize,
    /// What is wrong with which file and row.
    pub reason: String,
}

/// The replaced items of a sample.
#[derive(Default)]
pub(crate) struct Replacements {
    pub unreadable: Vec<Unreadable>,
}

impl Replacements {
    /// Adds the replacement of `item`, which `error` made necessary.
    ///
    /// # Errors
    /// Returns `error` if nothing is replaced, and another error after [`MAX_REPLACEMENTS`] replacements.
    pub fn record(&mut self, item: usize, error: DataError, replaces: bool) -> Result<()> {
        if !replaces {
            return Err(error);
        }
        if self.unreadable.len() == MAX_REPLACEMENTS {
            return Err(DataError::Invalid(format!(
                "{MAX_REPLACEMENTS} consecutive images cannot be read; check the dataset. The last error: {error}"
            )));
        }
        self.unreadable.push(Unreadable {
            item,
            reason: error.to_string(),
        });
        Ok(())
    }
}

/// A dataset and the settings with which its items are read.
pub(crate) struct Source {
    pub data: Arc<dyn Dataset>,
    pub inputs: Arc<InputSpec>,
    pub transform: Transform,
    pub buffers: Arc<Buffers>,
    pub seed: u64,
    pub mode: Mode,
    pub replaces_unreadable: bool,
}

impl Source {
    fn image(&self, item: usize, example: &Example, index: usize, rng: &mut impl Rng) -> Result<Pixels> {
        let Some(bytes) = example.images.get(index).and_then(Option::as_deref) else {
            return Err(self.data.error(item, "has no image"));
        };
        let load = self
            .transform
            .load(bytes, example.reading, rng, |size| self.buffers.take(size));
        match load {
            Ok((pixels, _)) => Ok(pixels),
            Err(error) => Err(self.data.error(item, &error.to_string())),
        }
    }

    fn tokens(&self, text: Option<&str>) -> Vec<u32> {
        let text = text.unwrap_or_default();
        self.inputs.tokenizer.encode(text, self.inputs.max_text_len)
    }
}

/// The argument of [`Task::sample`](crate::Task::sample): one item. A task gets images, tokens and random numbers only from this
/// context.
pub struct SampleContext<'a> {
    pub(crate) source: &'a Source,
    /// Position of the micro-batch.
    pub(crate) position: Position,
    /// Index of the sample in the epoch.
    pub(crate) index_in_epoch: usize,
    /// Index of the sample in its micro-batch.
    pub(crate) index: usize,
    pub(crate) batch_len: usize,
    pub(crate) item: usize,
    pub(crate) example: &'a Example<'a>,
    pub(crate) replacements: &'a mut Replacements,
}

impl SampleContext<'_> {
    /// Returns the index of the item in the dataset.
    pub fn item(&self) -> usize {
        self.item
    }

    /// Returns the index of the sample in its micro-batch.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Returns the number of samples in the micro-batch.
    pub fn batch_len(&self) -> usize {
        self.batch_len
    }

    /// Returns the tokeniser.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.source.inputs.tokenizer
    }

    /// Whether the item has an image `index`.
    pub fn has_image(&self, index: usize) -> bool {
        self.example.images.get(index).is_some_and(Option::is_some)
    }

    /// Returns an error about the item, which the loader returns. Its message names file and row.
    pub fn fatal(&self, reason: &str) -> SampleError {
        SampleError::Fatal(self.source.data.error(self.item, reason))
    }

    /// Returns the target answer of the item.
    pub fn answer(&self) -> &Answer {
        &self.example.answer
    }

    /// Returns the random generator for one decision about this sample.
    pub fn rng(&self, purpose: Purpose) -> ChaCha8Rng {
        let evaluation = self.source.mode == Mode::Evaluate;
        let seed = match purpose {
            Purpose::PatchMaskMlm | Purpose::PatchMaskItm if evaluation => self.source.seed ^ EVALUATION_SEED_BIT,
            _ => self.source.seed,
        };
        stream(seed, purpose, self.position.epoch, self.index_in_epoch as u64)
    }

    /// Returns the random generator for one decision about the whole micro-batch, the same for each of its samples.
    pub fn batch_rng(&self, purpose: Purpose) -> ChaCha8Rng {
        stream(self.source.seed, purpose, self.position.epoch, self.position.batch)
    }

    /// Decodes and transforms image `index` of the item.
    ///
    /// # Errors
    /// Returns [`SampleError::Unreadable`] if the item has no image `index` or the image cannot be decoded.
    pub fn image(&self, index: usize, rng: &mut impl Rng) -> Result<Pixels, SampleError> {
        self.source
            .image(self.item, self.example, index, rng)
            .map_err(SampleError::Unreadable)
    }

    /// Returns the token ids of the item's text.
    pub fn tokens(&self) -> Vec<u32> {
        self.source.tokens(self.example.text.as_deref())
    }

    /// Returns the image of a random item of the same dataset, possibly of the item itself. In training, another item is drawn
    /// if the image is unreadable.
    ///
    /// # Errors
    /// Returns [`SampleError::Fatal`] if too many consecutive images are unreadable or, in evaluation, if the first
    /// drawn image is unreadable.
    pub fn peer_image(&mut self, rng: &mut impl Rng) -> Result<Pixels, SampleError> {
        let source = self.source;
        loop {
            let peer = rng.random_range(source.data.peers(self.item));
            let example = source.data.example(peer);
            let image = example.and_then(|example| source.image(peer, &example, 0, rng));
            match image {
                Ok(image) => return Ok(image),
                Err(error) => self.replacements.record(peer, error, source.replaces_unreadable)?,
            }
        }
    }

    /// Returns the token ids of the text of a random item of the same dataset, possibly of the item itself.
    ///
    /// # Errors
    /// Returns [`SampleError::Fatal`] if the text is damaged.
    pub fn peer_tokens(&self, rng: &mut impl Rng) -> Result<Vec<u32>, SampleError> {
        let peer = rng.random_range(self.source.data.peers(self.item));
        Ok(self.source.tokens(self.source.data.text(peer)?.as_deref()))
    }
}
