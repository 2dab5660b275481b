//! Errors of this crate. A message is one line: what is wrong, and where.

use std::path::{Path, PathBuf};

use vlct_util::IoError;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// A file cannot be read.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The content of a file is damaged, or is not a vocabulary.
    #[error("{path}: {reason}", path = path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and where in the file.
        reason: String,
    },
    /// The name is not that of a known tokenizer, a file or a directory with a vocabulary.
    #[error("no tokenizer {0:?}: give bert-base-uncased, or the path of a vocab.txt or of a directory that has one")]
    NoTokenizer(String),
}

impl TextError {
    /// Creates a [`Self::Format`].
    pub(crate) fn format(path: &Path, reason: impl Into<String>) -> Self {
        Self::Format {
            path: path.into(),
            reason: reason.into(),
        }
    }
}

/// The result of functions of this crate.
pub type Result<T, E = TextError> = std::result::Result<T, E>;
