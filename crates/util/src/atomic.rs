//! Atomic writes: a file appears under its name complete or not at all.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// Size of the write buffer.
const BUFFER_BYTES: usize = 1 << 20;

/// The writer that [`write()`] passes to its closure.
pub type Output = BufWriter<File>;

/// Writes a file under a temporary name in the same directory, flushes it to the disk, and renames it to `path`, replacing an existing
/// file. If an error or a crash occurs before the renaming, the existing file is unchanged.
///
/// ```
/// use std::io::{self, Write};
///
/// # let directory = tempfile::tempdir()?;
/// let path = directory.path().join("config.toml");
/// vlct_util::atomic::write(&path, |out| out.write_all(b"seed = 1"))?;
/// let failed = vlct_util::atomic::write(&path, |_| Err(io::Error::other("interrupted")));
/// assert!(failed.is_err());
/// assert_eq!(std::fs::read(&path)?, b"seed = 1");
/// # Ok::<(), io::Error>(())
/// ```
///
/// # Errors
/// Returns the error of `content`, or of the operating system.
pub fn write<E: From<io::Error>>(path: &Path, content: impl FnOnce(&mut Output) -> Result<(), E>) -> Result<(), E> {
    let temporary = create_temporary(path)?;
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, temporary.reopen()?);
    content(&mut out)?;
    out.flush()?;
    // Some writers seek back to fill in a header field.
    out.seek(io::SeekFrom::End(0))?;
    out.get_ref().sync_all()?;
    drop(out);
    temporary.persist(path).map_err(|error| error.error)?;
    Ok(sync_directory(path)?)
}

/// Makes `path` another name of the file `source` (a hard link), or a copy if the file system has no hard links. `path` is replaced
/// atomically; its directory is created if it is missing. The content of `source` must not change afterwards, except by replacing the file.
///
/// # Errors
/// Returns the error of the operating system.
pub fn link(source: &Path, path: &Path) -> io::Result<()> {
    let directory = directory_of(path);
    fs::create_dir_all(directory)?;
    remove_leftovers(path)?;
    let mut prefix = hidden_name(path)?;
    prefix.push(".");
    let linked = tempfile::Builder::new()
        .prefix(&prefix)
        .suffix(".tmp")
        .make_in(directory, |temporary| fs::hard_link(source, temporary));
    let Ok(linked) = linked else {
        return write(path, |out| io::copy(&mut File::open(source)?, out).map(drop));
    };
    let temporary = linked.path().to_path_buf();
    linked.persist(path).map_err(|error| error.error)?;
    // Renaming has no effect if both names are already links to the same file.
    if temporary.exists() {
        fs::remove_file(temporary)?;
    }
    sync_directory(path)
}

/// Calls `content` with a temporary directory beside `path`, and renames the directory to `path`, where nothing or an empty directory may
/// be. If an error occurs, the temporary directory is removed.
///
/// # Errors
/// Returns the error of `content`, or of the operating system.
pub fn write_directory<E: From<io::Error>>(path: &Path, content: impl FnOnce(&Path) -> Result<(), E>) -> Result<(), E> {
    let mut prefix = hidden_name(path)?;
    prefix.push(".");
    let mut builder = tempfile::Builder::new();
    builder.prefix(&prefix).suffix(".tmp");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777));
    let temporary = builder.tempdir_in(directory_of(path)).map_err(without_path)?;
    content(temporary.path())?;
    fs::rename(temporary.path(), path)?;
    // There is nothing left to remove.
    let _ = temporary.keep();
    Ok(sync_directory(path)?)
}

/// Creates a temporary file in the directory of `path`, with the permissions of an ordinary new file. Dropping the result deletes the file.
fn create_temporary(path: &Path) -> io::Result<NamedTempFile> {
    let mut prefix = hidden_name(path)?;
    prefix.push(".");
    let mut builder = tempfile::Builder::new();
    builder.prefix(&prefix).suffix(".tmp");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    // The error of `tempfile` names the temporary file; messages have the path of the final one.
    builder.tempfile_in(directory_of(path)).map_err(without_path)
}

/// Removes the name of the temporary file from an error of `tempfile`.
fn without_path(error: io::Error) -> io::Error {
    let cause = error
        .get_ref()
        .and_then(|error| error.source()?.downcast_ref::<io::Error>());
    match cause.and_then(io::Error::raw_os_error) {
        Some(code) => io::Error::from_raw_os_error(code),
        None => error,
    }
}

/// Flushes the directory of `path`, so that a rename in it survives a power failure.
///
/// # Errors
/// Returns the error of the operating system.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    // Other systems journal renames, and do not open a directory as a file.
    if cfg!(unix) {
        File::open(directory_of(path))?.sync_all()?;
    }
    Ok(())
}

/// Returns the path `.NAME.SUFFIX` in the directory of `path`; `NAME` is the file name of `path`. A writer that can be resumed keeps its
/// unfinished file under this path.
///
/// # Errors
/// Returns an error if `path` does not end in a file name.
pub fn hidden_sibling(path: &Path, suffix: &str) -> io::Result<PathBuf> {
    let mut name = hidden_name(path)?;
    name.push(".");
    name.push(suffix);
    Ok(path.with_file_name(name))
}

/// Removes the temporary files that [`write()`] to `path` left when its process was killed. No other process may be writing to `path`.
///
/// # Errors
/// Returns the error of the operating system.
pub fn remove_leftovers(path: &Path) -> io::Result<()> {
    let mut prefix = hidden_name(path)?;
    prefix.push(".");
    let prefix = prefix.to_string_lossy().into_owned();
    for entry in fs::read_dir(directory_of(path))? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(&prefix) && name.ends_with(".tmp") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Returns `.NAME` for a path that ends in `NAME`.
fn hidden_name(path: &Path) -> io::Result<OsString> {
    let name: &OsStr = path
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "is not the name of a file"))?;
    let mut hidden = OsString::from(".");
    hidden.push(name);
    Ok(hidden)
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file_names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn replaces_the_file_only_if_the_write_succeeds() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("weights");
        write(&path, |out| out.write_all(b"old")).unwrap();
        let failed = write(&path, |out| {
            out.write_all(b"half")?;
            Err(io::Error::other("no more"))
        });
        assert_eq!(failed.unwrap_err().to_string(), "no more");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        write(&path, |out| out.write_all(b"new")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(file_names(directory.path()), ["weights"]);
    }

    #[cfg(unix)]
    #[test]
    fn permissions_are_those_of_an_ordinary_file() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        let (atomic, ordinary) = (directory.path().join("atomic"), directory.path().join("ordinary"));
        write(&atomic, |out| out.write_all(b"x")).unwrap();
        fs::write(&ordinary, b"x").unwrap();
        assert_eq!(mode(&atomic), mode(&ordinary));
    }

    #[test]
    fn a_directory_appears_when_it_is_complete() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("model");
        let failed = write_directory(&path, |directory| {
            fs::write(directory.join("a"), "half")?;
            Err(io::Error::other("no more"))
        });
        assert_eq!(failed.unwrap_err().to_string(), "no more");
        assert_eq!(file_names(parent.path()), [""; 0]);
        fs::create_dir(&path).unwrap();
        for is_empty in [true, false] {
            let written = write_directory(&path, |directory| fs::write(directory.join("a"), "whole"));
            assert_eq!(written.is_ok(), is_empty);
            assert_eq!(
                (file_names(parent.path()), file_names(&path)),
                (vec!["model".into()], vec!["a".into()])
            );
        }
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let ordinary = parent.path().join("ordinary");
            fs::create_dir(&ordinary).unwrap();
            let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(mode(&path), mode(&ordinary));
        }
    }

    #[test]
    fn a_link_replaces_the_file_and_keeps_its_content_when_the_source_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let (source, path) = (directory.path().join("source"), directory.path().join("links/path"));
        for content in ["old", "new"] {
            write(&source, |out| out.write_all(content.as_bytes())).unwrap();
            for _ in 0..2 {
                link(&source, &path).unwrap();
                assert_eq!(fs::read_to_string(&path).unwrap(), content);
            }
        }
        write(&source, |out| out.write_all(b"newer")).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(file_names(path.parent().unwrap()), ["path"]);
        assert!(link(&directory.path().join("missing"), &path).is_err());
    }

    #[test]
    fn removes_files_that_killed_writers_left() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("weights");
        let (_, leftover) = create_temporary(&path).unwrap().keep().unwrap();
        assert!(leftover.exists());
        fs::write(directory.path().join(".weights2.x.tmp"), b"of another file").unwrap();
        remove_leftovers(&path).unwrap();
        assert_eq!(file_names(directory.path()), [".weights2.x.tmp"]);
    }

    #[test]
    fn reports_the_error_of_the_operating_system() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing/weights");
        let error = write(&missing, |out| out.write_all(b"x")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
