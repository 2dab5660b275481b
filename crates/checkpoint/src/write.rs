//! Atomic writing of checkpoints.

use std::{
    collections::HashSet,
    fmt::Write as _,
    fs,
    io::{self, Seek, SeekFrom, Write},
    path::Path,
};

use serde_json::Value;
use vlct_tensor::{Parameters, Tensor};
use vlct_util::atomic::{self, Output, remove_leftovers};
use xxhash_rust::xxh3::Xxh3;

use crate::error::{CheckpointError, Previous, Result};
use crate::format::{CHECKSUM_DIGITS, CHECKSUM_OFFSET, FORMAT, HEADER_START, MAX_HEADER, STEP_KEY, checksum_digits};
use crate::read::load;

/// Size of the buffer of [`HashingWriter`] in bytes: small enough for L2, large enough for efficient writes.
const BUFFER: usize = 1 << 20;

/// A tensor to save.
#[derive(Debug, Clone)]
pub struct TensorRef<'a> {
    /// The name in the file, unique.
    pub name: &'a str,
    /// The shape.
    pub shape: &'a [usize],
    /// The values, row-major; their number is the product of `shape`. Values that are not in host memory are copied when the tensor
    /// is written.
    pub data: Tensor,
}

impl<'a> TensorRef<'a> {
    /// Returns the tensors of all parameters, in their order.
    pub fn of_parameters(parameters: &'a Parameters) -> impl Iterator<Item = Self> {
        parameters.iter().map(|(id, parameter)| Self {
            name: &parameter.name,
            shape: &parameter.shape,
            data: parameters.tensor(id),
        })
    }
}

/// Saves `tensors` (in this order), `state` and `description` at `path` and returns the file's size in bytes.
///
/// The directory is created if it is missing. The file is written under a temporary name in the same directory, flushed to the
/// disk and renamed. Temporary files of killed processes are removed first, so two processes must not save to the same path at
/// the same time. In addition to the arguments, saving needs memory for the header, for two megabytes of buffers, and for a copy of
/// one tensor if its values are not in host memory.
///
/// # Errors
/// Returns [`CheckpointError::Invalid`], before writing, if a name is repeated or reserved, or if the number of values does not match
/// the shape. Returns [`CheckpointError::NotSaved`] if writing fails, for instance on a full disk. The temporary file is then
/// removed, and the previous checkpoint is unchanged.
pub fn save(path: &Path, tensors: &[TensorRef<'_>], state: &Value, description: &Value) -> Result<u64> {
    let header = header(tensors, state, description)?;
    save_content(path, |out| write(out, &header, tensors))
}

/// Saves a checkpoint file atomically. Returns the result of `write_content`, the size of the file in bytes.
pub(crate) fn save_content(path: &Path, write_content: impl FnOnce(&mut Output) -> io::Result<u64>) -> Result<u64> {
    let save = || -> io::Result<u64> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        remove_leftovers(path)?;
        let mut bytes = 0;
        atomic::write(path, |out| -> io::Result<()> {
            bytes = write_content(out)?;
            Ok(())
        })?;
        Ok(bytes)
    };
    save().map_err(|source| CheckpointError::NotSaved {
        path: path.to_path_buf(),
        source,
        previous: previous_checkpoint(path),
    })
}

fn previous_checkpoint(path: &Path) -> Previous {
    if !path.exists() {
        return Previous::None;
    }
    match load(path) {
        Ok(checkpoint) => Previous::Intact(checkpoint.state().get(STEP_KEY).and_then(Value::as_u64)),
        Err(_) => Previous::Damaged,
    }
}

/// Returns the bytes before the data: the length of the header, then the header. The header has zeros for the checksum, and is
/// padded with spaces to a multiple of 8 bytes.
fn header(tensors: &[TensorRef<'_>], state: &Value, description: &Value) -> Result<Vec<u8>> {
    let invalid = |reason: String| Err(CheckpointError::Invalid(reason));
    let zeros = "0".repeat(CHECKSUM_DIGITS);
    let [state, description] = [state, description].map(|value| json_string(&value.to_string()));
    let mut text =
        format!(r#"{HEADER_START}{zeros}","format":"{FORMAT}","state":{state},"description":{description}}}"#);
    let mut names = HashSet::with_capacity(tensors.len());
    let mut offset = 0usize;
    for tensor in tensors {
        let name = tensor.name;
        if name == "__metadata__" || !names.insert(name) {
            return invalid(format!("tensor name `{name}` is reserved or repeated"));
        }
        let expected = tensor.shape.iter().try_fold(1usize, |n, &size| n.checked_mul(size));
        let count = tensor.data.rows() * tensor.data.columns();
        if expected != Some(count) {
            let shape = tensor.shape;
            return invalid(format!("tensor `{name}` has shape {shape:?} but {count} values"));
        }
        // A tensor in memory has at most `isize::MAX` bytes, so only the sum can overflow.
        let Some(end) = offset.checked_add(count * 4) else {
            return invalid("the total size of the tensors is too large".into());
        };
        let shape: Vec<String> = tensor.shape.iter().map(usize::to_string).collect();
        write!(
            text,
            r#",{}:{{"dtype":"F32","shape":[{}],"data_offsets":[{offset},{end}]}}"#,
            json_string(name),
            shape.join(",")
        )
        .expect("writing to a string");
        offset = end;
    }
    text.push('}');
    text.extend(std::iter::repeat_n(' ', text.len().next_multiple_of(8) - text.len()));
    if text.len() > MAX_HEADER {
        let length = text.len();
        return invalid(format!("the header would have {length} bytes, more than {MAX_HEADER}"));
    }
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    Ok(bytes)
}

/// Returns `text` as a JSON string with quotes.
fn json_string(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}

/// Writes header and data, then replaces the zeros in the header by the checksum. Returns the number of bytes.
fn write(file: &mut (impl Write + Seek), header: &[u8], tensors: &[TensorRef<'_>]) -> io::Result<u64> {
    let mut writer = HashingWriter::new(file);
    writer.write_bytes(header)?;
    for tensor in tensors {
        writer.write_floats(&tensor.data.to_host())?;
    }
    let (file, digest, length) = writer.finish()?;
    file.seek(SeekFrom::Start(CHECKSUM_OFFSET as u64))?;
    file.write_all(checksum_digits(digest).as_bytes())?;
    file.flush()?;
    Ok(length)
}

/// Buffers bytes, and hashes and writes each full buffer while it is in the cache.
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

    fn write_bytes(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let (chunk, rest) = bytes.split_at(bytes.len().min(BUFFER - self.buffer.len()));
            self.buffer.extend_from_slice(chunk);
            bytes = rest;
            self.flush_if_full()?;
        }
        Ok(())
    }

    /// Writes values as little-endian bytes.
    fn write_floats(&mut self, mut values: &[f32]) -> io::Result<()> {
        // The length of the header is a multiple of 8, so the free space of the buffer is a multiple of 4 bytes.
        while !values.is_empty() {
            let (chunk, rest) = values.split_at(values.len().min((BUFFER - self.buffer.len()) / 4));
            let start = self.buffer.len();
            self.buffer.resize(start + chunk.len() * 4, 0);
            for (bytes, value) in self.buffer[start..].as_chunks_mut::<4>().0.iter_mut().zip(chunk) {
                *bytes = value.to_le_bytes();
            }
            values = rest;
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
