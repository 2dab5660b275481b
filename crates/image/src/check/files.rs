//! Checks of many files, on all cores and in bounded memory.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};

use rayon::prelude::*;
use walkdir::WalkDir;

use super::super::decode;
use super::{Flaw, check};
use crate::Result;
use vlct_util::at;

/// Maximum size of a file that is read, in bytes: more than the largest image, uncompressed, with four channels of 16 bits.
const MAX_FILE: u64 = 1 << 30;

/// Maximum total size of the files in memory, in bytes.
const FILE_MEMORY: u64 = MAX_FILE;

/// Maximum total memory of all decoders, in bytes: enough for two of the largest images.
const DECODER_MEMORY: u64 = 2 << 30;

/// Number of bytes at the start of a file that suffice to detect its format.
const FORMAT_BYTES: u64 = 64;

/// Extensions of the captions, tables and archives that datasets have beside images.
const DATA_EXTENSIONS: [&str; 19] = [
    "txt", "text", "caption", "captions", "json", "jsonl", "csv", "tsv", "parquet", "arrow", "tar", "zip", "gz", "tgz",
    "npy", "npz", "pkl", "md", "toml",
];

/// Returns whether the name of a file is that of a text, a table or an archive.
fn is_data(path: &Path) -> bool {
    let extension = path
        .extension()
        .and_then(|extension| extension.to_str())
        .unwrap_or_default();
    DATA_EXTENSIONS.iter().any(|data| data.eq_ignore_ascii_case(extension))
}

/// Returns whether the first bytes of a file are those of an image.
fn begins_as_image(path: &Path) -> bool {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(FORMAT_BYTES).read_to_end(&mut bytes));
    read.is_ok() && decode::format_of(&bytes).is_ok()
}

/// The result of checking a file.
#[derive(Debug)]
pub enum Verdict {
    /// The file is a complete image.
    Fine,
    /// The file is not an image or is damaged, or Pillow would warn about it.
    Bad(Flaw),
    /// The file cannot be decoded by this crate, for this reason (one line). It may be a good image.
    Unsupported(String),
    /// A text, a table or an archive by its name (`DATA_EXTENSIONS`) and not an image by its content, such as the caption beside an
    /// image.
    Data,
    /// The file cannot be read, so nothing is known about its content.
    Unreadable(io::Error),
}

/// Checks files with [`check`], in bounded memory.
pub struct Checker {
    tolerate_warnings: bool,
    file_memory: Semaphore,
    decoder_memory: Semaphore,
}

impl Checker {
    /// Creates a checker. With `tolerate_warnings`, every file that can be decoded is fine, unless Pillow rejects it. The original rejects
    /// files that Pillow warns about.
    pub fn new(tolerate_warnings: bool) -> Self {
        Self {
            tolerate_warnings,
            file_memory: Semaphore::new(FILE_MEMORY),
            decoder_memory: Semaphore::new(DECODER_MEMORY),
        }
    }

    /// Checks files in parallel and returns their verdicts in the same order. Files and images take at most about 3 GiB of memory
    /// for any number of threads.
    pub fn check_all(&self, paths: &[PathBuf]) -> Vec<Verdict> {
        paths.par_iter().map(|path| self.check(path)).collect()
    }

    /// Checks one file. Waits while other threads use the memory that this check needs.
    pub fn check(&self, path: &Path) -> Verdict {
        match self.flaw(path) {
            Ok(None) => Verdict::Fine,
            Ok(Some(Flaw::Warning(_))) if self.tolerate_warnings => Verdict::Fine,
            Ok(Some(Flaw::TooLarge(reason))) if self.tolerate_warnings => Verdict::Unsupported(reason),
            Ok(Some(Flaw::Unsupported(reason))) => Verdict::Unsupported(reason),
            Ok(Some(Flaw::Damaged(_))) if is_data(path) && !begins_as_image(path) => Verdict::Data,
            Ok(Some(flaw)) => Verdict::Bad(flaw),
            Err(error) => Verdict::Unreadable(error),
        }
    }

    fn flaw(&self, path: &Path) -> io::Result<Option<Flaw>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        let mut bytes = Vec::new();
        Read::by_ref(&mut file).take(FORMAT_BYTES).read_to_end(&mut bytes)?;
        if let Err(error) = decode::format_of(&bytes) {
            return Ok(Some(Flaw::of(&error)));
        }
        if length > MAX_FILE {
            let limit = MAX_FILE >> 30;
            return Ok(Some(Flaw::Unsupported(format!("a file of more than {limit} GiB"))));
        }
        // The semaphores are always acquired in this order, so threads cannot deadlock.
        let _file_permit = self.file_memory.acquire(length);
        file.take(MAX_FILE).read_to_end(&mut bytes)?;
        let _decoder_permit = self.decoder_memory.acquire(decode::memory_for(&bytes));
        Ok(check(&bytes))
    }
}

/// A counting semaphore: the sizes of all permits sum to at most a limit.
struct Semaphore {
    limit: u64,
    free: Mutex<u64>,
    released: Condvar,
}

/// A share of a [`Semaphore`], released when dropped.
struct Permit<'a> {
    semaphore: &'a Semaphore,
    size: u64,
}

impl Semaphore {
    fn new(limit: u64) -> Self {
        Self {
            limit,
            free: Mutex::new(limit),
            released: Condvar::new(),
        }
    }

    /// Waits until `size` is free. A size above the limit counts as the limit.
    fn acquire(&self, size: u64) -> Permit<'_> {
        let size = size.min(self.limit);
        // The count is valid even if another thread has panicked with the lock held.
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = self
            .released
            .wait_while(free, |free| *free < size)
            .unwrap_or_else(PoisonError::into_inner);
        *free -= size;
        Permit { semaphore: self, size }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        *self.semaphore.free.lock().unwrap_or_else(PoisonError::into_inner) += self.size;
        self.semaphore.released.notify_all();
    }
}

/// Iterates over all regular files below a directory, hidden ones included, sorted by name within each directory. Symbolic links
/// below `directory` are not followed.
///
/// # Errors
/// Yields [`ImageError::Io`](crate::ImageError::Io) for a directory that cannot be read, and continues with the next entry.
pub fn files_under(directory: &Path) -> impl Iterator<Item = Result<PathBuf>> + use<> {
    let root = directory.to_path_buf();
    let walk = WalkDir::new(directory).sort_by_file_name().into_iter();
    walk.filter_map(move |entry| match entry {
        Ok(entry) => entry.file_type().is_file().then(|| Ok(entry.into_path())),
        Err(error) => {
            let path = error.path().unwrap_or(&root).to_path_buf();
            Some(Err(at(path)(error.into())))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn semaphore_never_exceeds_its_limit() {
        use std::sync::atomic::{AtomicU64, Ordering};
        let (semaphore, acquired, max) = (Semaphore::new(10), AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for thread in 0..8u64 {
                let (semaphore, acquired, max) = (&semaphore, &acquired, &max);
                scope.spawn(move || {
                    for round in 0..200 {
                        // Some sizes exceed the limit; they count as the limit.
                        let size = (thread * 7 + round) % 13;
                        let _permit = semaphore.acquire(size);
                        let total = acquired.fetch_add(size.min(10), Ordering::SeqCst) + size.min(10);
                        max.fetch_max(total, Ordering::SeqCst);
                        std::thread::yield_now();
                        acquired.fetch_sub(size.min(10), Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(max.into_inner(), 10);
        assert_eq!(*semaphore.free.lock().unwrap(), 10);
    }

    #[cfg(unix)]
    #[test]
    fn lists_hidden_files_and_skips_links() {
        use std::ffi::OsStr;
        use std::fs;
        use std::os::unix::ffi::OsStrExt;
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        fs::create_dir_all(root.join("b/.c")).unwrap();
        let not_utf8 = OsStr::from_bytes(b"z \xff.jpg");
        for name in ["b/.c/x y.jpg", "b/.hidden", "a"]
            .map(OsStr::new)
            .into_iter()
            .chain([not_utf8])
        {
            fs::write(root.join(name), "x").unwrap();
        }
        fs::create_dir(directory.path().join("outside")).unwrap();
        fs::write(directory.path().join("outside/file"), "x").unwrap();
        std::os::unix::fs::symlink("../outside", root.join("link")).unwrap();
        std::os::unix::fs::symlink("../outside/file", root.join("file link")).unwrap();
        let found: Vec<PathBuf> = files_under(&root).map(Result::unwrap).collect();
        let expected = ["a", "b/.c/x y.jpg", "b/.hidden"].map(OsStr::new);
        assert_eq!(
            found,
            expected
                .into_iter()
                .chain([not_utf8])
                .map(|name| root.join(name))
                .collect::<Vec<_>>()
        );
        // The root may be a symbolic link.
        fs::remove_file(root.join("link")).unwrap();
        std::os::unix::fs::symlink("root", directory.path().join("named")).unwrap();
        assert_eq!(files_under(&directory.path().join("named")).count(), 4);
        assert!(files_under(Path::new("no such directory")).next().unwrap().is_err());
    }

    #[test]
    fn captions_and_tables_are_not_bad_images() {
        let directory = tempfile::tempdir().unwrap();
        let verdict = |name: &str, content: &[u8]| {
            let path = directory.path().join(name);
            std::fs::write(&path, content).unwrap();
            Checker::new(false).check(&path)
        };
        for name in ["a.txt", "b.JSON", "metadata.jsonl", "c.caption", "d.csv"] {
            assert!(matches!(verdict(name, b"a dog"), Verdict::Data), "{name}");
        }
        assert!(matches!(verdict("e.txt", b""), Verdict::Data), "an empty caption");
        for name in ["a.jpg", "page.html", "no_extension"] {
            assert!(matches!(verdict(name, b"a dog"), Verdict::Bad(_)), "{name}");
        }
        assert!(
            matches!(verdict("f.txt", b"\xff\xd8\xff\xe0 damaged"), Verdict::Bad(_)),
            "an image by its content"
        );
    }

    #[test]
    fn unreadable_files_are_not_bad_images() {
        let directory = tempfile::tempdir().unwrap();
        let checker = Checker::new(false);
        assert!(matches!(
            checker.check(&directory.path().join("gone.jpg")),
            Verdict::Unreadable(_)
        ));
        assert!(matches!(checker.check(directory.path()), Verdict::Unreadable(_)));
    }
}
