//! What can go wrong with an image.

use vlct_util::IoError;

/// An error of this crate: one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// A file or directory cannot be read.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The bytes are not an image that can be decoded.
    #[error("picture cannot be decoded: {0}")]
    Decode(String),
    /// An argument is out of range or inconsistent with another.
    #[error("{0}")]
    Invalid(String),
}

/// Result with an [`ImageError`].
pub type Result<T, E = ImageError> = std::result::Result<T, E>;
