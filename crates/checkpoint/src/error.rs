//! Errors of checkpoints.

use std::{fmt, io, path::PathBuf};

/// Result with a [`CheckpointError`].
pub type Result<T> = std::result::Result<T, CheckpointError>;

/// An error of saving or loading a checkpoint. Its message is one line with the cause. The messages of all variants except `Invalid`
/// begin with the path.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The new checkpoint could not be written. No partial file remains.
    #[error("{path}: checkpoint not saved: {source}; {previous}", path = path.display())]
    NotSaved {
        /// The checkpoint's path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
        /// The previous checkpoint at the path.
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
    /// The file is not a checkpoint, or it is damaged or incomplete.
    #[error("{path}: {reason}", path = path.display())]
    Damaged {
        /// The checkpoint's path.
        path: PathBuf,
        /// The cause.
        reason: String,
    },
    /// The checkpoint is intact, but lacks the requested tensor, or the tensor has another shape, or the description is invalid.
    #[error("{path}: {reason}", path = path.display())]
    Mismatch {
        /// The checkpoint's path.
        path: PathBuf,
        /// The cause.
        reason: String,
    },
    /// The given tensors cannot be written as a safetensors file.
    #[error("checkpoint cannot be written: {0}")]
    Invalid(String),
}

/// The checkpoint that existed at a path before a save failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Previous {
    /// There was no checkpoint.
    None,
    /// The checkpoint is intact. The number is the optimiser step in the checkpoint's state; `None` if the state has no step.
    Intact(Option<u64>),
    /// The checkpoint was damaged before the save.
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
