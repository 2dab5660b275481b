//! The data of a run: splits, preparation of inputs, and settings of the loader.

use std::path::Path;
use std::sync::Arc;

use log::warn;
use vlct_data::datasets::{Split, TableDataset};
use vlct_image::Reading;
use vlct_tasks::{InputSpec, LoaderSpec, Mode};
use vlct_text::Tokenizer;

use crate::error::{Result, TrainError};
use crate::spec::RunSpec;
use crate::state::DataIdentity;
use crate::vocabulary;

/// Number of batches that the loader prepares ahead.
const PREFETCH: usize = 4;

/// The splits of a training run.
pub struct Data {
    /// Preparation of images and texts.
    pub inputs: Arc<InputSpec>,
    /// The training split.
    pub train: Arc<TableDataset>,
    /// The validation split, empty if the datasets have no validation split.
    pub val: Arc<TableDataset>,
}

impl Data {
    /// Opens the splits for training and validation, and the tokenizer.
    ///
    /// # Errors
    /// Returns the errors of [`inputs`] and [`open`].
    pub fn open(spec: &RunSpec) -> Result<Self> {
        Ok(Self {
            inputs: inputs(spec)?,
            train: open(spec, Split::Train)?,
            val: open(spec, Split::Val)?,
        })
    }

    /// Returns what identifies the files.
    ///
    /// # Errors
    /// Returns an error if labels are damaged.
    pub(crate) fn identity(&self) -> Result<DataIdentity> {
        Ok(DataIdentity {
            train: self.train.identities()?,
            val: self.val.identities()?,
        })
    }
}

/// Returns the preparation of images and texts of a run.
///
/// # Errors
/// Returns an error if the tokenizer does not exist or has more tokens than the model has word embeddings, or if a resumed run has another
/// vocabulary than its checkpoint.
pub fn inputs(spec: &RunSpec) -> Result<Arc<InputSpec>> {
    Ok(inputs_with(spec, vocabulary::tokenizer(spec)?))
}

/// Returns the preparation of images and texts of a run, with the vocabulary in its checkpoint, so that the file of the key `tokenizer` is not
/// needed.
///
/// # Errors
/// Returns an error if the vocabulary cannot be read.
pub fn inputs_of_checkpoint(spec: &RunSpec, checkpoint: &Path) -> Result<Arc<InputSpec>> {
    Ok(inputs_with(spec, vocabulary::of_checkpoint(spec, checkpoint)?))
}

fn inputs_with(spec: &RunSpec, tokenizer: Tokenizer) -> Arc<InputSpec> {
    Arc::new(InputSpec {
        image_size: spec.data.image_size,
        train_transform: spec.data.train_transform,
        eval_transform: spec.data.val_transform,
        tokenizer,
        max_text_len: spec.data.max_text_len,
    })
}

/// Opens a split of the run's datasets, whose rows must be of the kind that the task needs.
///
/// # Errors
/// Returns an error if `data.root` is empty, or if files are missing or have other contents.
pub fn open(spec: &RunSpec, split: Split) -> Result<Arc<TableDataset>> {
    open_datasets(spec, &spec.data.datasets, split)
}

/// Opens a split of the first dataset, for retrieval recalls.
///
/// # Errors
/// Returns the errors of [`open`].
pub fn open_first(spec: &RunSpec, split: Split) -> Result<Arc<TableDataset>> {
    open_datasets(spec, &spec.data.datasets[..1], split)
}

fn open_datasets(spec: &RunSpec, names: &[String], split: Split) -> Result<Arc<TableDataset>> {
    let data = &spec.data;
    if data.root == Path::new("") {
        return Err(TrainError::MissingDataRoot);
    }
    let dataset = TableDataset::open_with(spec.task.contents(), &data.root, names, split, &data.rules)?;
    for line in dataset.left_out() {
        warn!("{line} ({split} split)");
    }
    Ok(Arc::new(dataset))
}

/// Returns how the images of custom datasets become pixels, for the description of the model; `None` if all datasets are published. Warns
/// if files differ.
pub(crate) fn custom_reading(dataset: &TableDataset) -> Option<Reading> {
    let (reading, differs) = dataset.custom_reading()?;
    if differs {
        warn!(
            "the datasets differ in background or orientation of their images; predictions will use background={} and orientation={}, those \
             of the first custom dataset (the keys background and orientation set one for all)",
            reading.background, reading.orientation
        );
    }
    Some(reading)
}

/// Returns the settings of a run's loader.
pub fn loader_spec(spec: &RunSpec, mode: Mode) -> LoaderSpec {
    LoaderSpec {
        seed: spec.seed,
        mode,
        batch_size: spec.length.micro_batch as usize,
        threads: spec.data.workers,
        replaces_unreadable: mode == Mode::Train,
        prefetch: PREFETCH,
        end_epoch: (mode == Mode::Evaluate).then_some(1),
    }
}
