//! The data of a run: splits, and how they become batches.

use std::path::Path;
use std::sync::Arc;

use vlct_data::datasets::{Contents, Shards, Split, TableDataset};
use vlct_data::text::Tokenizer;
use vlct_tasks::{InputSpec, LoaderSpec, Mode};

use crate::error::{Result, TrainError};
use crate::spec::{DataSpec, RunSpec};

/// Batches that the loader works ahead.
const PREFETCH: usize = 4;

/// Splits of a training run, and how they are read.
pub struct Data {
    /// How images and texts are read.
    pub inputs: Arc<InputSpec>,
    /// The training split.
    pub train: Arc<TableDataset>,
    /// The validation split. Empty if the datasets have none.
    pub val: Arc<TableDataset>,
}

impl Data {
    /// Opens the splits for training and validation, and the tokenizer.
    ///
    /// # Errors
    /// Returns an error as [`inputs`] and [`open`] do.
    pub fn open(spec: &RunSpec) -> Result<Self> {
        Ok(Self {
            inputs: inputs(spec)?,
            train: open(&spec.data, Split::Train)?,
            val: open(&spec.data, Split::Val)?,
        })
    }
}

/// How images and texts are read in a run.
///
/// # Errors
/// Returns an error if there is no such tokenizer, or if it has more tokens than the model has word embeddings.
pub fn inputs(spec: &RunSpec) -> Result<Arc<InputSpec>> {
    Ok(Arc::new(InputSpec {
        image_size: spec.data.image_size,
        train_transform: spec.data.train_transform,
        eval_transform: spec.data.val_transform,
        tokenizer: tokenizer(spec)?,
        max_text_len: spec.data.max_text_len,
    }))
}

fn tokenizer(spec: &RunSpec) -> Result<Tokenizer> {
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

/// How a run makes batches.
pub fn loader(spec: &RunSpec, mode: Mode) -> LoaderSpec {
    LoaderSpec {
        seed: spec.seed,
        mode,
        batch_size: spec.length.micro_batch as usize,
        threads: spec.data.workers,
        prefetch: PREFETCH,
        end_epoch: (mode == Mode::Evaluate).then_some(1),
    }
}
