//! Errors of descriptions.

use std::path::PathBuf;

use vlct_checkpoint::CheckpointError;
use vlct_model::sizes::SizeError;
use vlct_text::TextError;
use vlct_util::IoError;

/// The reason why a weight file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// The checkpoint of a run is damaged or has an invalid description.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The vocabulary cannot be read.
    #[error(transparent)]
    Text(#[from] TextError),
    /// A file with settings cannot be read.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The weights are those of an image classifier, which reads no texts.
    #[error("{path}: the weights are those of an image classifier, which reads no texts", path = path.display())]
    ImageClassifier {
        /// The file.
        path: PathBuf,
    },
    /// The sizes of the model cannot be derived.
    #[error("{path}: {source}", path = path.display())]
    Sizes {
        /// The weight file.
        path: PathBuf,
        /// The reason.
        source: SizeError,
    },
    /// A setting is invalid, or not supported.
    #[error("{path}: {reason}", path = path.display())]
    Setting {
        /// The file with the setting.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}
