//! The safetensors format: a JSON header with names, shapes and offsets, then the values.
//!
//! The crate `safetensors` checks the header. The crate's writer sorts tensors by name, so it is not used: [`write()`] keeps the order
//! of tensors whose values have the same size, and converts values in small chunks.

use std::collections::HashMap;
use std::io::Write;

use indexmap::IndexMap;
use safetensors::tensor::{Metadata, TensorInfo};
use safetensors::{Dtype as FileDtype, SafeTensorError, SafeTensors};

use super::error::{Problem, TensorProblem};
use super::state::{Dtype, StateDict};
use super::view::{RawIndex, TensorView};
use super::{Format, Header, Summary};
use vlct_checkpoint::{self as checkpoint, AVERAGE_PREFIX, MOMENT_PREFIX};

/// Size in bytes of the length field before the header. The header is padded to a multiple of this size.
const LENGTH_SIZE: usize = 8;
/// Key of the metadata in the header; all other keys are names of tensors.
const METADATA_KEY: &str = "__metadata__";

/// Key of the metadata entry in which this program's training checkpoints hold epoch and step as JSON.
const STATE_KEY: &str = "state";

/// Key of the metadata entry with the hyper-parameters, as JSON.
const HYPER_PARAMETERS: &str = "hyper_parameters";
/// Key of the metadata entry with the description of the model, as JSON.
const DESCRIPTION: &str = "description";

/// Whether the bytes begin as a safetensors file does, with a length of at least 2 and an opening brace.
pub(super) fn starts_with_header(bytes: &[u8]) -> bool {
    let Some((length, header)) = bytes.split_first_chunk::<LENGTH_SIZE>() else {
        return false;
    };
    header.first() == Some(&b'{') && u64::from_le_bytes(*length) >= 2
}

/// Finds the tensors of a file without copying values. Verifies the checksum of a checkpoint of this program.
pub(super) fn index(bytes: &[u8]) -> Result<RawIndex<'_>, Problem> {
    let is_checkpoint = checkpoint::begins_as_checkpoint(bytes);
    if is_checkpoint {
        checkpoint::verify(bytes).map_err(Problem::Checkpoint)?;
    }
    let (header_length, metadata) = SafeTensors::read_metadata(bytes)?;
    let format = metadata.metadata().as_ref().and_then(|entries| entries.get("format"));
    let has_checksums = is_checkpoint || format.is_some_and(|format| checkpoint::is_format(format));
    if has_checksums && !is_checkpoint {
        checkpoint::verify(bytes).map_err(Problem::Checkpoint)?;
    }
    let values = &bytes[LENGTH_SIZE + header_length..];
    let (mut tensors, mut averages) = (IndexMap::new(), IndexMap::new());
    for name in metadata.offset_keys() {
        let Some(info) = metadata.info(&name) else { continue };
        // `read_metadata` has checked that offsets, shapes and the length of the file agree.
        let (start, end) = info.data_offsets;
        let view = from_safetensors(info.dtype)
            .map(|dtype| TensorView::contiguous(info.shape.clone(), dtype, &values[start..end], false))
            .ok_or_else(|| TensorProblem::UnsupportedDtype(info.dtype.to_string()));
        match (view, name.strip_prefix(AVERAGE_PREFIX)) {
            _ if is_checkpoint && name.starts_with(MOMENT_PREFIX) => {}
            (Ok(view), Some(averaged)) if is_checkpoint => drop(averages.insert(averaged.to_owned(), view)),
            (view, _) => drop(tensors.insert(name, view)),
        }
    }
    if tensors.is_empty() {
        return Err(Problem::NoWeights {
            found: "the file has no tensors".into(),
        });
    }
    let mut entries: Vec<_> = metadata.metadata().clone().unwrap_or_default().into_iter().collect();
    entries.sort();
    let entry = |name: &str| {
        entries
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    };
    let training_state: serde_json::Value = entry(STATE_KEY)
        .and_then(|json| serde_json::from_str(json).ok())
        .unwrap_or_default();
    let number = |name: &str| match entry(name) {
        Some(value) => value.parse().ok(),
        None => training_state.get(name)?.as_u64(),
    };
    let hyper_parameters = entry(HYPER_PARAMETERS).and_then(|json| serde_json::from_str(json).ok());
    let description = entry(DESCRIPTION).and_then(super::description);
    Ok(RawIndex {
        tensors,
        averages,
        format: Format::Safetensors,
        summary: Summary {
            hyper_parameters: hyper_parameters.unwrap_or_default(),
            description,
            epoch: number("epoch"),
            global_step: number("global_step"),
            entries,
            has_checksums,
            ..Summary::default()
        },
    })
}

/// Writes the tensors of a model with a header.
pub(super) fn write(out: &mut dyn Write, state: &StateDict, header: &Header) -> Result<(), Problem> {
    let mut metadata: HashMap<String, String> = header.metadata.iter().cloned().collect();
    metadata.extend(super::heads::metadata(header.heads));
    metadata.extend(
        header
            .layer_norm_eps
            .map(|eps| (super::heads::LAYER_NORM_EPS.into(), eps.to_string())),
    );
    metadata.insert("epoch".into(), header.epoch.to_string());
    metadata.insert("global_step".into(), header.global_step.to_string());
    if !header.configuration.is_empty() {
        let hyper_parameters = serde_json::json!({"config": header.configuration});
        metadata.insert(HYPER_PARAMETERS.into(), hyper_parameters.to_string());
    }
    metadata.extend(
        header
            .description
            .iter()
            .map(|json| (DESCRIPTION.to_owned(), json.clone())),
    );
    write_tensors(out, state, metadata)
}

/// Writes tensors without a header.
pub(super) fn write_plain(out: &mut dyn Write, state: &StateDict) -> Result<(), Problem> {
    write_tensors(out, state, HashMap::new())
}

fn write_tensors(out: &mut dyn Write, state: &StateDict, mut metadata: HashMap<String, String>) -> Result<(), Problem> {
    // Tensors with the widest values come first, so that every tensor begins at a multiple of the size of its values.
    let mut tensors: Vec<_> = state.iter().collect();
    tensors.sort_by_key(|(_, tensor)| std::cmp::Reverse(tensor.data.dtype().size()));

    let mut infos = Vec::with_capacity(tensors.len());
    let mut start = 0;
    for (name, tensor) in &tensors {
        if *name == METADATA_KEY {
            return Err(Problem::Safetensors(SafeTensorError::TensorInvalidInfo));
        }
        let end = start + tensor.data.len() * tensor.data.dtype().size();
        let info = TensorInfo {
            dtype: to_safetensors(tensor.data.dtype()),
            shape: tensor.shape.clone(),
            data_offsets: (start, end),
        };
        infos.push((name.to_string(), info));
        start = end;
    }
    // Other readers of the format expect the name of the framework.
    metadata.insert("format".into(), "pt".into());
    let metadata = Metadata::new(Some(metadata), infos)?;
    let mut json = json_header(&metadata).map_err(SafeTensorError::JsonError)?;
    json.resize(json.len().next_multiple_of(LENGTH_SIZE), b' ');

    out.write_all(&(json.len() as u64).to_le_bytes())?;
    out.write_all(&json)?;
    for (_, tensor) in tensors {
        tensor.data.write_le(out)?;
    }
    Ok(())
}

/// Returns the header as JSON. The metadata is sorted, so that equal weights give equal bytes.
fn json_header(metadata: &Metadata) -> serde_json::Result<Vec<u8>> {
    let mut json = serde_json::to_value(metadata)?;
    if let Some(serde_json::Value::Object(entries)) = json.get_mut(METADATA_KEY) {
        entries.sort_keys();
    }
    serde_json::to_vec(&json)
}

fn from_safetensors(dtype: FileDtype) -> Option<Dtype> {
    Some(match dtype {
        FileDtype::F32 => Dtype::F32,
        FileDtype::F64 => Dtype::F64,
        FileDtype::F16 => Dtype::F16,
        FileDtype::BF16 => Dtype::BF16,
        FileDtype::I64 => Dtype::I64,
        FileDtype::I32 => Dtype::I32,
        FileDtype::I16 => Dtype::I16,
        FileDtype::I8 => Dtype::I8,
        FileDtype::U8 => Dtype::U8,
        FileDtype::BOOL => Dtype::Bool,
        _ => return None,
    })
}

fn to_safetensors(dtype: Dtype) -> FileDtype {
    match dtype {
        Dtype::F32 => FileDtype::F32,
        Dtype::F64 => FileDtype::F64,
        Dtype::F16 => FileDtype::F16,
        Dtype::BF16 => FileDtype::BF16,
        Dtype::I64 => FileDtype::I64,
        Dtype::I32 => FileDtype::I32,
        Dtype::I16 => FileDtype::I16,
        Dtype::I8 => FileDtype::I8,
        Dtype::U8 => FileDtype::U8,
        Dtype::Bool => FileDtype::BOOL,
    }
}
