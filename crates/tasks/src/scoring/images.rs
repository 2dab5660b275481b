//! The images of a dataset, in order.

use std::hash::Hasher;
use std::sync::Arc;

use vlct_data::datasets::{Contents, Dataset, RowsOf, TableDataset};
use vlct_data::loader::{Pixels, Position, Share};
use vlct_data::random::Purpose;
use vlct_model::Model;
use vlct_tensor::Tape;
use xxhash_rust::xxh3::Xxh3;

use crate::batch::{Batch, Sample, Target};
use crate::error::Result;
use crate::inputs::{InputSpec, Mode};
use crate::loader::{Loader, LoaderSpec};
use crate::metrics::{Phase, Report, Tally};
use crate::rows::Rows;
use crate::sample::{SampleContext, SampleError};
use crate::task::{Outcome, Task};

/// Images that the loader reads ahead.
const PREFETCH: usize = 8;

/// The images of the rows of a dataset, prepared as for evaluation.
pub(super) struct DatasetImages {
    data: Arc<dyn Dataset>,
    inputs: Arc<InputSpec>,
    threads: usize,
}

impl DatasetImages {
    /// `threads` threads read the images.
    pub fn new(data: &Arc<TableDataset>, inputs: Arc<InputSpec>, threads: usize) -> Self {
        let data = Arc::new(RowsOf::new(Arc::clone(data)));
        Self { data, inputs, threads }
    }

    /// Adds to a hash everything that determines the values of the first `images` images: settings and files.
    ///
    /// # Errors
    /// Returns an error that names file and row if an image is missing.
    pub fn hash(&self, images: usize, hash: &mut Xxh3) -> Result<()> {
        let transform = self.inputs.transform(Mode::Evaluate).name();
        Hasher::write(
            hash,
            format!("{transform} {:?} {images}", self.inputs.format).as_bytes(),
        );
        for row in 0..images {
            let example = self.data.example(row)?;
            let image = example.images[0].as_deref();
            let image = image.ok_or_else(|| self.data.error(row, "has no image"))?;
            Hasher::write(hash, &(image.len() as u64).to_le_bytes());
            Hasher::write(hash, image);
        }
        Ok(())
    }

    /// Returns the images from row `first` on that belong to `share`.
    ///
    /// # Errors
    /// Returns an error if a setting of the loader is out of range. The items are errors that name file and row if an image cannot be
    /// read: omitting the image would change the ranks of other images.
    pub fn pixels(&self, first: usize, share: Share) -> Result<impl Iterator<Item = Result<Pixels>>> {
        let spec = LoaderSpec {
            seed: 0,
            mode: Mode::Evaluate,
            batch_size: 1,
            threads: self.threads,
            replaces_unreadable: false,
            batches: None,
            prefetch: PREFETCH,
            end_epoch: Some(1),
            share,
        };
        let start = Position {
            epoch: 0,
            batch: first as u64,
        };
        let (task, data, inputs) = (Arc::new(ImagesOnly), Arc::clone(&self.data), Arc::clone(&self.inputs));
        let loader = Loader::new(task, data, inputs, spec, start)?;
        Ok(loader.flat_map(|batch| match batch {
            Ok(batch) => batch.images.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error.into())],
        }))
    }
}

/// A task whose samples are single images.
struct ImagesOnly;

impl Task for ImagesOnly {
    fn contents(&self) -> Contents {
        Contents::Captions
    }

    fn sample(&self, cx: &mut SampleContext<'_>) -> Result<Sample, SampleError> {
        Ok(Sample {
            item: cx.item(),
            images: vec![cx.image(0, &mut cx.rng(Purpose::Augmentation))?],
            texts: Vec::new(),
            sequences: Vec::new(),
            target: Target::None,
        })
    }

    /// Computes nothing.
    fn forward(&self, _model: &Model, _tape: &Tape, _batch: &Batch) -> Outcome {
        Outcome::default()
    }

    fn report(&self, _phase: Phase, _tally: &Tally, _rows: &Rows) -> Report {
        Report::default()
    }
}
