//! Files that are either there as a whole or not at all.

use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes collected before they are handed to the system.
const BUFFER: usize = 1 << 20;

/// What [`write()`] hands to its caller to write into.
pub type Output = BufWriter<File>;

/// Writes a file under a temporary name in the same folder, flushes it to the disk, and gives it its name, replacing what
/// had it before. After an error, or if the machine stops in between, the old file is untouched.
///
/// # Errors
/// Whatever `content` returns, or what the system reports.
pub fn write<E: From<io::Error>>(path: &Path, content: impl FnOnce(&mut Output) -> Result<(), E>) -> Result<(), E> {
    let temporary = temporary_name(path)?;
    let result = write_and_rename(&temporary, path, content);
    if result.is_err() {
        // Best effort: the error that matters is the one being returned.
        let _ = fs::remove_file(&temporary);
    }
    result
}

fn write_and_rename<E: From<io::Error>>(
    temporary: &Path,
    path: &Path,
    content: impl FnOnce(&mut Output) -> Result<(), E>,
) -> Result<(), E> {
    let file = File::options()
        .write(true)
        .read(true)
        .create_new(true)
        .open(temporary)?;
    let mut out = BufWriter::with_capacity(BUFFER, file);
    content(&mut out)?;
    out.flush()?;
    // Some writers go back to fill in a field; the length is what was written, not where they stopped.
    out.seek(io::SeekFrom::End(0))?;
    out.get_ref().sync_all()?;
    drop(out);
    fs::rename(temporary, path)?;
    sync_folder(path)?;
    Ok(())
}

/// Makes the new name itself durable.
fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(unix) {
        File::open(folder(path))?.sync_all()?;
    }
    Ok(())
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// A name beside `path` that no other writer of this machine uses.
fn temporary_name(path: &Path) -> io::Result<PathBuf> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "is not the name of a file"))?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(
        ".{}-{}.tmp",
        std::process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    ));
    Ok(folder(path).join(temporary))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn replaces_only_when_complete() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        write(&path, |out| out.write_all(b"old")).unwrap();
        let failed = write(&path, |out| {
            out.write_all(b"half")?;
            Err(io::Error::other("no more"))
        });
        assert_eq!(failed.unwrap_err().to_string(), "no more");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        write(&path, |out| out.write_all(b"new")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(folder.path()), ["weights"]);
    }

    #[test]
    fn says_what_the_system_says() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing/weights");
        let error = write(&missing, |out| out.write_all(b"x")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
