//! Pictures of a dataset on their own: one read for the caption loader, batches of them for retrieval.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;

use super::buffers::Buffers;
use super::pipeline::{Job, Pipeline, Position};
use crate::datasets::{CaptionDataset, Location};
use crate::pictures::{Transform, TransformKind, decode};
use crate::random::{Purpose, stream};
use crate::{DataError, Result};

/// Reads, decodes and transforms the picture at a location: `[3, size, size]`. Errors name file and row.
pub(super) fn load(
    dataset: &CaptionDataset,
    at: &Location,
    transform: &Transform,
    rng: &mut impl Rng,
    buffers: &Buffers,
) -> Result<Vec<f32>> {
    let image = decode(dataset.picture_at(at)?);
    let transformed = image.and_then(|image| {
        let mut out = buffers.filled(transform.values());
        transform.apply_into(&image, rng, &mut out)?;
        Ok(out)
    });
    transformed.map_err(|error| dataset.row_error(at, &error.to_string()))
}

/// Appends a picture to those of its batch.
pub(super) fn append(images: &mut Vec<f32>, picture: Vec<f32>, buffers: &Buffers) {
    images.extend_from_slice(&picture);
    buffers.give_back(picture);
}

/// Some consecutive pictures of a dataset.
#[derive(Clone, Debug, PartialEq)]
pub struct PictureBatch {
    /// Their numbers in the dataset; [`CaptionDataset::captions_of`] gives their captions.
    pub pictures: Range<usize>,
    /// The pictures, `[pictures.len(), 3, size, size]`, normalised.
    pub images: Vec<f32>,
}

/// Delivers every picture of a dataset once, in order. An unreadable picture is an error: leaving it out would shift the ranks
/// of the others.
pub struct PictureLoader {
    pipeline: Pipeline<Pictures>,
}

impl PictureLoader {
    /// Starts `threads` threads that work at most `prefetch` batches ahead.
    ///
    /// # Errors
    /// [`DataError::Invalid`] for a dataset without pictures or a number out of range.
    pub fn new(
        dataset: Arc<CaptionDataset>,
        kind: TransformKind,
        image_size: usize,
        batch_size: usize,
        threads: usize,
        prefetch: usize,
    ) -> Result<Self> {
        if batch_size == 0 {
            return Err(DataError::Invalid("batch size 0 is out of range".into()));
        }
        let job = Pictures {
            dataset,
            transform: Transform::new(kind, image_size)?,
            batch_size,
            samples: Buffers::new(batch_size.saturating_mul(2)),
        };
        Ok(Self {
            pipeline: Pipeline::new(job, Position::default(), Some(1), threads, prefetch)?,
        })
    }

    /// Time that the caller spent waiting for batches, since the beginning.
    pub fn wait_time(&self) -> Duration {
        self.pipeline.wait_time()
    }
}

impl Iterator for PictureLoader {
    type Item = Result<PictureBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        self.pipeline.next()
    }
}

struct Pictures {
    dataset: Arc<CaptionDataset>,
    transform: Transform,
    batch_size: usize,
    samples: Buffers,
}

impl Job for Pictures {
    type Plan = Range<usize>;
    type Sample = Vec<f32>;
    type Batch = PictureBatch;

    fn epoch_len(&self) -> u64 {
        self.dataset.images().div_ceil(self.batch_size) as u64
    }

    fn plan(&self, position: Position) -> (usize, Range<usize>) {
        let first = position.batch as usize * self.batch_size;
        let pictures = first..first.saturating_add(self.batch_size).min(self.dataset.images());
        (pictures.len(), pictures)
    }

    fn sample(&self, pictures: &Range<usize>, number: usize) -> Result<Vec<f32>> {
        let picture = pictures.start + number;
        let at = self.dataset.locate_image(picture)?;
        // Transforms of evaluation draw nothing; one that does is at least the same every time.
        let mut rng = stream(0, Purpose::Augmentation, 0, picture as u64);
        load(&self.dataset, &at, &self.transform, &mut rng, &self.samples)
    }

    fn collate(&self, pictures: &Range<usize>, samples: Vec<Vec<f32>>) -> Result<PictureBatch> {
        let mut images = Vec::with_capacity(samples.len() * self.transform.values());
        for sample in samples {
            append(&mut images, sample, &self.samples);
        }
        Ok(PictureBatch {
            pictures: pictures.clone(),
            images,
        })
    }
}
