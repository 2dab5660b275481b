//! The data of a run: splits, preparation of inputs, and settings of the loader.

use std::path::Path;
use std::sync::Arc;

use log::warn;
use vlct_classes::ClassSplits;
use vlct_data::datasets::{Dataset, Split, TableDataset};
use vlct_data::loader::Share;
use vlct_image::Reading;
use vlct_tasks::texts::{CutTexts, TextStatistics};
use vlct_tasks::{InputSpec, LoaderSpec, MaxPatches, Mode};
use vlct_text::Tokenizer;
use vlct_util::text::counted;

use crate::error::{Result, TrainError};
use crate::plan::Plan;
use crate::spec::RunSpec;
use crate::state::DataIdentity;
use crate::vocabulary;

/// Number of batches that the loader prepares ahead.
const PREFETCH: usize = 4;

/// The splits of a training run.
#[derive(Clone)]
pub struct Data {
    /// Preparation of images and texts.
    pub inputs: Arc<InputSpec>,
    /// The training split.
    pub train: Arc<dyn Dataset>,
    /// The validation split, empty if the datasets have no validation split.
    pub val: Arc<dyn Dataset>,
    /// Number of items and rows of the training split, in words.
    pub(crate) size: String,
    /// How the images of custom datasets become pixels; `None` if all datasets are published.
    pub(crate) reading: Option<Reading>,
    /// What identifies the files.
    pub(crate) identity: DataIdentity,
    /// Texts of the training split that are longer than the model reads.
    pub(crate) cut_texts: Option<CutTexts>,
}

impl Data {
    /// Opens the splits for training and validation, and the tokenizer.
    ///
    /// # Errors
    /// Returns the errors of [`inputs`] and [`open`], or those of [`ClassSplits::open`].
    pub fn open(spec: &RunSpec) -> Result<Self> {
        if let Some(path) = &spec.data.classes {
            return Self::of_classes(ClassSplits::open(path, &spec.data.rules)?, spec);
        }
        let inputs = inputs(spec)?;
        let (train, val) = (open(spec, Split::Train)?, open(spec, Split::Val)?);
        let texts = TextStatistics::sample(&train, &inputs.tokenizer)?;
        Ok(Self {
            cut_texts: texts.cut(inputs.max_text_len),
            inputs,
            size: train.describe_size(),
            reading: custom_reading(&train),
            identity: DataIdentity {
                train: train.identities()?,
                val: val.identities()?,
            },
            train,
            val,
        })
    }

    /// Checks that there are validation images.
    ///
    /// # Errors
    /// Returns [`TrainError::NoValidationImages`] if there are none.
    pub(crate) fn check_validation(&self, spec: &RunSpec) -> Result<()> {
        match self.val.is_empty() {
            true => Err(TrainError::NoValidationImages {
                path: spec.data.classes.clone().unwrap_or_default(),
            }),
            false => Ok(()),
        }
    }

    /// Makes the data of a run on the splits of images with one class each.
    ///
    /// # Errors
    /// Returns an error if a file cannot be read.
    pub(crate) fn of_classes(splits: ClassSplits, spec: &RunSpec) -> Result<Self> {
        let ClassSplits { train, val, .. } = splits;
        for note in train.notes().iter().chain(val.notes()) {
            warn!("{note}");
        }
        Ok(Self {
            inputs: inputs(spec)?,
            size: format!(
                "{} of {}",
                counted(train.len(), "image"),
                counted(train.class_names().len(), "class")
            ),
            reading: None,
            identity: DataIdentity {
                train: train.identities()?,
                val: val.identities()?,
            },
            cut_texts: None,
            train: Arc::new(train),
            val: Arc::new(val),
        })
    }
}

/// Returns the preparation of images and texts of a run.
///
/// # Errors
/// Returns an error if the tokenizer does not exist or has more tokens than the model has word embeddings, or if a resumed run has another
/// vocabulary than its checkpoint.
pub fn inputs(spec: &RunSpec) -> Result<Arc<InputSpec>> {
    if spec.data.classes.is_some() {
        // There are no texts.
        return Ok(inputs_with(spec, Tokenizer::bert_base_uncased()));
    }
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
        format: spec.data.format(),
        train_transform: spec.data.train_transform.clone(),
        eval_transform: spec.data.val_transform.clone(),
        tokenizer,
        max_patches: spec.data.max_patches.map(|count| MaxPatches {
            count,
            patch_size: spec.model.vlc().backbone.patch_size,
        }),
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

/// Returns the settings of the loader of a rank's `share` of a run's training split.
pub(crate) fn training_loader(spec: &RunSpec, plan: &Plan, share: Share) -> LoaderSpec {
    LoaderSpec {
        batches: Some(plan.batches_per_epoch),
        share,
        ..loader_spec(spec, Mode::Train)
    }
}

/// Returns the settings of a run's loader.
pub fn loader_spec(spec: &RunSpec, mode: Mode) -> LoaderSpec {
    LoaderSpec {
        seed: spec.seed,
        mode,
        batch_size: spec.length.micro_batch as usize,
        batches: None,
        threads: spec.data.workers,
        replaces_unreadable: mode == Mode::Train,
        prefetch: PREFETCH,
        end_epoch: (mode == Mode::Evaluate).then_some(1),
        share: Share::ALL,
    }
}
