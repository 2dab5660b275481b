//! The cache of Python's `huggingface_hub`: `models--ORG--NAME/{blobs,refs,snapshots,.no_exist}`, and its locks.
//!
//! A file is stored once, under its tag, in `blobs`. `snapshots/COMMIT` has symbolic links with the names of the files, `refs` the commits
//! of branches and tags, and `.no_exist/COMMIT` empty files for names that the commit does not have.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use vlct_util::lock::{Lock, try_lock};
use vlct_util::{at, atomic, read_at_most};

use crate::reference::is_commit;
use crate::{Event, HubError, Repository, Settings};

/// Time between two tries to take a lock.
const LOCK_INTERVAL: Duration = Duration::from_millis(100);
/// Maximum size of a file of `refs` in bytes.
const MAX_REF: u64 = 1 << 20;
/// Maximum number of directories below each other in a snapshot.
const MAX_DEPTH: usize = 8;

/// The part of the cache that belongs to a repository.
pub struct Cache {
    /// The directory of the repository.
    directory: PathBuf,
    /// The directory of the repository's locks.
    locks: PathBuf,
    /// Whether the files of snapshots are symbolic links.
    symlinks: bool,
}

impl Cache {
    /// Returns the cache of a repository. Nothing is created.
    pub fn new(settings: &Settings, repository: &Repository) -> Self {
        let name = format!("models--{}", repository.name().replace('/', "--"));
        Self {
            directory: settings.cache.join(&name),
            locks: settings.cache.join(".locks").join(&name),
            symlinks: settings.symlinks,
        }
    }

    /// Returns the path of the content with a tag.
    pub fn blob(&self, tag: &str) -> PathBuf {
        self.directory.join("blobs").join(tag)
    }

    /// Returns the path of an unfinished download of the content with a tag.
    pub fn incomplete(&self, tag: &str) -> PathBuf {
        self.directory.join("blobs").join(format!("{tag}.incomplete"))
    }

    /// Returns the directory of a commit.
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.directory.join("snapshots").join(commit)
    }

    /// Returns the path of a file of a commit.
    pub fn file(&self, commit: &str, name: &str) -> PathBuf {
        self.snapshot(commit).join(name)
    }

    /// Returns the names of the files of a commit.
    pub fn names(&self, commit: &str) -> Vec<String> {
        let mut names = Vec::new();
        collect_names(&self.snapshot(commit), "", MAX_DEPTH, &mut names);
        names
    }

    /// Returns the commit that a branch, tag or commit had when it was last downloaded.
    pub fn commit(&self, repository: &Repository) -> Option<String> {
        if let Some(commit) = repository.commit() {
            return Some(commit.to_owned());
        }
        let path = self.directory.join("refs").join(repository.revision());
        let text = String::from_utf8(read_at_most(&path, MAX_REF, "a commit").ok()?).ok()?;
        let commit = text.trim();
        is_commit(commit).then(|| commit.to_owned())
    }

    /// Stores the commit of a branch or tag.
    ///
    /// # Errors
    /// Returns [`HubError::Io`] if writing fails.
    pub fn set_commit(&self, repository: &Repository, commit: &str) -> Result<(), HubError> {
        if repository.commit().is_some() || self.commit(repository).as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.directory.join("refs").join(repository.revision());
        create_parent(&path)?;
        atomic::write(&path, |out| out.write_all(commit.as_bytes())).map_err(at(&path))
    }

    /// Returns whether it is known that a commit has no file of this name.
    pub fn is_absent(&self, commit: &str, name: &str) -> bool {
        self.directory.join(".no_exist").join(commit).join(name).exists()
    }

    /// Stores that a commit has no file of this name.
    ///
    /// # Errors
    /// Returns [`HubError::Io`] if writing fails.
    pub fn set_absent(&self, commit: &str, name: &str) -> Result<(), HubError> {
        let path = self.directory.join(".no_exist").join(commit).join(name);
        if path.exists() {
            return Ok(());
        }
        create_parent(&path)?;
        File::create(&path).map(drop).map_err(at(&path))
    }

    /// Gives the content with a tag a name in a commit: by a symbolic link, or where these are not possible by a hard link or a copy.
    ///
    /// # Errors
    /// Returns [`HubError::Io`] if writing fails.
    pub fn link(&self, commit: &str, name: &str, tag: &str) -> Result<(), HubError> {
        let path = self.file(commit, name);
        if path.is_file() {
            return Ok(());
        }
        create_parent(&path)?;
        let up = "../".repeat(2 + name.split('/').count() - 1);
        let target = format!("{up}blobs/{tag}");
        if self.symlinks && symlink(Path::new(&target), &path).is_ok() && path.is_file() {
            return Ok(());
        }
        atomic::link(&self.blob(tag), &path).map_err(at(&path))
    }

    /// Takes the lock of the content with a tag, which Python takes too, and waits while another process has it. The lock ends when the
    /// result is dropped.
    ///
    /// # Errors
    /// Returns [`HubError::Io`] if the file of the lock cannot be created.
    pub fn lock(&self, tag: &str, name: &str, on_event: &mut dyn FnMut(Event)) -> Result<File, HubError> {
        let path = self.locks.join(format!("{tag}.lock"));
        let mut is_waiting = false;
        loop {
            create_parent(&path)?;
            let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
            let file = file.map_err(at::<HubError>(&path))?;
            match try_lock(&file) {
                // The other process may have deleted the file before it released the lock.
                Lock::Acquired if is_same_file(&file, &path) => return Ok(file),
                Lock::Acquired => {}
                Lock::HeldElsewhere => {
                    if !is_waiting {
                        on_event(Event::Waiting { file: name });
                        is_waiting = true;
                    }
                    sleep(LOCK_INTERVAL);
                }
            }
        }
    }
}

/// Appends the names of the files below a directory, with `prefix` before them.
fn collect_names(directory: &Path, prefix: &str, depth: usize, names: &mut Vec<String>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let path = entry.path();
        if path.is_file() {
            names.push(format!("{prefix}{name}"));
        } else if depth > 0 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect_names(&path, &format!("{prefix}{name}/"), depth - 1, names);
        }
    }
}

fn create_parent(path: &Path) -> Result<(), HubError> {
    match path.parent() {
        Some(directory) => fs::create_dir_all(directory).map_err(at(directory)),
        None => Ok(()),
    }
}

/// Makes a symbolic link, replacing one that leads nowhere.
#[cfg(unix)]
fn symlink(target: &Path, path: &Path) -> io::Result<()> {
    if path.symlink_metadata().is_ok() && !path.exists() {
        fs::remove_file(path)?;
    }
    match std::os::unix::fs::symlink(target, path) {
        // Another process was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

#[cfg(not(unix))]
fn symlink(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(unix)]
fn is_same_file(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |metadata: io::Result<fs::Metadata>| metadata.map(|metadata| (metadata.dev(), metadata.ino())).ok();
    id(file.metadata()) == id(fs::metadata(path))
}

#[cfg(not(unix))]
fn is_same_file(_: &File, _: &Path) -> bool {
    true
}
