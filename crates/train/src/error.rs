//! Errors of a run.

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

/// An error of a run. Its message is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// An error of the configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An error of the data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// An error of an evaluation.
    #[error(transparent)]
    Task(TaskError),
    /// An error of an image or an image transform.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// An error of a weight file.
    #[error(transparent)]
    Weights(#[from] FileError),
    /// An error of a tensor in a weight file.
    #[error(transparent)]
    State(#[from] StateError),
    /// An error of a checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// An error of a log file.
    #[error(transparent)]
    Log(#[from] LogError),
    /// An error of the operating system.
    #[error(transparent)]
    Io(#[from] IoError),
    /// A loss is NaN or infinite.
    #[error("loss {loss} is {value} after step {step} (batch rows: {rows}); {checkpoint}")]
    NonFinite {
        /// Short name of the loss.
        loss: &'static str,
        /// NaN or an infinity.
        value: f32,
        /// Number of optimiser steps completed before the loss was computed.
        step: u64,
        /// File and row of each sample.
        rows: String,
        /// A clause with the path of the last checkpoint.
        checkpoint: String,
    },
    /// Weights are NaN or infinite, so they are not saved.
    #[error("weights {name} are not finite after step {step}, so they are not saved; {checkpoint}")]
    NonFiniteWeights {
        /// Name of the parameter.
        name: String,
        /// Number of completed optimiser steps.
        step: u64,
        /// A clause with the path of the last checkpoint.
        checkpoint: String,
    },
    /// `data_root` is empty.
    #[error("data_root is not set: set it to the directory of the Arrow files")]
    MissingDataRoot,
    /// The tokenizer has more tokens than the model has word embeddings.
    #[error("tokenizer={tokenizer:?} has {tokens} tokens, more than vocab_size={vocab_size}: set vocab_size={tokens}")]
    VocabularyTooSmall {
        /// The tokenizer as configured.
        tokenizer: String,
        /// Number of tokens of the tokenizer.
        tokens: usize,
        /// Number of word embeddings of the model.
        vocab_size: usize,
    },
    /// The configuration activates a task that this version does not train.
    #[error("loss_names.{task}={value}: this version trains itm, mlm and mae, not {task}")]
    UntrainedTask {
        /// The entry of `loss_names`.
        task: &'static str,
        /// The value of the entry.
        value: f64,
    },
    /// No task is active.
    #[error("no task is active: set loss_names.mlm=1 or loss_names.itm=1")]
    NoTask,
    /// The training split of the datasets is empty.
    #[error("the training split of datasets={datasets:?} is empty")]
    EmptyTraining {
        /// The datasets as configured.
        datasets: Vec<String>,
    },
    /// The datasets have no test split.
    #[error("there is no test split of {}: use coco, f30k or gcc", datasets.join(", "))]
    NoTestSplit {
        /// The datasets as configured.
        datasets: Vec<String>,
    },
    /// The tensors of a weight file do not fit the model.
    #[error("{path}: {source}", path = path.display())]
    WeightsMismatch {
        /// The weight file.
        path: PathBuf,
        /// The cause.
        source: AdaptError,
    },
    /// The model of a checkpoint has another number of parameter tensors than the model of this configuration.
    #[error("{path}: the checkpoint has {found} parameter tensors, the model of this configuration has {expected}", path = path.display())]
    OtherModel {
        /// The checkpoint.
        path: PathBuf,
        /// Number of parameter tensors of the checkpoint.
        found: usize,
        /// Number of parameter tensors of the model.
        expected: usize,
    },
    /// The state in a checkpoint is not that of a training run.
    #[error("{path}: not the state of a training run: {source}", path = path.display())]
    NotATrainingRun {
        /// The checkpoint.
        path: PathBuf,
        /// The cause: a field is missing or has another type.
        source: serde_json::Error,
    },
    /// The state of the run cannot be written as JSON.
    #[error("the state of the run cannot be written: {0}")]
    StateNotWritten(serde_json::Error),
    /// There is no checkpoint to resume from.
    #[error(
        "resume_from={resume_from}: there is no checkpoint; give a run directory (…/version_0) or its last/{file}",
        file = checkpoint::FILE_NAME
    )]
    NoCheckpoint {
        /// The value of `resume_from`.
        resume_from: String,
    },
    /// The resumed run had micro-batches of another size, and its position in the data is counted in micro-batches.
    #[error(
        "per_gpu_batchsize was {before} when the run began and is {now} now: resume with {before}, or start a new run from the \
         weights with load_path"
    )]
    OtherMicroBatchSize {
        /// The value when the run began.
        before: u64,
        /// The value in this configuration.
        now: u64,
    },
    /// Another process holds the lock of the run directory.
    #[error(
        "{path}: another process trains in this run directory; wait until that process ends, or stop it",
        path = path.display()
    )]
    RunInUse {
        /// The run directory.
        path: PathBuf,
    },
    /// The compute threads cannot be started.
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
