//! Reading a checkpoint: map it, verify it, then hand out tensors.

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

use super::error::{CheckpointError, Result};
use super::format::{
    CHECKSUM_AT, CHECKSUM_DIGITS, EPOCH_KEY, FILE_NAME, FORMAT, FORMAT_1, HEADER_START, METRIC_KEY, STEP_KEY,
    checksum_digits,
};

/// Advice at the end of every message about a damaged file.
const ADVICE: &str = "take another checkpoint of the run (`last` or `best`) or start without it";

/// A verified checkpoint. Its tensors stay in the mapped file until they are asked for.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    map: MappedFile,
    header: Header,
}

/// What stands before the tensors.
#[derive(Debug)]
struct Header {
    format: u32,
    state: Value,
    description: Option<Value>,
    table: IndexMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    shape: Vec<usize>,
    bytes: Range<usize>,
}

/// Opens the checkpoint at `path` and verifies every byte of it. Memory use does not depend on its size.
///
/// # Errors
/// [`CheckpointError::Unreadable`] if the file is missing or cannot be mapped; [`CheckpointError::Damaged`] if it is
/// torn, cut short, altered or something else altogether, with what was found.
pub fn load(path: &Path) -> Result<Checkpoint> {
    let map = map(path)?;
    verify(&map).map_err(|reason| damaged(path, reason))?;
    let header = parse(&map).map_err(|reason| damaged(path, reason))?;
    Ok(Checkpoint {
        path: path.to_path_buf(),
        map,
        header,
    })
}

impl Checkpoint {
    /// What the trainer put beside the tensors.
    pub fn state(&self) -> &Value {
        &self.header.state
    }

    /// The version of the format that it was written in: 1 or 2.
    pub fn format(&self) -> u32 {
        self.header.format
    }

    /// Model, task and inputs; `None` in format 1.
    pub fn description(&self) -> Option<&Value> {
        self.header.description.as_ref()
    }

    /// Names of all tensors in the order they were saved, the optimiser's included.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.header.table.keys().map(String::as_str)
    }

    /// Sizes of the tensor `name`, if there is one.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.header.table.get(name).map(|entry| entry.shape.as_slice())
    }

    /// The values of the tensor `name`, copied out of the file.
    ///
    /// # Errors
    /// [`CheckpointError::Mismatch`] if there is no such tensor.
    pub fn values(&self, name: &str) -> Result<Vec<f32>> {
        Ok(self.floats(name)?.collect())
    }

    /// Copies the tensor `name` from the file into `target`.
    ///
    /// # Errors
    /// [`CheckpointError::Mismatch`] if there is no such tensor or its shape is not `shape`.
    ///
    /// # Panics
    /// Panics if `target` is not as long as `shape` says.
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
        for (place, value) in target.iter_mut().zip(values) {
            *place = value;
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

    pub(crate) fn mismatch(&self, reason: String) -> CheckpointError {
        CheckpointError::Mismatch {
            path: self.path.clone(),
            reason,
        }
    }
}

/// Sizes and position of a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// The file.
    pub path: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
    /// Optimiser steps taken, where the state says so.
    pub step: Option<u64>,
    /// The epoch, where the state says so.
    pub epoch: Option<u64>,
    /// The best value of the monitored metric so far, where the state says so.
    pub metric: Option<f64>,
    /// Number of the model's tensors.
    pub tensors: usize,
    /// Number of values in them.
    pub parameters: u64,
    /// Whether the optimiser's tensors are there too.
    pub optimizer: bool,
    /// What is wrong with the file; nothing if it is whole.
    pub damage: Option<String>,
}

/// Looks into the checkpoint at `path` and verifies it. A damaged file whose header still reads is described too, with
/// [`Summary::damage`] set (its fields are then only what the file claims).
///
/// # Errors
/// As [`load`], if not even the header reads.
pub fn inspect(path: &Path) -> Result<Summary> {
    let map = map(path)?;
    let damage = verify(&map).err();
    let Header { state, table, .. } = match parse(&map) {
        Ok(header) => header,
        Err(reason) => return Err(damaged(path, damage.unwrap_or(reason))),
    };
    let model = || table.iter().filter(|(name, _)| !name.starts_with("optimizer."));
    Ok(Summary {
        path: path.to_path_buf(),
        bytes: map.len() as u64,
        step: state.get(STEP_KEY).and_then(Value::as_u64),
        epoch: state.get(EPOCH_KEY).and_then(Value::as_u64),
        metric: state.get(METRIC_KEY).and_then(Value::as_f64),
        tensors: model().count(),
        parameters: model().map(|(_, entry)| entry.bytes.len() as u64 / 4).sum(),
        optimizer: model().count() < table.len(),
        damage,
    })
}

fn damaged(path: &Path, reason: String) -> CheckpointError {
    CheckpointError::Damaged {
        path: path.to_path_buf(),
        reason: format!("{reason}; {ADVICE}"),
    }
}

fn map(path: &Path) -> Result<MappedFile> {
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

/// Checks that the file is whole, and says what is wrong if it is not.
fn verify(file: &[u8]) -> std::result::Result<(), String> {
    let start = &file[..file.len().min(CHECKSUM_AT)];
    if start.len() > 8 && !HEADER_START.as_bytes().starts_with(&start[8..]) {
        return Err(format!(
            "not a checkpoint of this program (format {FORMAT}), or its beginning is damaged"
        ));
    }
    let Some((stored, rest)) = file
        .get(CHECKSUM_AT..)
        .and_then(|f| f.split_at_checked(CHECKSUM_DIGITS))
    else {
        return Err(format!("cut short: only {} bytes are left", file.len()));
    };
    let mut hash = Xxh3::new();
    hash.update(start);
    hash.update(&[b'0'; CHECKSUM_DIGITS]);
    hash.update(rest);
    if checksum_digits(hash.digest128()).as_bytes() == stored {
        return Ok(());
    }
    Err(match SafeTensors::read_metadata(file) {
        Ok(_) => "its contents were altered: the checksum does not match".into(),
        Err(_) => match expected_length(file) {
            Some(expected) if expected != file.len() as u64 => {
                format!(
                    "{} bytes where {expected} are expected: cut short or altered",
                    file.len()
                )
            }
            _ => "its header was altered or cut short".into(),
        },
    })
}

/// The length that the header claims for the whole file, if the header reads.
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

/// The header; every range of its table lies inside the file.
fn parse(file: &[u8]) -> std::result::Result<Header, String> {
    let (length, metadata) = SafeTensors::read_metadata(file).map_err(|error| format!("not a whole file: {error}"))?;
    let text = |key: &str| metadata.metadata().as_ref().and_then(|texts| texts.get(key));
    let format = match text("format").map(String::as_str) {
        Some(FORMAT) => 2,
        Some(FORMAT_1) => 1,
        Some(format) => return Err(format!("format `{format}` is not known here, only {FORMAT}")),
        None => return Err(format!("not a checkpoint of this program (format {FORMAT})")),
    };
    let state = text("state").ok_or("its state is missing")?;
    let state = serde_json::from_str(state).map_err(|error| format!("its state does not read: {error}"))?;
    let description = match text("description").filter(|_| format > 1) {
        Some(text) => {
            let read = serde_json::from_str(text);
            Some(read.map_err(|error| format!("its description does not read: {error}"))?)
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
