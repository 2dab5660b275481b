//! Errors of evaluation.

use vlct_data::DataError;

/// An error of this crate: one line that says what is wrong and where.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TaskError {
    /// The data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A split with fewer images than there are ranks in a recall.
    #[error("retrieval needs at least 10 images, this split has {0}")]
    TooFewImages(usize),
}

/// Result with a [`TaskError`].
pub type Result<T, E = TaskError> = std::result::Result<T, E>;
