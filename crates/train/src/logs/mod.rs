//! Logs: metrics.jsonl, TensorBoard events, progress.

pub mod metrics;

use std::{io, path::PathBuf};

/// A log file that cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[error("{path}: log cannot be {action}: {source}", path = path.display())]
pub struct LogError {
    /// The file.
    pub path: PathBuf,
    /// `written`, `opened` or `shortened`.
    pub action: &'static str,
    /// The cause.
    pub source: io::Error,
}

/// Result with a [`LogError`].
pub type Result<T> = std::result::Result<T, LogError>;

mod append;
