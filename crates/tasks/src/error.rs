//! Errors of loading and evaluation.

use std::path::PathBuf;

use vlct_data::DataError;
use vlct_tensor::CollectiveError;
use vlct_util::IoError;

/// An error of this crate. Its message is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TaskError {
    /// An item cannot be read, or a setting of the loader is out of range.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A file of scores cannot be read or written.
    #[error(transparent)]
    Io(#[from] IoError),
    /// An error of the communication between ranks.
    #[error(transparent)]
    Collective(#[from] CollectiveError),
    /// Another process scores the same pairs.
    #[error("{}: another process computes these scores; wait for its end", .0.display())]
    ScoresInUse(PathBuf),
    /// The split has fewer than 10 images, so recall at 10 is not defined.
    #[error("retrieval needs at least 10 images, this split has {0}")]
    TooFewImages(usize),
    /// The images have fewer than 10 captions, so recall at 10 is not defined.
    #[error("retrieval needs at least 10 captions, the images of this split have {0}")]
    TooFewCaptions(usize),
}

/// Result with a [`TaskError`].
pub type Result<T, E = TaskError> = std::result::Result<T, E>;
