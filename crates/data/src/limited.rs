//! Small files, read whole.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::{DataError, Result};

/// Reads a file of at most `limit` bytes, a whole number of MiB; `what` says what larger ones are not.
///
/// # Errors
/// [`DataError::Io`] if it cannot be read, [`DataError::Format`] if it is larger.
pub(crate) fn read_at_most(path: &Path, limit: u64, what: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(limit + 1).read_to_end(&mut bytes))
        .map_err(|source| DataError::Io {
            path: path.into(),
            source,
        })?;
    if bytes.len() as u64 > limit {
        return Err(DataError::Format {
            path: path.into(),
            reason: format!("more than {} MiB, so not {what}", limit >> 20),
        });
    }
    Ok(bytes)
}
