//! What a task makes a sample from: one item, its images and tokens, and the random streams of the sample.

use std::sync::Arc;

use rand::{Rng, RngExt};
use rand_chacha::ChaCha8Rng;
use vlct_data::datasets::{Answer, Dataset, Example};
use vlct_data::loader::{Buffers, Pixels, Position};
use vlct_data::random::{Purpose, stream};
use vlct_data::text::Tokenizer;
use vlct_data::{DataError, Result};
use vlct_image::Transform;

use crate::inputs::{InputSpec, Mode};

/// Unreadable images in a row after which replacing them is given up: the data, not an image, are broken.
const MAX_REPLACEMENTS: usize = 100;
/// Messages kept about replaced images.
pub(crate) const MAX_WARNINGS: usize = 4;
/// Set in the seed of patch masks in evaluation, so that it does not hide the patches that training hides.
pub(crate) const EVALUATION: u64 = 1 << 63;

/// Why a sample cannot be made.
#[derive(Debug)]
pub enum SampleError {
    /// Its own image cannot be read: in training another item takes its place.
    Unreadable(DataError),
    /// Anything else.
    Fatal(DataError),
}

impl From<DataError> for SampleError {
    fn from(error: DataError) -> Self {
        Self::Fatal(error)
    }
}

/// Counts replaced images and keeps the first messages.
#[derive(Default)]
pub(crate) struct Replacements {
    pub count: usize,
    pub warnings: Vec<String>,
}

impl Replacements {
    /// Notes that an image is replaced because of `error`; returns the error where images are not to be replaced.
    pub fn note(&mut self, error: DataError, mode: Mode) -> Result<()> {
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

/// A dataset, and how its items are read.
pub(crate) struct Source {
    pub data: Arc<dyn Dataset>,
    pub inputs: Arc<InputSpec>,
    pub transform: Transform,
    pub buffers: Arc<Buffers>,
    pub seed: u64,
    pub mode: Mode,
}

impl Source {
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

/// What [`Task::sample`](crate::Task::sample) reads: one item, and the only source of its images, tokens and randomness.
pub struct SampleCx<'a> {
    pub(crate) source: &'a Source,
    /// The micro-batch.
    pub(crate) at: Position,
    /// Position of the sample in the epoch.
    pub(crate) place: usize,
    pub(crate) number: usize,
    pub(crate) count: usize,
    pub(crate) item: usize,
    pub(crate) example: &'a Example<'a>,
    pub(crate) replacements: &'a mut Replacements,
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
        self.count
    }

    /// The tokeniser.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.source.inputs.tokenizer
    }

    /// What is to be predicted.
    pub fn answer(&self) -> &Answer {
        &self.example.answer
    }

    /// The generator of one decision about this sample.
    pub fn rng(&self, purpose: Purpose) -> ChaCha8Rng {
        let evaluation = self.source.mode == Mode::Evaluate;
        let seed = match purpose {
            Purpose::PatchMaskMlm | Purpose::PatchMaskItm if evaluation => self.source.seed ^ EVALUATION,
            _ => self.source.seed,
        };
        stream(seed, purpose, self.at.epoch, self.place as u64)
    }

    /// The generator of one decision about the whole micro-batch: the same for each of its samples.
    pub fn batch_rng(&self, purpose: Purpose) -> ChaCha8Rng {
        stream(self.source.seed, purpose, self.at.epoch, self.at.batch)
    }

    /// Image `which` of the item, decoded and transformed.
    ///
    /// # Errors
    /// Returns [`SampleError::Unreadable`] if it cannot be decoded.
    pub fn image(&self, which: usize, rng: &mut impl Rng) -> Result<Pixels, SampleError> {
        self.source
            .image(self.item, self.example, which, rng)
            .map_err(SampleError::Unreadable)
    }

    /// Token ids of the item's text.
    pub fn tokens(&self) -> Vec<u32> {
        self.source.tokens(self.example.text.as_deref())
    }

    /// The image of a random item of the same dataset, which may be the item itself. In training, an unreadable image is
    /// replaced by the next one drawn.
    ///
    /// # Errors
    /// Returns [`SampleError::Fatal`] if too many images in a row cannot be read; in evaluation if one cannot.
    pub fn peer_image(&mut self, rng: &mut impl Rng) -> Result<Pixels, SampleError> {
        let source = self.source;
        loop {
            let peer = rng.random_range(source.data.peers(self.item));
            let example = source.data.example(peer);
            let image = example.and_then(|example| source.image(peer, &example, 0, rng));
            match image {
                Ok(image) => return Ok(image),
                Err(error) => self.replacements.note(error, source.mode)?,
            }
        }
    }

    /// Token ids of the text of a random item of the same dataset, which may be the item itself.
    ///
    /// # Errors
    /// Returns [`SampleError::Fatal`] if the text is damaged.
    pub fn peer_tokens(&self, rng: &mut impl Rng) -> Result<Vec<u32>, SampleError> {
        let peer = rng.random_range(self.source.data.peers(self.item));
        Ok(self.source.tokens(self.source.data.text(peer)?.as_deref()))
    }
}
