//! An I/O error that names its path.

use std::io;
use std::path::{Path, PathBuf};

/// An error of the operating system and the file or directory that it concerns.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}", path = path.display())]
pub struct IoError {
    /// The file or directory.
    pub path: PathBuf,
    /// The error of the operating system.
    pub source: io::Error,
}

/// Returns a function that adds `path` to an [`io::Error`], for `map_err`: `std::fs::read(path).map_err(at(path))?`.
pub fn at<E: From<IoError>>(path: impl AsRef<Path>) -> impl Fn(io::Error) -> E {
    move |source| {
        E::from(IoError {
            path: path.as_ref().to_path_buf(),
            source,
        })
    }
}
