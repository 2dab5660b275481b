//! The data of a run: splits, preparation of inputs, and settings of the loader.

use std::path::Path;
use std::sync::Arc;

use vlct_data::datasets::{Contents, ShardPolicy, Split, TableDataset};
use vlct_data::text::Tokenizer;
use vlct_tasks::{InputSpec, LoaderSpec, Mode};

use crate::error::{Result, TrainError};
use crate::spec::{DataSpec, RunSpec};

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
            train: open(&spec.data, Split::Train)?,
            val: open(&spec.data, Split::Val)?,
        })
    }
}

/// Returns the preparation of images and texts of a run.
///
/// # Errors
/// Returns an error if the tokenizer does not exist or has more tokens than the model has word embeddings.
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
/// Returns an error if `data.root` is empty, or if files are missing or do not contain captions.
pub fn open(data: &DataSpec, split: Split) -> Result<Arc<TableDataset>> {
    if data.root == Path::new("") {
        return Err(TrainError::MissingDataRoot);
    }
    let shards = if data.fewer_shards {
        ShardPolicy::AsFound
    } else {
        ShardPolicy::All
    };
    let dataset = TableDataset::open_with(Contents::Captions, &data.root, &data.datasets, split, shards)?;
    Ok(Arc::new(dataset))
}

/// Opens a split of the first dataset, for retrieval recalls.
///
/// # Errors
/// Returns the errors of [`open`].
pub fn open_first(data: &DataSpec, split: Split) -> Result<Arc<TableDataset>> {
    let first = DataSpec {
        datasets: data.datasets[..1].to_vec(),
        ..data.clone()
    };
    open(&first, split)
}

/// Returns the settings of a run's loader.
pub fn loader_spec(spec: &RunSpec, mode: Mode) -> LoaderSpec {
    LoaderSpec {
        seed: spec.seed,
        mode,
        batch_size: spec.length.micro_batch as usize,
        threads: spec.data.workers,
        prefetch: PREFETCH,
        end_epoch: (mode == Mode::Evaluate).then_some(1),
    }
}
