//! Reading of checkpoints.

use std::{
    ops::Range,
    path::{Path, PathBuf},
};

use indexmap::IndexMap;
use safetensors::{Dtype, SafeTensors};
use serde::Serialize;
use serde_json::Value;
use vlct_util::MappedFile;
use xxhash_rust::xxh3::Xxh3;

use crate::error::{CheckpointError, Result};
use crate::format::{
    AVERAGE_PREFIX, CHECKSUM_DIGITS, CHECKSUM_OFFSET, EPOCH_KEY, FILE_NAME, FORMAT, FORMAT_1, HEADER_START, METRIC_KEY,
    MOMENT_PREFIX, STEP_KEY, checksum_digits,
};

/// Advice at the end of every message about a damaged file.
const ADVICE: &str = "use another checkpoint of the run (`last` or `best`), or start without a checkpoint";

/// A verified checkpoint. Its tensors are read from the memory-mapped file on request.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    map: MappedFile,
    header: Header,
}

/// The decoded header of a checkpoint.
#[derive(Debug)]
struct Header {
    format: u32,
    state: Value,
    description: Option<Value>,
    table: IndexMap<String, Entry>,
}

/// The shape of a tensor, and the range of its bytes in the file.
#[derive(Debug)]
struct Entry {
    shape: Vec<usize>,
    bytes: Range<usize>,
}

/// Opens the checkpoint at `path` and verifies its checksum. Only the header is copied into memory.
///
/// # Errors
/// Returns [`CheckpointError::Unreadable`] if the file is missing or cannot be mapped, and [`CheckpointError::Damaged`] if it is
/// truncated, altered or not a checkpoint.
pub fn load(path: &Path) -> Result<Checkpoint> {
    let map = map_file(path)?;
    verify(&map).map_err(|reason| damaged(path, reason))?;
    let header = parse(&map).map_err(|reason| damaged(path, reason))?;
    Ok(Checkpoint {
        path: path.to_path_buf(),
        map,
        header,
    })
}

/// Reads the description of model, task and inputs from the header of the file at `path`, without verifying the checksum. Returns `None`
/// if the file is not a checkpoint of format 2.
///
/// # Errors
/// Returns [`CheckpointError::Unreadable`] if the file is missing or cannot be mapped.
pub fn read_description(path: &Path) -> Result<Option<Value>> {
    let map = map_file(path)?;
    Ok(parse(&map).ok().and_then(|header| header.description))
}

/// Reads the state of the run from the header of the file at `path`, without verifying the checksum. Returns `None` if the file is not a
/// checkpoint.
///
/// # Errors
/// Returns [`CheckpointError::Unreadable`] if the file is missing or cannot be mapped.
pub fn read_state(path: &Path) -> Result<Option<Value>> {
    let map = map_file(path)?;
    Ok(parse(&map).ok().map(|header| header.state))
}

impl Checkpoint {
    /// Returns the state of the run.
    pub fn state(&self) -> &Value {
        &self.header.state
    }

    /// Returns the version of the format, 1 or 2.
    pub fn format(&self) -> u32 {
        self.header.format
    }

    /// Returns the description of model, task and inputs; `None` in format 1.
    pub fn description(&self) -> Option<&Value> {
        self.header.description.as_ref()
    }

    /// Returns the names of all tensors, including moments and averages, in the order of saving.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.header.table.keys().map(String::as_str)
    }

    /// Returns the shape of the tensor `name`; `None` if there is no such tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.header.table.get(name).map(|entry| entry.shape.as_slice())
    }

    /// Returns a copy of the values of the tensor `name`.
    ///
    /// # Errors
    /// Returns [`CheckpointError::Mismatch`] if there is no such tensor.
    pub fn values(&self, name: &str) -> Result<Vec<f32>> {
        Ok(self.floats(name)?.collect())
    }

    /// Copies the tensor `name` from the file into `target`.
    ///
    /// # Errors
    /// Returns [`CheckpointError::Mismatch`] if there is no such tensor or its shape is not `shape`.
    ///
    /// # Panics
    /// Panics if the length of `target` is not the product of `shape`.
    pub fn copy_to(&self, name: &str, shape: &[usize], target: &mut [f32]) -> Result<()> {
        assert_eq!(
            shape.iter().product::<usize>(),
            target.len(),
            "length of the target of `{name}`"
        );
        let values = self.floats(name)?;
        if self.shape(name) != Some(shape) {
            let found = self.shape(name).unwrap_or_default();
            return Err(self.mismatch(format!(
                "tensor `{name}` has shape {found:?}, the model needs {shape:?}"
            )));
        }
        for (target, value) in target.iter_mut().zip(values) {
            *target = value;
        }
        Ok(())
    }

    fn floats(&self, name: &str) -> Result<impl ExactSizeIterator<Item = f32> + '_> {
        let Some(entry) = self.header.table.get(name) else {
            return Err(self.mismatch(format!("there is no tensor `{name}` in this checkpoint")));
        };
        let chunks = self.map[entry.bytes.clone()].as_chunks::<4>().0;
        Ok(chunks.iter().map(|bytes| f32::from_le_bytes(*bytes)))
    }

    /// Returns an error about the content of this checkpoint.
    pub fn mismatch(&self, reason: String) -> CheckpointError {
        CheckpointError::Mismatch {
            path: self.path.clone(),
            reason,
        }
    }
}

/// Sizes, progress and damage of a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// The file.
    pub path: PathBuf,
    /// Size of the file in bytes.
    pub bytes: u64,
    /// Number of optimiser steps, if the state contains it.
    pub step: Option<u64>,
    /// The epoch, if the state contains it.
    pub epoch: Option<u64>,
    /// The best value of the metric, if the state contains it.
    pub metric: Option<f64>,
    /// Number of the model's tensors.
    pub tensors: usize,
    /// Number of values of the model's tensors.
    pub parameters: u64,
    /// Whether the file contains the optimiser's moments.
    pub optimizer: bool,
    /// Whether the file contains averages of the weights in addition to the weights.
    pub averages: bool,
    /// A description of the damage; `None` if the file is intact.
    pub damage: Option<String>,
}

/// Summarises the checkpoint at `path` and verifies it. If the file is damaged but its header is readable, [`Summary::damage`] is set,
/// and the other fields may be wrong.
///
/// # Errors
/// Returns the errors of [`load`] if the header is not readable.
pub fn inspect(path: &Path) -> Result<Summary> {
    let map = map_file(path)?;
    let damage = verify(&map).err();
    let Header { state, table, .. } = match parse(&map) {
        Ok(header) => header,
        Err(reason) => return Err(damaged(path, damage.unwrap_or(reason))),
    };
    let has = |prefix: &str| table.keys().any(|name| name.starts_with(prefix));
    let is_weight = |name: &str| !name.starts_with(MOMENT_PREFIX) && !name.starts_with(AVERAGE_PREFIX);
    let model_tensors = || table.iter().filter(|(name, _)| is_weight(name));
    Ok(Summary {
        path: path.to_path_buf(),
        bytes: map.len() as u64,
        step: state.get(STEP_KEY).and_then(Value::as_u64),
        epoch: state.get(EPOCH_KEY).and_then(Value::as_u64),
        metric: state.get(METRIC_KEY).and_then(Value::as_f64),
        tensors: model_tensors().count(),
        parameters: model_tensors().map(|(_, entry)| entry.bytes.len() as u64 / 4).sum(),
        optimizer: has(MOMENT_PREFIX),
        averages: has(AVERAGE_PREFIX),
        damage,
    })
}

fn damaged(path: &Path, reason: String) -> CheckpointError {
    CheckpointError::Damaged {
        path: path.to_path_buf(),
        reason: format!("{reason}; {ADVICE}"),
    }
}

fn map_file(path: &Path) -> Result<MappedFile> {
    let open = || -> std::io::Result<MappedFile> {
        if !std::fs::metadata(path)?.is_file() {
            let reason = format!("not a file (a run directory's checkpoint is last/{})", FILE_NAME);
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, reason));
        }
        MappedFile::open(path).map_err(|error| error.source)
    };
    open().map_err(|source| CheckpointError::Unreadable {
        path: path.to_path_buf(),
        source,
    })
}

/// Whether a file begins as every checkpoint does. The beginning is not verified.
pub fn begins_as_checkpoint(file: &[u8]) -> bool {
    file.get(8..)
        .is_some_and(|header| header.starts_with(HEADER_START.as_bytes()))
}

/// Verifies the checksum. Returns a description of the damage as the error.
pub fn verify(file: &[u8]) -> std::result::Result<(), String> {
    let start = &file[..file.len().min(CHECKSUM_OFFSET)];
    if start.len() > 8 && !HEADER_START.as_bytes().starts_with(&start[8..]) {
        return Err(format!(
            "not a checkpoint of this program (format {FORMAT}), or the beginning of the file is damaged"
        ));
    }
    let Some((stored, rest)) = file
        .get(CHECKSUM_OFFSET..)
        .and_then(|f| f.split_at_checked(CHECKSUM_DIGITS))
    else {
        return Err(format!("truncated to {} bytes", file.len()));
    };
    let mut hash = Xxh3::new();
    hash.update(start);
    hash.update(&[b'0'; CHECKSUM_DIGITS]);
    hash.update(rest);
    if checksum_digits(hash.digest128()).as_bytes() == stored {
        return Ok(());
    }
    Err(match SafeTensors::read_metadata(file) {
        Ok(_) => "the content was altered: the checksum does not match".into(),
        Err(_) => match expected_length(file) {
            Some(expected) if expected != file.len() as u64 => {
                format!(
                    "the file has {} bytes instead of {expected}: truncated or altered",
                    file.len()
                )
            }
            _ => "the header is truncated or altered".into(),
        },
    })
}

/// Returns the length of the whole file according to the header; `None` if the header is not readable.
fn expected_length(file: &[u8]) -> Option<u64> {
    let (length, rest) = file.split_first_chunk::<8>()?;
    let length = u64::from_le_bytes(*length);
    let header = rest.get(..usize::try_from(length).ok()?)?;
    let header: serde_json::Map<String, Value> = serde_json::from_slice(header).ok()?;
    let ends = header
        .values()
        .filter_map(|entry| entry.get("data_offsets")?.get(1)?.as_u64());
    ends.max().unwrap_or(0).checked_add(8)?.checked_add(length)
}

/// Decodes the header. Every range in the returned table is within the file. Returns a description of the damage as the error.
fn parse(file: &[u8]) -> std::result::Result<Header, String> {
    let (length, metadata) =
        SafeTensors::read_metadata(file).map_err(|error| format!("not a complete safetensors file: {error}"))?;
    let value = |key: &str| metadata.metadata().as_ref().and_then(|entries| entries.get(key));
    let format = match value("format").map(String::as_str) {
        Some(FORMAT) => 2,
        Some(FORMAT_1) => 1,
        Some(format) => {
            return Err(format!(
                "format `{format}` is not supported, only {FORMAT} and {FORMAT_1}"
            ));
        }
        None => return Err(format!("not a checkpoint of this program (format {FORMAT})")),
    };
    let state = value("state").ok_or("the state is missing")?;
    let state = serde_json::from_str(state).map_err(|error| format!("the state is invalid: {error}"))?;
    let description = match value("description").filter(|_| format > 1) {
        Some(text) => {
            let read = serde_json::from_str(text);
            Some(read.map_err(|error| format!("the description is invalid: {error}"))?)
        }
        None => None,
    };
    let data = length + 8;
    let mut table = IndexMap::new();
    for name in metadata.offset_keys() {
        let Some(info) = metadata.info(&name).filter(|info| info.dtype == Dtype::F32) else {
            return Err(format!("tensor `{name}` is not of type F32"));
        };
        let (start, end) = info.data_offsets;
        let entry = Entry {
            shape: info.shape.clone(),
            bytes: data + start..data + end,
        };
        table.insert(name, entry);
    }
    Ok(Header {
        format,
        state,
        description,
        table,
    })
}
