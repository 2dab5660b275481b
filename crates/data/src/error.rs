//! What can go wrong with data.

use std::path::PathBuf;

/// An error of this crate: one line that says what, where and, if it can be known, what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The operating system refused.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{path}: {reason}", path = path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A picture that cannot be decoded.
    #[error("picture cannot be decoded: {0}")]
    Picture(String),
    /// A request that makes no sense (an unknown name, a size of zero, …).
    #[error("{0}")]
    Invalid(String),
}

/// Result with a [`DataError`].
pub type Result<T> = std::result::Result<T, DataError>;
