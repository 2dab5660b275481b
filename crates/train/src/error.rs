//! What can go wrong in a run.

use crate::checkpoint::CheckpointError;
use crate::config::ConfigError;
use crate::logs::LogError;
use vlct_data::DataError;
use vlct_image::ImageError;
use vlct_model::files::{FileError, StateError};
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
    /// Stopped before there was anything to show.
    #[error("stopped before training began: there is nothing to report")]
    Stopped,
    /// A loss that is no number, or infinite.
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
    /// Weights that are no numbers, or infinite: they are not saved over good ones.
    #[error("weights {name} are not finite after step {step}, so they are not saved; {checkpoint}")]
    NonFiniteWeights {
        /// Which parameter.
        name: String,
        /// Optimiser steps completed.
        step: u64,
        /// Where the last good checkpoint is.
        checkpoint: String,
    },
    /// Something this version cannot do, or that cannot work.
    #[error("{0}")]
    Invalid(String),
}

/// Result with a [`TrainError`].
pub type Result<T> = std::result::Result<T, TrainError>;
