//! Pictures of a dataset on their own: one read for the caption loader, batches of them for retrieval.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;

use super::pipeline::{Job, Pipeline, Position};
use crate::datasets::{Dataset, Location, TableDataset};
use crate::random::{Purpose, stream};
use crate::{DataError, Result};
use vlct_image::{Transform, TransformKind};

/// Reads, decodes and transforms the picture at a location into `out` `[3, size, size]`. Errors name file and row.
pub(super) fn load_into(
    dataset: &TableDataset,
    at: &Location,
    transform: &Transform,
    rng: &mut impl Rng,
    out: &mut [f32],
) -> Result<()> {
    match transform.load_into(dataset.image_at(at)?, rng, out) {
        Ok(_) => Ok(()),
        Err(error) => Err(dataset.row_error(at, &error.to_string())),
    }
}

/// Some consecutive pictures of a dataset.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageBatch {
    /// Their rows in the dataset; [`TableDataset::items_of`] gives their captions.
    pub rows: Range<usize>,
    /// The pictures, each `[3, size, size]`, normalised.
    pub images: Vec<Vec<f32>>,
}

/// Delivers every picture of a dataset once, in order. An unreadable picture is an error: leaving it out would shift the ranks
/// of the others.
pub struct ImageLoader {
    pipeline: Pipeline<Images>,
}

impl ImageLoader {
    /// Starts `threads` threads that work at most `prefetch` batches ahead.
    ///
    /// # Errors
    /// [`DataError::Invalid`] for a dataset without pictures or a number out of range.
    pub fn new(
        dataset: Arc<TableDataset>,
        kind: TransformKind,
        image_size: usize,
        batch_size: usize,
        threads: usize,
        prefetch: usize,
    ) -> Result<Self> {
        if batch_size == 0 {
            return Err(DataError::Invalid("batch size 0 is out of range".into()));
        }
        let job = Images {
            dataset,
            transform: Transform::new(kind, image_size)?,
            batch_size,
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

impl Iterator for ImageLoader {
    type Item = Result<ImageBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        self.pipeline.next()
    }
}

struct Images {
    dataset: Arc<TableDataset>,
    transform: Transform,
    batch_size: usize,
}

impl Job for Images {
    type Plan = Range<usize>;
    type Sample = Vec<f32>;
    type Batch = ImageBatch;

    fn epoch_len(&self) -> u64 {
        self.dataset.rows().div_ceil(self.batch_size) as u64
    }

    fn plan(&self, position: Position) -> (usize, Range<usize>) {
        let first = position.batch as usize * self.batch_size;
        let pictures = first..first.saturating_add(self.batch_size).min(self.dataset.rows());
        (pictures.len(), pictures)
    }

    fn sample(&self, pictures: &Range<usize>, number: usize) -> Result<Vec<f32>> {
        let picture = pictures.start + number;
        let at = self.dataset.locate_row(picture)?;
        // Transforms of evaluation draw nothing; one that does is at least the same every time.
        let mut rng = stream(0, Purpose::Augmentation, 0, picture as u64);
        let mut picture = vec![0.0; self.transform.values()];
        load_into(&self.dataset, &at, &self.transform, &mut rng, &mut picture)?;
        Ok(picture)
    }

    fn collate(&self, pictures: &Range<usize>, samples: Vec<Vec<f32>>) -> Result<ImageBatch> {
        Ok(ImageBatch {
            rows: pictures.clone(),
            images: samples,
        })
    }
}
