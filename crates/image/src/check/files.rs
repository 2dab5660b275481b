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

/// The largest file that is read, in bytes: more than the largest image, uncompressed, with four channels of 16 bits.
const LARGEST_FILE: u64 = 1 << 30;

/// Limit of the file contents in memory at a time, in bytes.
const FILES_AT_ONCE: u64 = LARGEST_FILE;

/// Limit of the memory of all decoders at a time, in bytes: two of the largest images.
const PIXELS_AT_ONCE: u64 = 2 << 30;

/// Bytes of a file that suffice to detect its format.
const START: u64 = 64;

/// The result of checking a file.
#[derive(Debug)]
pub enum Verdict {
    /// It is a complete image.
    Fine,
    /// It is not an image, is damaged, or Pillow would warn.
    Bad(Flaw),
    /// It cannot be read, so nothing is known about its content.
    Unread(io::Error),
}

/// Checks files with [`check`], in bounded memory.
pub struct Checker {
    tolerate_warnings: bool,
    files: Gate,
    pixels: Gate,
}

impl Checker {
    /// With `tolerate_warnings`, a file is fine if it can be decoded. The original also rejects files that Pillow warns about.
    pub fn new(tolerate_warnings: bool) -> Self {
        Self {
            tolerate_warnings,
            files: Gate::new(FILES_AT_ONCE),
            pixels: Gate::new(PIXELS_AT_ONCE),
        }
    }

    /// Checks files in parallel and returns one verdict for each, in their order. Files and images take at most about 3 GiB of
    /// memory for any number of threads.
    pub fn check_all(&self, paths: &[PathBuf]) -> Vec<Verdict> {
        paths.par_iter().map(|path| self.check(path)).collect()
    }

    /// Checks one file. Waits while other threads use the memory that it needs.
    pub fn check(&self, path: &Path) -> Verdict {
        match self.flaw(path) {
            Ok(None) => Verdict::Fine,
            Ok(Some(Flaw::Warning(_))) if self.tolerate_warnings => Verdict::Fine,
            Ok(Some(flaw)) => Verdict::Bad(flaw),
            Err(error) => Verdict::Unread(error),
        }
    }

    fn flaw(&self, path: &Path) -> io::Result<Option<Flaw>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        let mut bytes = Vec::new();
        Read::by_ref(&mut file).take(START).read_to_end(&mut bytes)?;
        if let Err(error) = decode::format_of(&bytes) {
            return Ok(Some(Flaw::Damaged(error.to_string())));
        }
        if length > LARGEST_FILE {
            let limit = LARGEST_FILE >> 30;
            return Ok(Some(Flaw::Damaged(format!("a file of more than {limit} GiB"))));
        }
        // The gates are always entered in this order, so threads cannot deadlock.
        let _file = self.files.enter(length);
        file.take(LARGEST_FILE).read_to_end(&mut bytes)?;
        let _pixels = self.pixels.enter(decode::memory_for(&bytes));
        Ok(check(&bytes))
    }
}

/// A counting semaphore: threads enter while their sizes sum to at most a limit.
struct Gate {
    limit: u64,
    free: Mutex<u64>,
    left: Condvar,
}

/// A share of a [`Gate`], released when dropped.
struct Place<'a> {
    gate: &'a Gate,
    size: u64,
}

impl Gate {
    fn new(limit: u64) -> Self {
        Self {
            limit,
            free: Mutex::new(limit),
            left: Condvar::new(),
        }
    }

    /// Waits until `size` is free. A size above the limit counts as the limit.
    fn enter(&self, size: u64) -> Place<'_> {
        let size = size.min(self.limit);
        // The count is valid even if another thread panicked while it held the lock.
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = self
            .left
            .wait_while(free, |free| *free < size)
            .unwrap_or_else(PoisonError::into_inner);
        *free -= size;
        Place { gate: self, size }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        *self.gate.free.lock().unwrap_or_else(PoisonError::into_inner) += self.size;
        self.gate.left.notify_all();
    }
}

/// Iterates over all regular files below a directory, hidden ones included, sorted by name within each directory. Symbolic links
/// below `directory` are not followed.
///
/// # Errors
/// An item is [`ImageError::Io`](crate::ImageError::Io) if a directory cannot be read; the iteration continues after it.
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
    fn gate_never_exceeds_its_limit() {
        use std::sync::atomic::{AtomicU64, Ordering};
        let (gate, inside, most) = (Gate::new(10), AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for thread in 0..8u64 {
                let (gate, inside, most) = (&gate, &inside, &most);
                scope.spawn(move || {
                    for round in 0..200 {
                        // Some sizes exceed the limit; they count as the limit.
                        let size = (thread * 7 + round) % 13;
                        let _place = gate.enter(size);
                        let now = inside.fetch_add(size.min(10), Ordering::SeqCst) + size.min(10);
                        most.fetch_max(now, Ordering::SeqCst);
                        std::thread::yield_now();
                        inside.fetch_sub(size.min(10), Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(most.into_inner(), 10);
        assert_eq!(*gate.free.lock().unwrap(), 10);
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
        let odd = OsStr::from_bytes(b"z \xff.jpg");
        for name in ["b/.c/x y.jpg", "b/.hidden", "a"]
            .map(OsStr::new)
            .into_iter()
            .chain([odd])
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
                .chain([odd])
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
    fn unreadable_files_are_not_bad_images() {
        let directory = tempfile::tempdir().unwrap();
        let checker = Checker::new(false);
        assert!(matches!(
            checker.check(&directory.path().join("gone.jpg")),
            Verdict::Unread(_)
        ));
        assert!(matches!(checker.check(directory.path()), Verdict::Unread(_)));
    }
}
