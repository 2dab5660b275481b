//! Lists directories recursively. Hidden files and directories are skipped, and symbolic links are followed.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::{PrepareError, Result};
use vlct_util::at;

/// Maximum depth of directories. There is a maximum because symbolic links can form a cycle.
const MAX_DEPTH: usize = 32;

/// Adds a directory and the directories in it to `found`, each with the sorted names of its files.
///
/// # Errors
/// Returns an error if a directory cannot be read, or if directories are nested more than [`MAX_DEPTH`] deep.
pub(super) fn collect_directories(directory: &Path, found: &mut Vec<(PathBuf, Vec<OsString>)>) -> Result<()> {
    collect(directory, 0, found)
}

fn collect(directory: &Path, depth: usize, found: &mut Vec<(PathBuf, Vec<OsString>)>) -> Result<()> {
    if depth > MAX_DEPTH {
        let reason = format!("it is more than {MAX_DEPTH} directories deep; is it a link to one of its parents?");
        return Err(PrepareError::malformed(directory, reason));
    }
    let (directories, files) = entries(directory)?;
    found.push((directory.to_path_buf(), files));
    for name in directories {
        collect(&directory.join(name), depth + 1, found)?;
    }
    Ok(())
}

/// Returns the sorted names of the directories in `directory` and those of the files.
///
/// # Errors
/// Returns an error if the directory cannot be read.
pub(super) fn entries(directory: &Path) -> Result<(Vec<OsString>, Vec<OsString>)> {
    let (mut directories, mut files) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(directory).map_err(at::<PrepareError>(directory))? {
        let entry = entry.map_err(at::<PrepareError>(directory))?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        if entry.path().is_dir() {
            directories.push(entry.file_name());
        } else {
            files.push(entry.file_name());
        }
    }
    directories.sort();
    files.sort();
    Ok((directories, files))
}

/// Returns the path relative to `root`, with `/` between names. Invalid Unicode is replaced, so such a path names no file.
pub(super) fn relative(path: &Path, root: &Path) -> String {
    let path = path.strip_prefix(root).unwrap_or(path);
    let names = path.components().map(|name| name.as_os_str().to_string_lossy());
    names.collect::<Vec<_>>().join("/")
}
