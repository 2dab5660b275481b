//! What can go wrong with checkpoints.

use std::{fmt, io, path::PathBuf};

/// Result with a [`CheckpointError`].
pub type Result<T> = std::result::Result<T, CheckpointError>;

/// An error of saving or loading: one line that says what, where and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The new checkpoint could not be written. Nothing of it is left behind.
    #[error("{path}: checkpoint not saved: {source}; {previous}", path = path.display())]
    NotSaved {
        /// The checkpoint's path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
        /// What is there instead.
        previous: Previous,
    },
    /// The file cannot be opened or read.
    #[error("{path}: checkpoint cannot be read: {source}", path = path.display())]
    Unreadable {
        /// The checkpoint's path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file is no checkpoint, or not a whole one.
    #[error("{path}: {reason}", path = path.display())]
    Damaged {
        /// The checkpoint's path.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The checkpoint is whole but does not hold what was asked for.
    #[error("{path}: {reason}", path = path.display())]
    Mismatch {
        /// The checkpoint's path.
        path: PathBuf,
        /// What is missing or differs.
        reason: String,
    },
    /// The tensors handed in cannot be written as a safetensors file.
    #[error("checkpoint cannot be written: {0}")]
    Invalid(String),
}

/// The checkpoint that stood at the path before a save failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Previous {
    /// There was none.
    None,
    /// It is whole; the optimiser step it was taken at, where its state says so.
    Intact(Option<u64>),
    /// There is one, but it was damaged before.
    Damaged,
}

impl fmt::Display for Previous {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Previous::None => write!(f, "there is no earlier checkpoint"),
            Previous::Intact(Some(step)) => write!(f, "the previous checkpoint (step {step}) is intact"),
            Previous::Intact(None) => write!(f, "the previous checkpoint is intact"),
            Previous::Damaged => write!(f, "the previous checkpoint was damaged before this save"),
        }
    }
}
