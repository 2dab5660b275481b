//! Errors of loading and evaluation.

use vlct_data::DataError;

/// An error of this crate. Its message is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TaskError {
    /// An item cannot be read, or a setting of the loader is out of range.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The split has fewer than 10 images, so recall at 10 is not defined.
    #[error("retrieval needs at least 10 images, this split has {0}")]
    TooFewImages(usize),
}

/// Result with a [`TaskError`].
pub type Result<T, E = TaskError> = std::result::Result<T, E>;
