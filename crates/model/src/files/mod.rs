//! Weight files: PyTorch checkpoints (`.ckpt`, `.pth`), safetensors, and conversion between them.
//!
//! [`find`] finds the weights of a path, [`read`] detects the format of a file from its content, and [`write()`] derives the format from
//! the extension. All readers see the same names, without the prefixes of wrappers. [`mapping`] fits the tensors of a file to a model:
//! names with or without `transformer.`, other image sizes, other numbers of token types. Input files are untrusted: nothing in them is
//! executed, and no unchecked field determines the size of an allocation.

pub mod convert;
mod error;
pub(crate) mod heads;
mod hugging_face;
pub mod mapping;
mod names;
mod plain;
mod safetensors;
mod source;
mod state;
mod torch;
pub mod training;
mod view;

pub use convert::with_position_ids;
pub use convert::{Conversion, ConvertReport, convert};
pub use error::{FileError, Problem, TensorProblem};
pub use heads::GivenHeads;
pub use hugging_face::export::{Exported, export};
pub use hugging_face::head::ViltHead;
pub use mapping::{LoadReport, Options, Scope};
pub use source::{WeightFiles, find, index, map};
pub use state::{Dtype, StateDict, StateError, StoredTensor, TensorData};
pub use view::{NonFinite, TensorView, WeightIndex};

use std::path::Path;

use indexmap::IndexMap;
use vlct_util::atomic;

use crate::blocks::BACKBONE_EPS;
use view::RawIndex;

/// Prefix of the image backbone's tensor names in VLC. Names in MAE's files do not have this prefix.
pub const BACKBONE_PREFIX: &str = "transformer.";

/// A buffer of the text embedding with the values 0, 1, 2, …, shape `[1, max_text_len]`. Published checkpoints contain it; newer versions
/// of Hugging Face transformers do not save it.
pub const POSITION_IDS: &str = "text_embeddings.position_ids";

/// Makes a tensor of the values 0, 1, 2, ….
pub(crate) fn position_ids(shape: &[usize]) -> StoredTensor {
    let count: usize = shape.iter().product();
    StoredTensor::new(shape.to_vec(), TensorData::I64((0..count as i64).collect()))
}

/// The format of a weight file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A zip archive of PyTorch 1.6 or later.
    TorchZip,
    /// The format of PyTorch before version 1.6.
    TorchLegacy,
    /// The safetensors format.
    Safetensors,
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::TorchZip => "PyTorch checkpoint (zip archive)",
            Self::TorchLegacy => "PyTorch checkpoint (before version 1.6)",
            Self::Safetensors => "safetensors",
        })
    }
}

/// The naming scheme of the tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// The whole model: `text_embeddings.…`, `transformer.blocks.0.…`, `pooler.…`.
    Vlc,
    /// The image backbone or an image classifier alone: `blocks.0.…`.
    Mae,
}

impl Style {
    /// Detects the naming scheme: VLC if a name starts with `transformer.` or `text_embeddings.`, else MAE.
    pub fn detect<'n>(mut names: impl Iterator<Item = &'n str>) -> Self {
        let is_vlc = |name: &str| name.starts_with(BACKBONE_PREFIX) || name.starts_with("text_embeddings.");
        if names.any(is_vlc) { Self::Vlc } else { Self::Mae }
    }
}

impl std::fmt::Display for Style {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Vlc => "VLC",
            Self::Mae => "MAE",
        })
    }
}

/// The content of a file other than the weights.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Summary {
    /// The key of the dictionary of weights, `a.b` for a dictionary in a dictionary; `None` if the weights are at the top level.
    pub weights_under: Option<String>,
    /// Number of epochs trained, if the file contains it.
    pub epoch: Option<u64>,
    /// Number of optimiser steps taken, if the file contains it.
    pub global_step: Option<u64>,
    /// Keys of the other top-level entries, each with a short description of its value.
    pub entries: Vec<(String, String)>,
    /// The hyper-parameters of a file: the entry `hyper_parameters` of a PyTorch file, with null for values that are not plain data, or of
    /// the metadata of a safetensors file. For files with Hugging Face's names, the content of `config.json` beside the file. Null for
    /// other files.
    pub hyper_parameters: serde_json::Value,
    /// The description of a model by this program, as JSON: model, task and preparation of inputs. Checkpoints and converted files have it.
    pub description: Option<String>,
    /// Keys in the dictionary of weights whose values are not tensors. These values are not read.
    pub skipped: Vec<String>,
    /// Prefixes of wrappers that were removed from names, such as `module.`.
    pub removed_prefixes: Vec<String>,
    /// Whether the names in the file are those of Hugging Face's models (`vit.encoder.layer.0.…`, `vilt.encoder.layer.0.…`). The tensors have
    /// the names of MAE or ViLT.
    pub hugging_face: bool,
    /// Whether the file has checksums of all values. They were verified: a tensor whose values have changed is unreadable.
    pub has_checksums: bool,
}

impl Summary {
    /// Returns the value of a top-level entry.
    pub fn entry(&self, key: &str) -> Option<&str> {
        let found = self.entries.iter().find(|(name, _)| name == key);
        found.map(|(_, value)| value.as_str())
    }
}

/// A weight file in memory.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightFile {
    /// The tensors by the model's names, in the file's order.
    pub state: StateDict,
    /// Tensors whose values cannot be read, each with the reason.
    pub unreadable: IndexMap<String, TensorProblem>,
    /// The format of the file.
    pub format: Format,
    /// The naming scheme of the tensors.
    pub style: Style,
    /// The content of the file other than the weights.
    pub summary: Summary,
}

/// The content to write in addition to the weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// Naming scheme, which determines the top level of a PyTorch file: `{"state_dict": …, "epoch": …}` for VLC, `{"model": …}` for MAE.
    pub style: Style,
    /// Number of epochs trained.
    pub epoch: u64,
    /// Number of optimiser steps taken.
    pub global_step: u64,
    /// Numbers of attention heads. A safetensors file has them in its metadata, a PyTorch file in `hyper_parameters`.
    pub heads: GivenHeads,
    /// ε of the layer norms if it is not that of the published models. It is written like `heads`.
    pub layer_norm_eps: Option<f32>,
    /// The original's configuration, `config` in `hyper_parameters`. PyTorch files with MAE's names do not have it.
    pub configuration: serde_json::Map<String, serde_json::Value>,
    /// The description of the model, as JSON.
    pub description: Option<String>,
    /// Further entries of the metadata of a safetensors file. They are not written to PyTorch files.
    pub metadata: Vec<(String, String)>,
}

impl Header {
    /// Makes the header that keeps what `file` states about its model and training.
    pub fn of(file: &WeightFile) -> Self {
        let (format, summary) = (file.format, &file.summary);
        let layer_norm_eps = heads::Statements::new(format, summary).layer_norm_eps();
        let configuration = summary
            .hyper_parameters
            .get("config")
            .and_then(serde_json::Value::as_object);
        Self {
            epoch: summary.epoch.unwrap_or(0),
            global_step: summary.global_step.unwrap_or(0),
            heads: heads::of_file(format, summary, &file.state),
            layer_norm_eps: layer_norm_eps.filter(|eps| *eps != BACKBONE_EPS),
            // The configuration beside a model of Hugging Face has other keys.
            configuration: configuration
                .filter(|_| !summary.hugging_face)
                .cloned()
                .unwrap_or_default(),
            description: summary.description.clone(),
            ..file.style.into()
        }
    }
}

impl From<Style> for Header {
    fn from(style: Style) -> Self {
        Self {
            style,
            epoch: 0,
            global_step: 0,
            heads: GivenHeads::default(),
            layer_norm_eps: None,
            configuration: serde_json::Map::new(),
            description: None,
            metadata: Vec::new(),
        }
    }
}

/// Reads the weight file of a path (see [`find`]), whose format is detected from its content.
///
/// The file is memory-mapped, so that every value is copied only once. The file must not be truncated during the call. [`write()`] never
/// truncates a file: it replaces the file by a new one.
///
/// # Errors
/// Returns a [`FileError`] with the path if the file cannot be read or the values of a tensor have changed since the file was written.
pub fn read(path: &Path) -> Result<WeightFile, FileError> {
    let files = map(path)?;
    let index = index(&files)?;
    match index.damaged() {
        damaged if damaged.is_empty() => Ok(index.decode()),
        damaged => Err(FileError::new(
            files.path(),
            Problem::Checksums(mapping::abbreviate(&damaged)),
        )),
    }
}

/// Reads the content of a weight file.
///
/// # Errors
/// Returns a [`Problem`] if the content is not a supported or complete weight file.
pub fn read_bytes(bytes: &[u8]) -> Result<WeightFile, Problem> {
    Ok(index_bytes(bytes)?.decode())
}

/// Finds the tensors in the content of a weight file, without copying values.
///
/// # Errors
/// Returns a [`Problem`] if the content is not a supported or complete weight file.
pub fn index_bytes(bytes: &[u8]) -> Result<WeightIndex<'_>, Problem> {
    Ok(raw_index(bytes)?.with_plain_names())
}

fn raw_index(bytes: &[u8]) -> Result<RawIndex<'_>, Problem> {
    match format_of(bytes) {
        Some(Format::TorchZip) => torch::index_archive(bytes),
        Some(Format::TorchLegacy) => torch::index_legacy(bytes),
        Some(Format::Safetensors) => safetensors::index(bytes),
        None => Err(unrecognised(bytes)),
    }
}

/// Returns the format of a file with these first bytes; `None` if it is unknown.
fn format_of(bytes: &[u8]) -> Option<Format> {
    if torch::SIGNATURES.iter().any(|signature| bytes.starts_with(signature)) {
        Some(Format::TorchZip)
    } else if torch::starts_with_magic(bytes) {
        Some(Format::TorchLegacy)
    } else {
        safetensors::starts_with_header(bytes).then_some(Format::Safetensors)
    }
}

/// The signature in the first header of a tar archive.
const TAR_SIGNATURE: &[u8] = b"ustar";
/// Offset of the signature in the archive, in bytes.
const TAR_SIGNATURE_OFFSET: usize = 257;

/// First bytes of files that users confuse with weight files, and what these files are.
const SIGNATURES: [(&[u8], &str); 16] = [
    (
        b"version https://git-lfs",
        "is a Git LFS pointer instead of the file (run `git lfs pull`)",
    ),
    (b"<", "is a web page (the download failed)"),
    (b"\x1f\x8b", "is compressed with gzip (unpack it with gunzip)"),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd (unpack it with unzstd)"),
    (b"\xfd7zXZ", "is compressed with xz (unpack it with unxz)"),
    (b"BZh", "is compressed with bzip2 (unpack it with bunzip2)"),
    (b"ARROW1", "is an Arrow file"),
    (b"\xff\xff\xff\xff", "is an Arrow stream"),
    (b"PAR1", "is a Parquet file"),
    (b"\x89HDF", "is an HDF5 file (such as Keras writes)"),
    (b"\x93NUMPY", "is an array of NumPy"),
    (b"GGUF", "is a GGUF file"),
    (b"\xff\xd8\xff", "is a JPEG image"),
    (b"\x89PNG", "is a PNG image"),
    (b"{", "is a JSON file"),
    (b"\x80", "is a Python pickle that torch.save did not write"),
];

/// Returns the error for content in no supported format. The error names the probable format.
fn unrecognised(bytes: &[u8]) -> Problem {
    if bytes.is_empty() {
        return Problem::Empty;
    }
    let known = SIGNATURES.iter().find(|(signature, _)| bytes.starts_with(signature));
    Problem::Unrecognised(if let Some((_, description)) = known {
        description
    } else if bytes
        .get(TAR_SIGNATURE_OFFSET..)
        .is_some_and(|rest| rest.starts_with(TAR_SIGNATURE))
    {
        "is a tar archive"
    } else {
        "has an unknown format"
    })
}

/// Writes a weight file. The extension determines the format: `.safetensors`, or `.ckpt`, `.pth`, `.pt`, `.bin` for PyTorch.
///
/// The file appears under its name only when it is complete and flushed to the disk. Values are converted in small chunks, so
/// that no second copy of the tensors is in memory.
///
/// # Errors
/// Returns a [`FileError`] if the extension is unknown or the file cannot be written.
pub fn write(path: &Path, state: &StateDict, header: &Header) -> Result<(), FileError> {
    let result = match written_format(path)? {
        Format::Safetensors => atomic::write(path, |out| safetensors::write(out, state, header)),
        Format::TorchZip | Format::TorchLegacy => atomic::write(path, |out| torch::write(out, state, header)),
    };
    result.map_err(|problem| FileError::new(path, problem))
}

/// Writes tensors as a safetensors file whose metadata is that of transformers. The file appears under its name when it is complete.
///
/// # Errors
/// Returns a [`FileError`] if the file cannot be written.
pub fn write_plain(path: &Path, state: &StateDict) -> Result<(), FileError> {
    let written = atomic::write(path, |out| safetensors::write_plain(out, state));
    written.map_err(|problem: Problem| FileError::new(path, problem))
}

/// Returns the description of a model in an entry of a file: JSON with `model` and `inputs`. Other entries of this name are not it.
fn description(entry: &str) -> Option<String> {
    let json: serde_json::Value = serde_json::from_str(entry).ok()?;
    let is_description = ["model", "inputs"]
        .iter()
        .all(|key| json.get(key).is_some_and(serde_json::Value::is_object));
    is_description.then(|| entry.to_owned())
}

/// Returns the format that [`write()`] gives a file with this extension.
///
/// # Errors
/// Returns a [`FileError`] if no format has the extension.
pub fn written_format(path: &Path) -> Result<Format, FileError> {
    let extension = path.extension().unwrap_or_default().to_string_lossy();
    match extension.to_ascii_lowercase().as_str() {
        "safetensors" => Ok(Format::Safetensors),
        "ckpt" | "pth" | "pt" | "bin" => Ok(Format::TorchZip),
        _ => Err(FileError::new(path, Problem::Extension)),
    }
}

#[cfg(test)]
mod tests;
