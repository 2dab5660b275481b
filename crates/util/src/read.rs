//! Opening regular files, and reading files of bounded size.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::{IoError, at};

/// Opens a regular file for reading.
///
/// # Errors
/// Returns an error if the file cannot be opened, or if it is a directory, a pipe or a device. The type is checked before opening,
/// because opening a pipe blocks until another process writes to it.
pub fn open_file(path: &Path) -> Result<File, IoError> {
    if !std::fs::metadata(path).map_err(at::<IoError>(path))?.is_file() {
        let reason = "it is not a file; give the path of a file";
        return Err(at(path)(io::Error::new(io::ErrorKind::InvalidInput, reason)));
    }
    File::open(path).map_err(at(path))
}

/// Reads a file of at most `limit` bytes; `limit` is a whole number of MiB. `what` is the kind of file that the caller expects, for
/// the error message: `more than 1 MiB, so not {what}`. The file can be a pipe.
///
/// # Errors
/// Returns an error if the file cannot be read or is larger than `limit`.
pub fn read_at_most(path: &Path, limit: u64, what: &str) -> Result<Vec<u8>, IoError> {
    read_open_file(File::open(path).map_err(at(path))?, path, limit, what)
}

/// Reads an open file, such as that of [`open_file`], as [`read_at_most`] does. `path` is its path, for the error message.
///
/// # Errors
/// Returns an error if the file cannot be read or is larger than `limit`.
pub fn read_open_file(file: File, path: &Path, limit: u64, what: &str) -> Result<Vec<u8>, IoError> {
    let too_large = || {
        let reason = format!("more than {} MiB, so not {what}", limit >> 20);
        at(path)(io::Error::new(io::ErrorKind::FileTooLarge, reason))
    };
    // 0 for a pipe.
    let length = file.metadata().map_err(at::<IoError>(path))?.len();
    if length > limit {
        return Err(too_large());
    }
    let mut bytes = Vec::with_capacity(length as usize);
    // A file that grows meanwhile is read to the limit only.
    file.take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(at::<IoError>(path))?;
    match bytes.len() as u64 > limit {
        true => Err(too_large()),
        false => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_at_most_rejects_larger_files() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let limit = 1 << 20;
        std::fs::write(&path, vec![7; limit]).unwrap();
        assert_eq!(read_at_most(&path, limit as u64, "a note").unwrap(), vec![7; limit]);
        std::fs::write(&path, vec![7; limit + 1]).unwrap();
        let message = read_at_most(&path, limit as u64, "a note").unwrap_err().to_string();
        assert_eq!(message, format!("{}: more than 1 MiB, so not a note", path.display()));
    }

    #[test]
    fn open_file_rejects_directories() {
        let directory = tempfile::tempdir().unwrap();
        let message = open_file(directory.path()).unwrap_err().to_string();
        assert!(
            message.ends_with("it is not a file; give the path of a file"),
            "{message}"
        );
    }
}
