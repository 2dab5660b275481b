//! Weight files: PyTorch checkpoints (`.ckpt`, `.pth`), safetensors, and conversion between them.
//!
//! [`read`] detects the format of a file from its content, and [`write()`] derives the format from the extension. [`mapping::adapt`] fits
//! a state dict to a model: names with or without `transformer.`, other image sizes, other numbers of token types. Input files are
//! untrusted: nothing in them is executed, and no unchecked field determines the size of an allocation.

pub mod convert;
mod error;
pub mod mapping;
mod safetensors;
mod state;
mod torch;
mod view;

pub use convert::convert;
pub(crate) use convert::with_position_ids;
pub use error::{FileError, Problem, TensorProblem};
pub use mapping::{LoadReport, Options, Scope, adapt};
pub use state::{Dtype, StateDict, StateError, StoredTensor, TensorData};
pub use view::{TensorView, WeightIndex};

use std::path::Path;

use vlct_util::{MappedFile, atomic};

/// Prefix of the image backbone's tensor names in VLC. Names in MAE's files do not have this prefix.
pub const BACKBONE_PREFIX: &str = "transformer.";

/// A buffer of the text embedding with the values 0, 1, 2, …, shape `[1, max_text_len]`. Published checkpoints contain it; newer versions
/// of Hugging Face transformers do not save it.
pub(crate) const POSITION_IDS: &str = "text_embeddings.position_ids";

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
    /// The top-level key of the dictionary of weights; `None` if the weights are at the top level.
    pub weights_under: Option<String>,
    /// Number of epochs trained, if the file contains it.
    pub epoch: Option<u64>,
    /// Number of optimiser steps taken, if the file contains it.
    pub global_step: Option<u64>,
    /// Keys of the other top-level entries, each with a short description of its value.
    pub entries: Vec<(String, String)>,
    /// The hyper-parameters of a PyTorch file: the entry `hyper_parameters`, with null for values that are not plain data. Null for other
    /// files.
    pub hyper_parameters: serde_json::Value,
    /// Keys in the dictionary of weights whose values are not tensors. These values are not read.
    pub skipped: Vec<String>,
}

/// A weight file in memory.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightFile {
    /// The tensors, in the file's order.
    pub state: StateDict,
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
    /// Further entries of the metadata of a safetensors file. They are not written to PyTorch files.
    pub metadata: Vec<(String, String)>,
}

impl From<Style> for Header {
    fn from(style: Style) -> Self {
        Self {
            style,
            epoch: 0,
            global_step: 0,
            metadata: Vec::new(),
        }
    }
}

/// Reads a weight file, whose format is detected from its content.
///
/// The file is memory-mapped, so that every value is copied only once. The file must not be truncated during the call. [`write()`] never
/// truncates a file: it replaces the file by a new one.
///
/// # Errors
/// Returns a [`FileError`] with the path if the file cannot be read.
pub fn read(path: &Path) -> Result<WeightFile, FileError> {
    read_bytes(&map(path)?).map_err(|problem| FileError::new(path, problem))
}

/// Maps a weight file into memory, for [`index`].
///
/// # Errors
/// Returns a [`FileError`] with the path if the path is not a regular file or cannot be opened.
pub fn map(path: &Path) -> Result<MappedFile, FileError> {
    let map = || -> Result<MappedFile, Problem> {
        if !std::fs::metadata(path)?.is_file() {
            return Err(Problem::NotAFile);
        }
        Ok(MappedFile::open(path).map_err(|error| error.source)?)
    };
    map().map_err(|problem| FileError::new(path, problem))
}

/// Reads the content of a weight file.
///
/// # Errors
/// Returns a [`Problem`] if the content is not a supported or complete weight file.
pub fn read_bytes(bytes: &[u8]) -> Result<WeightFile, Problem> {
    Ok(index_bytes(bytes)?.decode())
}

/// Finds the tensors of a mapped weight file, without copying values.
///
/// # Errors
/// Returns a [`FileError`] with the path if the content is not a supported or complete weight file.
pub fn index(file: &MappedFile) -> Result<WeightIndex<'_>, FileError> {
    index_bytes(file).map_err(|problem| FileError::new(file.path(), problem))
}

/// Finds the tensors in the content of a weight file, without copying values.
///
/// # Errors
/// Returns a [`Problem`] if the content is not a supported or complete weight file.
pub fn index_bytes(bytes: &[u8]) -> Result<WeightIndex<'_>, Problem> {
    if torch::SIGNATURES.iter().any(|signature| bytes.starts_with(signature)) {
        torch::index_archive(bytes)
    } else if torch::starts_with_magic(bytes) {
        torch::index_legacy(bytes)
    } else if safetensors::starts_with_header(bytes) {
        safetensors::index(bytes)
    } else {
        Err(unrecognised(bytes))
    }
}

/// The signature in the first header of a tar archive.
const TAR_SIGNATURE: &[u8] = b"ustar";
/// Offset of the signature in the archive, in bytes.
const TAR_SIGNATURE_OFFSET: usize = 257;

/// Returns the error for content in no supported format. The error names the probable format.
fn unrecognised(bytes: &[u8]) -> Problem {
    if bytes.is_empty() {
        return Problem::Empty;
    }
    Problem::Unrecognised(if bytes.starts_with(b"version https://git-lfs") {
        "is a Git LFS pointer instead of the file (run `git lfs pull`)"
    } else if bytes[0] == b'<' {
        "is a web page (the download failed)"
    } else if bytes
        .get(TAR_SIGNATURE_OFFSET..)
        .is_some_and(|rest| rest.starts_with(TAR_SIGNATURE))
    {
        "is a tar archive"
    } else if bytes[0] == 0x80 {
        "is a Python pickle that torch.save did not write"
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

/// Returns the format that [`write()`] gives a file with this extension.
pub(crate) fn written_format(path: &Path) -> Result<Format, FileError> {
    let extension = path.extension().unwrap_or_default().to_string_lossy();
    match extension.to_ascii_lowercase().as_str() {
        "safetensors" => Ok(Format::Safetensors),
        "ckpt" | "pth" | "pt" | "bin" => Ok(Format::TorchZip),
        _ => Err(FileError::new(path, Problem::Extension)),
    }
}

#[cfg(test)]
mod tests;
