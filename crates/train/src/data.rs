//! The data of a run: tokenizer, splits and loaders.

use std::path::Path;
use std::sync::Arc;

use vlct_data::datasets::{Contents, Shards, Split, TableDataset};
use vlct_data::loader::{Loader, LoaderConfig, Position};
use vlct_data::text::Tokenizer;

use crate::error::{Result, TrainError};
use crate::spec::{DataSpec, RunSpec};

/// Batches that the loader works ahead.
const PREFETCH: usize = 4;

/// Which batches a loader makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoaderMode {
    /// For training: shuffled, endless, unreadable images are replaced.
    Train,
    /// For evaluation: one pass in order, an unreadable image is an error.
    Evaluate,
}

/// Tokenizer and splits of a training run.
pub struct Data {
    /// Splits captions into tokens.
    pub tokenizer: Tokenizer,
    /// The training split.
    pub train: Arc<TableDataset>,
    /// The validation split. Empty if the datasets have none.
    pub val: Arc<TableDataset>,
}

impl Data {
    /// Opens the tokenizer and the splits for training and validation.
    ///
    /// # Errors
    /// Returns an error as [`tokenizer`] and [`open`] do.
    pub fn open(spec: &RunSpec) -> Result<Self> {
        Ok(Self {
            tokenizer: tokenizer(spec)?,
            train: open(&spec.data, Split::Train)?,
            val: open(&spec.data, Split::Val)?,
        })
    }
}

/// Opens the tokenizer of a run.
///
/// # Errors
/// Returns an error if there is no such tokenizer, or if it has more tokens than the model has word embeddings.
pub fn tokenizer(spec: &RunSpec) -> Result<Tokenizer> {
    let tokenizer = Tokenizer::named(&spec.data.tokenizer)?;
    let vocab_size = spec.model.vocab_size;
    if tokenizer.len() > vocab_size {
        return Err(TrainError::VocabularyTooSmall {
            tokenizer: spec.data.tokenizer.clone(),
            tokens: tokenizer.len(),
            vocab_size,
        });
    }
    Ok(tokenizer)
}

/// Opens the captions and images of a split.
///
/// # Errors
/// Returns an error if the directory of the data is not named, or if files are missing or have another content.
pub fn open(data: &DataSpec, split: Split) -> Result<Arc<TableDataset>> {
    if data.root == Path::new("") {
        return Err(TrainError::MissingDataRoot);
    }
    let shards = if data.fewer_shards {
        Shards::AsFound
    } else {
        Shards::All
    };
    let dataset = TableDataset::open_with(Contents::Captions, &data.root, &data.datasets, split, shards)?;
    Ok(Arc::new(dataset))
}

/// Opens a split of the first dataset, on which recalls are measured.
///
/// # Errors
/// Returns an error as [`open`] does.
pub fn open_first(data: &DataSpec, split: Split) -> Result<Arc<TableDataset>> {
    let first = DataSpec {
        datasets: data.datasets[..1].to_vec(),
        ..data.clone()
    };
    open(&first, split)
}

/// Starts a loader of the batches of a dataset, from `start` on.
///
/// # Errors
/// Returns an error if the dataset is empty.
pub fn loader(
    spec: &RunSpec,
    dataset: &Arc<TableDataset>,
    tokenizer: &Tokenizer,
    mode: LoaderMode,
    start: Position,
) -> Result<Loader> {
    let data = &spec.data;
    let training = mode == LoaderMode::Train;
    let config = LoaderConfig {
        seed: spec.seed,
        batch_size: spec.pretrain.micro_batch as usize,
        image_size: data.image_size,
        transform: if training {
            data.train_transform
        } else {
            data.val_transform
        },
        max_text_len: data.max_text_len,
        whole_word_masking: data.whole_word_masking,
        mlm_prob: data.mlm_prob,
        draw_false_image: spec.pretrain.objectives.itm,
        training,
        threads: data.workers,
        prefetch: PREFETCH,
        end_epoch: (!training).then_some(1),
    };
    Ok(Loader::new(Arc::clone(dataset), tokenizer.clone(), config, start)?)
}
