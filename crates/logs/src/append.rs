//! A file to which whole records are appended.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// A log file that could not be written or read.
#[derive(Debug, thiserror::Error)]
#[error("{path}: log cannot be {action}: {source}", path = path.display())]
pub struct LogError {
    /// The file.
    pub path: PathBuf,
    /// The operation that failed: `written`, `opened`, `started` or `shortened`.
    pub action: &'static str,
    /// The cause.
    pub source: io::Error,
}

/// Result with a [`LogError`].
pub type Result<T> = std::result::Result<T, LogError>;

/// A file to which records are appended. If a record cannot be written completely, for instance on a full disk, the file is
/// truncated to its previous length, so that it contains no partial records.
#[derive(Debug)]
pub(super) struct AppendFile {
    path: PathBuf,
    file: File,
    length: u64,
}

impl AppendFile {
    /// Opens `path` for appending; creates the file if it is missing.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let open = || -> io::Result<(File, u64)> {
            let file = OpenOptions::new().append(true).create(true).open(path)?;
            let length = file.metadata()?.len();
            Ok((file, length))
        };
        let (file, length) = open().map_err(|source| log_error(path, "opened", source))?;
        let path = path.to_path_buf();
        Ok(Self { path, file, length })
    }

    /// Appends one record. If writing fails, the file is unchanged.
    pub(super) fn append(&mut self, record: &[u8]) -> Result<()> {
        self.file.write_all(record).map_err(|source| {
            // If truncating fails too, the first error is returned.
            let _ = self.file.set_len(self.length);
            log_error(&self.path, "written", source)
        })?;
        self.length += record.len() as u64;
        Ok(())
    }
}

pub(super) fn log_error(path: &Path, action: &'static str, source: io::Error) -> LogError {
    LogError {
        path: path.to_path_buf(),
        action,
        source,
    }
}
