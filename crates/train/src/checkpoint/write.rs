//! Writing a checkpoint: one pass over the tensors, then rename.

use std::{
    collections::HashSet,
    fmt::Write as _,
    fs,
    io::{self, Seek, SeekFrom, Write},
    path::Path,
};

use serde_json::Value;
use vlct_tensor::Tensor;
use vlct_util::atomic::{self, Output, remove_leftovers};
use xxhash_rust::xxh3::Xxh3;

use super::error::{CheckpointError, Previous, Result};
use super::format::{CHECKSUM_AT, CHECKSUM_DIGITS, FORMAT, HEADER_START, MAX_HEADER, STEP_KEY, checksum_digits};
use super::read::load;

/// Bytes gathered before they are hashed and written: fits L2, large enough for the disk.
const BUFFER: usize = 1 << 20;

/// A tensor to be saved.
#[derive(Debug, Clone)]
pub struct TensorRef<'a> {
    /// Its name in the file; unique.
    pub name: &'a str,
    /// Its dimensions.
    pub shape: &'a [usize],
    /// Its values, as many as `shape` says, last dimension fastest. If they are not in host memory, they are copied when the tensor
    /// is written.
    pub data: Tensor,
}

/// Saves `tensors` (in this order), `state` and `description` at `path` and returns the file's size in bytes.
///
/// The directory is created if it is missing. The file is written under a temporary name in the same directory, flushed to the
/// disk and renamed; temporary files that a killed run left there are removed first (so two processes must not save to the same
/// path). Peak memory beyond the arguments: the header and two megabytes.
///
/// # Errors
/// Returns [`CheckpointError::Invalid`] for names used twice or reserved and data that does not fit its shape, before anything is
/// touched, and [`CheckpointError::NotSaved`] if the write fails, as on a full disk: the temporary file is removed, the previous
/// checkpoint is as it was, and the message says so.
pub fn save(path: &Path, tensors: &[TensorRef<'_>], state: &Value, description: &Value) -> Result<u64> {
    let header = header(tensors, state, description)?;
    save_content(path, |out| write(out, &header, tensors))
}

/// Makes a checkpoint of what `content` writes and returns the size that it returns.
pub(super) fn save_content(path: &Path, content: impl FnOnce(&mut Output) -> io::Result<u64>) -> Result<u64> {
    let attempt = || -> io::Result<u64> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        remove_leftovers(path)?;
        let mut bytes = 0;
        atomic::write(path, |out| -> io::Result<()> {
            bytes = content(out)?;
            Ok(())
        })?;
        Ok(bytes)
    };
    attempt().map_err(|source| CheckpointError::NotSaved {
        path: path.to_path_buf(),
        source,
        previous: previous(path),
    })
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
fn header(tensors: &[TensorRef<'_>], state: &Value, description: &Value) -> Result<Vec<u8>> {
    let invalid = |reason: String| Err(CheckpointError::Invalid(reason));
    let zeros = "0".repeat(CHECKSUM_DIGITS);
    let [state, description] = [state, description].map(|value| quoted(&value.to_string()));
    let mut text =
        format!(r#"{HEADER_START}{zeros}","format":"{FORMAT}","state":{state},"description":{description}}}"#);
    let mut names = HashSet::with_capacity(tensors.len());
    let mut offset = 0usize;
    for tensor in tensors {
        let name = tensor.name;
        if name == "__metadata__" || !names.insert(name) {
            return invalid(format!("tensor name `{name}` is reserved or used twice"));
        }
        let elements = tensor.shape.iter().try_fold(1usize, |n, &size| n.checked_mul(size));
        let count = tensor.data.rows() * tensor.data.columns();
        if elements != Some(count) {
            let shape = tensor.shape;
            return invalid(format!("tensor `{name}` has shape {shape:?} but {count} values"));
        }
        // A slice never exceeds isize::MAX bytes; only the sum could overflow.
        let Some(end) = offset.checked_add(count * 4) else {
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
        sink.floats(&tensor.data.to_host())?;
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
