//! Files mapped into memory.

use std::fs::File;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::{DataError, Result};

/// A file mapped into memory, to be read in place; it dereferences to its bytes.
///
/// The file must not be changed while it is mapped (replacing it by renaming another over it is fine).
#[derive(Debug)]
pub(crate) struct MappedFile {
    path: PathBuf,
    map: Mmap,
}

impl MappedFile {
    /// Maps the file.
    ///
    /// # Errors
    /// [`DataError::Io`] if it cannot be opened, [`DataError::Format`] if it is not a file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_path_buf();
        let io = |source| DataError::Io {
            path: path.clone(),
            source,
        };
        // Before opening: to open a pipe would wait for its writer.
        if !std::fs::metadata(&path).map_err(io)?.is_file() {
            return Err(DataError::Format {
                path,
                reason: "it is not a file; give the path of a file".into(),
            });
        }
        let file = File::open(&path).map_err(io)?;
        // SAFETY: the mapping is only read. A file that another process truncates meanwhile ends this process with SIGBUS;
        // the documentation of the type excludes that, and our own writers replace files by renaming.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        Ok(Self { path, map })
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file's name without its ending.
    pub fn stem(&self) -> &str {
        self.path.file_stem().and_then(|s| s.to_str()).unwrap_or("table")
    }

    /// An error about this file.
    pub fn error(&self, reason: impl Into<String>) -> DataError {
        DataError::Format {
            path: self.path.clone(),
            reason: reason.into(),
        }
    }

    /// Takes the pages of the file out of this process's memory; they stay in the system's cache and return when they are
    /// read. Called now and then, it keeps the memory of a walk through a file small.
    pub fn release_pages(&self) {
        #[cfg(unix)]
        {
            // SAFETY: the mapping is read-only and backed by the file, so a dropped page reads the same when it
            // returns. Failure is harmless: the pages stay.
            let _ = unsafe { self.map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
        }
    }

    /// Announces that little of the file will be read, here and there (`true`), or much of it (`false`): decides how far the
    /// system reads ahead.
    pub fn expect_gaps(&self, gaps: bool) {
        #[cfg(unix)]
        {
            let advice = if gaps {
                memmap2::Advice::Random
            } else {
                memmap2::Advice::Normal
            };
            // Failure is harmless: more is read than need be.
            let _ = self.map.advise(advice);
        }
        #[cfg(not(unix))]
        let _ = gaps;
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}
