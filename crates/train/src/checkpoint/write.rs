//! Writing a checkpoint: one pass over the tensors, then rename.

use std::{
    collections::HashSet,
    fmt::Write as _,
    fs::{self, File, OpenOptions},
    io::{self, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use serde_json::Value;
use vlct_util::atomic::sync_directory;
use xxhash_rust::xxh3::Xxh3;

use super::error::{CheckpointError, Previous, Result};
use super::format::{CHECKSUM_AT, CHECKSUM_DIGITS, FORMAT, HEADER_START, MAX_HEADER, STEP_KEY, checksum_digits};
use super::read::load;

/// Bytes gathered before they are hashed and written: fits the second-level cache, large enough for the disk.
const BUFFER: usize = 1 << 20;

/// A tensor to be saved.
#[derive(Debug, Clone, Copy)]
pub struct TensorRef<'a> {
    /// Its name in the file; unique.
    pub name: &'a str,
    /// Its sizes.
    pub shape: &'a [usize],
    /// Its values, as many as `shape` says, last dimension fastest.
    pub data: &'a [f32],
}

/// Saves `tensors` (in this order) and `state` at `path` and returns the file's size in bytes.
///
/// The folder is created if it is missing. The file is written under a temporary name in the same folder, flushed to
/// the disk and renamed; temporary files that a killed run left there are removed first (so two processes must not save
/// to the same path). Peak memory beyond the arguments: the header and one megabyte.
///
/// # Errors
/// [`CheckpointError::Invalid`] for names used twice or reserved and data that does not fit its shape, before anything is
/// touched. [`CheckpointError::NotSaved`] where the system refuses, as on a full disk: the temporary file is removed, the
/// previous checkpoint is as it was, and the message says so.
pub fn save(path: &Path, tensors: &[TensorRef<'_>], state: &Value) -> Result<u64> {
    save_through(path, tensors, state, |temporary| {
        OpenOptions::new().write(true).create_new(true).open(temporary)
    })
}

/// [`save`] with the way to open the temporary file left to the caller.
pub(super) fn save_through(
    path: &Path,
    tensors: &[TensorRef<'_>],
    state: &Value,
    open: impl FnOnce(&Path) -> io::Result<File>,
) -> Result<u64> {
    let header = header(tensors, state)?;
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let temporary = temporary_path(path)?;
    let attempt = || -> io::Result<u64> {
        fs::create_dir_all(folder)?;
        remove_leftovers(folder, path)?;
        let mut file = open(&temporary)?;
        let bytes = write(&mut file, &header, tensors)?;
        file.sync_all()?;
        drop(file);
        fs::rename(&temporary, path)?;
        sync_directory(path)?;
        Ok(bytes)
    };
    attempt().map_err(|source| {
        // Best effort: whatever made the save fail is what the user needs to read.
        let _ = fs::remove_file(&temporary);
        CheckpointError::NotSaved {
            path: path.to_path_buf(),
            source,
            previous: previous(path),
        }
    })
}

/// Beginning of the temporary names of `path`; the process's number follows.
fn temporary_prefix(path: &Path) -> Result<String> {
    match path.file_name() {
        Some(name) => Ok(format!(".{}.tmp-", name.to_string_lossy())),
        None => Err(CheckpointError::Invalid(format!(
            "`{}` is no file name",
            path.display()
        ))),
    }
}

/// Where this process writes before it renames to `path`.
pub(super) fn temporary_path(path: &Path) -> Result<PathBuf> {
    let prefix = temporary_prefix(path)?;
    Ok(path.with_file_name(format!("{prefix}{}", std::process::id())))
}

/// Removes the temporary files that earlier, killed saves to `path` left in `folder`.
fn remove_leftovers(folder: &Path, path: &Path) -> io::Result<()> {
    let Ok(prefix) = temporary_prefix(path) else {
        return Ok(());
    };
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn previous(path: &Path) -> Previous {
    if !path.exists() {
        return Previous::None;
    }
    match load(path) {
        Ok(checkpoint) => Previous::Intact(checkpoint.state().get(STEP_KEY).and_then(Value::as_u64)),
        Err(_) => Previous::Damaged,
    }
}

/// The file up to the data: length of the header, header with zeros for the checksum, spaces up to a multiple of eight.
fn header(tensors: &[TensorRef<'_>], state: &Value) -> Result<Vec<u8>> {
    let invalid = |reason: String| Err(CheckpointError::Invalid(reason));
    let zeros = "0".repeat(CHECKSUM_DIGITS);
    let state = quoted(&state.to_string());
    let mut text = format!(r#"{HEADER_START}{zeros}","format":"{FORMAT}","state":{state}}}"#);
    let mut names = HashSet::with_capacity(tensors.len());
    let mut offset = 0usize;
    for tensor in tensors {
        let name = tensor.name;
        if name == "__metadata__" || !names.insert(name) {
            return invalid(format!("tensor name `{name}` is reserved or used twice"));
        }
        let elements = tensor.shape.iter().try_fold(1usize, |n, &size| n.checked_mul(size));
        if elements != Some(tensor.data.len()) {
            let (shape, count) = (tensor.shape, tensor.data.len());
            return invalid(format!("tensor `{name}` has shape {shape:?} but {count} values"));
        }
        // A slice never exceeds isize::MAX bytes; only the sum could overflow.
        let Some(end) = offset.checked_add(tensor.data.len() * 4) else {
            return invalid("its tensors together are too large".into());
        };
        let shape: Vec<String> = tensor.shape.iter().map(usize::to_string).collect();
        write!(
            text,
            r#",{}:{{"dtype":"F32","shape":[{}],"data_offsets":[{offset},{end}]}}"#,
            quoted(name),
            shape.join(",")
        )
        .expect("writing to a string");
        offset = end;
    }
    text.push('}');
    text.extend(std::iter::repeat_n(' ', text.len().next_multiple_of(8) - text.len()));
    if text.len() > MAX_HEADER {
        let length = text.len();
        return invalid(format!("state and table take {length} bytes, more than {MAX_HEADER}"));
    }
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    Ok(bytes)
}

/// `text` as a JSON string.
fn quoted(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}

/// Writes header and data in one pass, then the checksum into its place. Returns the number of bytes.
fn write(file: &mut (impl Write + Seek), header: &[u8], tensors: &[TensorRef<'_>]) -> io::Result<u64> {
    let mut sink = HashingWriter::new(file);
    sink.bytes(header)?;
    for tensor in tensors {
        sink.floats(tensor.data)?;
    }
    let (file, digest, length) = sink.finish()?;
    file.seek(SeekFrom::Start(CHECKSUM_AT as u64))?;
    file.write_all(checksum_digits(digest).as_bytes())?;
    file.flush()?;
    Ok(length)
}

/// Gathers bytes, and hashes them while they are still in the cache.
struct HashingWriter<'w, W> {
    inner: &'w mut W,
    buffer: Vec<u8>,
    hash: Xxh3,
    written: u64,
}

impl<'w, W: Write> HashingWriter<'w, W> {
    fn new(inner: &'w mut W) -> Self {
        Self {
            inner,
            buffer: Vec::with_capacity(BUFFER),
            hash: Xxh3::new(),
            written: 0,
        }
    }

    fn bytes(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(BUFFER - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
            self.flush_if_full()?;
        }
        Ok(())
    }

    /// Little-endian, as safetensors wants it.
    fn floats(&mut self, mut values: &[f32]) -> io::Result<()> {
        // The header's length is a multiple of eight, so the buffer always has room for whole values.
        while !values.is_empty() {
            let (now, later) = values.split_at(values.len().min((BUFFER - self.buffer.len()) / 4));
            let start = self.buffer.len();
            self.buffer.resize(start + now.len() * 4, 0);
            for (bytes, value) in self.buffer[start..].as_chunks_mut::<4>().0.iter_mut().zip(now) {
                *bytes = value.to_le_bytes();
            }
            values = later;
            self.flush_if_full()?;
        }
        Ok(())
    }

    fn flush_if_full(&mut self) -> io::Result<()> {
        if self.buffer.len() == BUFFER {
            self.flush()
        } else {
            Ok(())
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.hash.update(&self.buffer);
        self.inner.write_all(&self.buffer)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn finish(mut self) -> io::Result<(&'w mut W, u128, u64)> {
        self.flush()?;
        Ok((self.inner, self.hash.digest128(), self.written))
    }
}
