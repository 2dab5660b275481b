//! What can go wrong in a run.

use crate::checkpoint::{self, CheckpointError};
use crate::config::ConfigError;
use crate::logs::LogError;
use std::path::PathBuf;
use vlct_data::DataError;
use vlct_image::ImageError;
use vlct_model::files::mapping::AdaptError;
use vlct_model::files::{FileError, StateError};
use vlct_tasks::TaskError;
use vlct_util::IoError;

/// An error of a run: one line that says what, where and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// An evaluation.
    #[error(transparent)]
    Task(TaskError),
    /// An image, or how it is to be transformed.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A weight file.
    #[error(transparent)]
    Weights(#[from] FileError),
    /// A tensor in a weight file.
    #[error(transparent)]
    State(#[from] StateError),
    /// A checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A log file.
    #[error(transparent)]
    Log(#[from] LogError),
    /// An error of the operating system.
    #[error(transparent)]
    Io(#[from] IoError),
    /// A loss that is NaN or infinite.
    #[error("loss {loss} is {value} after step {step} (batch rows: {rows}); {checkpoint}")]
    NonFinite {
        /// Which loss.
        loss: &'static str,
        /// What it is.
        value: f32,
        /// Optimiser steps completed before.
        step: u64,
        /// Table and row of each sample.
        rows: String,
        /// Where the last good checkpoint is.
        checkpoint: String,
    },
    /// Weights that are NaN or infinite; they are not saved.
    #[error("weights {name} are not finite after step {step}, so they are not saved; {checkpoint}")]
    NonFiniteWeights {
        /// Which parameter.
        name: String,
        /// Optimiser steps completed.
        step: u64,
        /// Where the last good checkpoint is.
        checkpoint: String,
    },
    /// `data_root` is empty.
    #[error("data_root is not set: name the directory of the Arrow files")]
    MissingDataRoot,
    /// The tokenizer has more tokens than the model has word embeddings.
    #[error("tokenizer={tokenizer:?} has {tokens} tokens, more than vocab_size={vocab_size}: set vocab_size={tokens}")]
    VocabularyTooSmall {
        /// The tokenizer as configured.
        tokenizer: String,
        /// Its tokens.
        tokens: usize,
        /// Word embeddings of the model.
        vocab_size: usize,
    },
    /// A task that this version does not train.
    #[error("loss_names.{task}={value}: this version trains itm, mlm and mae; the task {task} is not there yet")]
    UntrainedTask {
        /// The entry of `loss_names`.
        task: &'static str,
        /// Its value.
        value: f64,
    },
    /// No task is to be trained.
    #[error("no task is active: set loss_names.mlm=1 or loss_names.itm=1")]
    NoTask,
    /// The datasets have no training items.
    #[error("the training split of datasets={datasets:?} is empty: nothing to train on")]
    EmptyTraining {
        /// The datasets as configured.
        datasets: Vec<String>,
    },
    /// The datasets have no test split.
    #[error("there is no test split of {}: name coco, f30k or gcc", datasets.join(", "))]
    NoTestSplit {
        /// The datasets as configured.
        datasets: Vec<String>,
    },
    /// The tensors of a weight file do not fit the model.
    #[error("{path}: {source}", path = path.display())]
    Unfit {
        /// The weight file.
        path: PathBuf,
        /// What does not fit.
        source: AdaptError,
    },
    /// A checkpoint of a model with another number of parameters.
    #[error("{path}: a model of {found} parameters, this configuration has {expected}", path = path.display())]
    OtherModel {
        /// The checkpoint.
        path: PathBuf,
        /// Its number of parameter tensors.
        found: usize,
        /// The number of parameter tensors of the model.
        expected: usize,
    },
    /// The state in a checkpoint is not that of a training run.
    #[error("{path}: not the state of a training run: {source}", path = path.display())]
    NotATrainingRun {
        /// The checkpoint.
        path: PathBuf,
        /// What is missing or has another type.
        source: serde_json::Error,
    },
    /// The state of the run cannot be written as JSON.
    #[error("state of the run: {0}")]
    StateNotWritten(serde_json::Error),
    /// There is nothing to resume.
    #[error(
        "resume_from={resume_from}: no checkpoint there; name a run directory (…/version_0) or its last/{file}",
        file = checkpoint::FILE_NAME
    )]
    NoCheckpoint {
        /// The value of `resume_from`.
        resume_from: String,
    },
    /// Positions are counted in micro-batches, whose size has changed.
    #[error(
        "per_gpu_batchsize was {before} when the run began and is {now} now: resume with the same, or start a new run from its \
         weights with load_path"
    )]
    OtherMicroBatch {
        /// The value when the run began.
        before: u64,
        /// The value in this configuration.
        now: u64,
    },
    /// Another process holds the lock of the run directory.
    #[error(
        "{path}: another process trains in this run directory; wait for it, or stop it first",
        path = path.display()
    )]
    RunInUse {
        /// The run directory.
        path: PathBuf,
    },
    /// The threads of the arithmetic cannot be started.
    #[error("{0}")]
    Threads(String),
}

impl From<TaskError> for TrainError {
    fn from(error: TaskError) -> Self {
        match error {
            TaskError::Data(error) => Self::Data(error),
            other => Self::Task(other),
        }
    }
}

/// Result with a [`TrainError`].
pub type Result<T> = std::result::Result<T, TrainError>;
