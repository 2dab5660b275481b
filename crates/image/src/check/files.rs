//! Checking many files, on all cores and in bounded memory.

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

/// The largest file that is read: a picture of the most pixels, uncompressed, with four channels of 16 bits.
const LARGEST_FILE: u64 = 1 << 30;

/// Bytes of files that may be in memory at once.
const FILES_AT_ONCE: u64 = LARGEST_FILE;

/// Bytes that pictures may take at once while they are decoded: two of the largest.
const PIXELS_AT_ONCE: u64 = 2 << 30;

/// Enough of a file to know its format.
const START: u64 = 64;

/// What has been found out about a file.
#[derive(Debug)]
pub enum Verdict {
    /// It is a picture, and whole.
    Fine,
    /// It is not.
    Bad(Flaw),
    /// The system would not read it, which says nothing about the picture.
    Unread(io::Error),
}

/// Checks files with [`check`].
pub struct Checker {
    tolerate_warnings: bool,
    files: Gate,
    pixels: Gate,
}

impl Checker {
    /// With `tolerate_warnings`, a file is fine if it can be decoded; the original also rejects what Pillow would warn of.
    pub fn new(tolerate_warnings: bool) -> Self {
        Self {
            tolerate_warnings,
            files: Gate::new(FILES_AT_ONCE),
            pixels: Gate::new(PIXELS_AT_ONCE),
        }
    }

    /// Checks files in parallel; one verdict for each, in their order. However many threads there are, the pictures in memory
    /// take no more than about 3 GiB.
    pub fn check_all(&self, paths: &[PathBuf]) -> Vec<Verdict> {
        paths.par_iter().map(|path| self.check(path)).collect()
    }

    /// Checks one file.
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
        // Who waits at the second gate holds a place behind the first, but never the other way round.
        let _file = self.files.enter(length);
        file.take(LARGEST_FILE).read_to_end(&mut bytes)?;
        let _pixels = self.pixels.enter(decode::memory_for(&bytes));
        Ok(check(&bytes))
    }
}

/// Lets threads in as long as what they need together does not exceed a limit.
struct Gate {
    limit: u64,
    free: Mutex<u64>,
    left: Condvar,
}

/// A place behind a [`Gate`], given back when dropped.
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

    /// Waits for room. Who needs more than the limit gets in alone.
    fn enter(&self, size: u64) -> Place<'_> {
        let size = size.min(self.limit);
        // Numbers are never left half-changed: a panic elsewhere does not matter here.
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

/// All files in a folder and the folders in it, hidden ones included, sorted by name folder by folder. Symbolic links below
/// `folder` are not followed and, like pipes and devices, passed over.
///
/// # Errors
/// Each item can be one: [`ImageError::Io`] of a folder that cannot be read. The walk goes on after it.
pub fn files_under(folder: &Path) -> impl Iterator<Item = Result<PathBuf>> + use<> {
    let root = folder.to_path_buf();
    let walk = WalkDir::new(folder).sort_by_file_name().into_iter();
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
    fn a_gate_never_lets_in_more_than_its_limit() {
        use std::sync::atomic::{AtomicU64, Ordering};
        let (gate, inside, most) = (Gate::new(10), AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for thread in 0..8u64 {
                let (gate, inside, most) = (&gate, &inside, &most);
                scope.spawn(move || {
                    for round in 0..200 {
                        // Some need more than there is; they count as all of it.
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
    fn the_walk_takes_hidden_files_and_leaves_links_alone() {
        use std::ffi::OsStr;
        use std::fs;
        use std::os::unix::ffi::OsStrExt;
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        fs::create_dir_all(root.join("b/.c")).unwrap();
        let odd = OsStr::from_bytes(b"z \xff.jpg");
        for name in ["b/.c/x y.jpg", "b/.hidden", "a"]
            .map(OsStr::new)
            .into_iter()
            .chain([odd])
        {
            fs::write(root.join(name), "x").unwrap();
        }
        fs::create_dir(folder.path().join("outside")).unwrap();
        fs::write(folder.path().join("outside/file"), "x").unwrap();
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
        // The folder itself may be a link.
        fs::remove_file(root.join("link")).unwrap();
        std::os::unix::fs::symlink("root", folder.path().join("named")).unwrap();
        assert_eq!(files_under(&folder.path().join("named")).count(), 4);
        assert!(files_under(Path::new("no such folder")).next().unwrap().is_err());
    }

    #[test]
    fn what_the_system_will_not_read_is_no_bad_picture() {
        let folder = tempfile::tempdir().unwrap();
        let checker = Checker::new(false);
        assert!(matches!(
            checker.check(&folder.path().join("gone.jpg")),
            Verdict::Unread(_)
        ));
        assert!(matches!(checker.check(folder.path()), Verdict::Unread(_)));
    }
}
