//! Memory-mapped files.

use std::fs::File;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::{IoError, at, open_file};

/// A memory-mapped file. It dereferences to its bytes.
///
/// The file must not be changed while it is mapped; replacing it by renaming another file over it is fine.
#[derive(Debug)]
pub struct MappedFile {
    path: PathBuf,
    map: Mmap,
}

impl MappedFile {
    /// Opens and maps a file.
    ///
    /// # Errors
    /// Returns an error if the path cannot be opened or is not a regular file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, IoError> {
        let path = path.as_ref();
        Self::of_file(path, &open_file(path)?)
    }

    /// Maps an open file. `path` names it in messages.
    ///
    /// # Errors
    /// Returns an error if the file cannot be mapped.
    pub fn of_file(path: &Path, file: &File) -> Result<Self, IoError> {
        let path = path.to_path_buf();
        // SAFETY: the mapping is only read. If another process truncated the mapped file, the system would end this process with
        // SIGBUS; the documentation of the type forbids changes of the file, and this program's writers replace files by renaming.
        let map = unsafe { Mmap::map(file) }.map_err(at::<IoError>(&path))?;
        Ok(Self { path, map })
    }

    /// The path that the file was opened under.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file name without its extension, or the text `table` if the path has no file name or the name is not UTF-8.
    pub fn stem(&self) -> &str {
        self.path.file_stem().and_then(|s| s.to_str()).unwrap_or("table")
    }

    /// Removes the pages of the file from this process's resident memory. The pages stay in the page cache, and the next read maps
    /// them again. Regular calls bound the resident memory of a sequential read.
    pub fn release_pages(&self) {
        #[cfg(unix)]
        {
            // SAFETY: the mapping is read-only and backed by the file, so a dropped page reads the same when it is mapped again. A
            // failure is harmless: the pages stay resident.
            let _ = unsafe { self.map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
        }
    }

    /// Advises the operating system that reads are sparse (`true`: no read-ahead) or sequential (`false`).
    pub fn advise_sparse_reads(&self, sparse: bool) {
        #[cfg(unix)]
        {
            let advice = if sparse {
                memmap2::Advice::Random
            } else {
                memmap2::Advice::Normal
            };
            // A failure is harmless: the system only reads more than necessary.
            let _ = self.map.advise(advice);
        }
        #[cfg(not(unix))]
        let _ = sparse;
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}
