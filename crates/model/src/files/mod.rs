//! Weight files: PyTorch checkpoints (`.ckpt`, `.pth`), safetensors, and the ways between them.
//!
//! [`read`] tells a file's format by its content and gives back a [`StateDict`], [`write()`] takes the format from the
//! extension. [`mapping::adapt`] fits what was read to a model: names with or without `transformer.`, other image sizes, other
//! numbers of token types. Input files are untrusted: nothing in them is
//! executed, and no allocation is sized by an unchecked field.

pub mod convert;
mod error;
pub mod mapping;
mod safetensors;
mod state;
mod torch;

pub use convert::convert;
pub use error::{FileError, Problem, TensorProblem};
pub use mapping::{LoadReport, Options, Scope, adapt};
pub use state::{Dtype, StateDict, StateError, StoredTensor, TensorData};

use std::path::Path;

use vlct_util::{MappedFile, atomic};

/// What VLC puts in front of the names of its image backbone, and MAE does not.
pub const BACKBONE_PREFIX: &str = "transformer.";

/// How a file's bytes are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A zip archive of PyTorch 1.6 or later.
    TorchZip,
    /// The format of PyTorch before version 1.6.
    TorchLegacy,
    /// A safetensors file.
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

/// Whose names the tensors have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// The whole model: `text_embeddings.…`, `transformer.blocks.0.…`, `pooler.…`.
    Vlc,
    /// The image backbone or an image classifier alone: `blocks.0.…`.
    Mae,
}

impl Style {
    /// Whose names these are.
    pub fn of(state: &StateDict) -> Self {
        let is_vlc = |name: &str| name.starts_with(BACKBONE_PREFIX) || name.starts_with("text_embeddings.");
        if state.names().any(is_vlc) {
            Self::Vlc
        } else {
            Self::Mae
        }
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

/// What a file holds beside the weights.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Summary {
    /// The top-level key the weights were found under, if any.
    pub weights_under: Option<String>,
    /// Epochs trained, if the file says so.
    pub epoch: Option<u64>,
    /// Optimiser steps taken, if the file says so.
    pub global_step: Option<u64>,
    /// Everything else at the top level, in words of limited length.
    pub entries: Vec<(String, String)>,
    /// Entries among the weights that are no tensors and were left out.
    pub skipped: Vec<String>,
}

/// A weight file in memory.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightFile {
    /// The tensors, in the file's order.
    pub state: StateDict,
    /// How the file was laid out.
    pub format: Format,
    /// Whose names the tensors have.
    pub style: Style,
    /// What else is in the file.
    pub summary: Summary,
}

/// What to write beside the weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// Decides the top level of a PyTorch file: `{"state_dict": …, "epoch": …}` for VLC, `{"model": …}` for MAE.
    pub style: Style,
    /// Epochs trained.
    pub epoch: u64,
    /// Optimiser steps taken.
    pub global_step: u64,
    /// Further text for the metadata of a safetensors file; PyTorch files do not get it.
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

/// Reads a weight file; the content decides the format, not the name.
///
/// The file is memory-mapped, so that every value is copied once. It must not be shortened meanwhile; files
/// written by [`write()`] never are, a new file takes the old one's place.
///
/// # Errors
/// [`FileError`] says which file and what is wrong with it.
pub fn read(path: &Path) -> Result<WeightFile, FileError> {
    let map = || -> Result<MappedFile, Problem> {
        if !std::fs::metadata(path)?.is_file() {
            return Err(Problem::NotAFile);
        }
        Ok(MappedFile::open(path).map_err(|error| error.source)?)
    };
    map()
        .and_then(|bytes| read_bytes(&bytes))
        .map_err(|problem| FileError::new(path, problem))
}

/// Reads a weight file that is already in memory.
///
/// # Errors
/// [`Problem`] says what is wrong with it.
pub fn read_bytes(bytes: &[u8]) -> Result<WeightFile, Problem> {
    if torch::SIGNATURES.iter().any(|signature| bytes.starts_with(signature)) {
        torch::read_archive(bytes)
    } else if torch::starts_with_magic(bytes) {
        torch::read_legacy(bytes)
    } else if safetensors::looks_like(bytes) {
        safetensors::read(bytes)
    } else {
        Err(unrecognised(bytes))
    }
}

/// The offset and bytes that tell a tar archive.
const TAR: (usize, &[u8]) = (257, b"ustar");

/// What a file of no known format might be.
fn unrecognised(bytes: &[u8]) -> Problem {
    if bytes.is_empty() {
        return Problem::Empty;
    }
    Problem::Unrecognised(if bytes.starts_with(b"version https://git-lfs") {
        "is a Git LFS pointer in the place of a file (run `git lfs pull`)"
    } else if bytes[0] == b'<' {
        "is a web page (the download failed)"
    } else if bytes.get(TAR.0..).is_some_and(|rest| rest.starts_with(TAR.1)) {
        "is a tar archive"
    } else if bytes[0] == 0x80 {
        "is a Python pickle that torch.save did not write"
    } else {
        "has an unknown format"
    })
}

/// Writes a weight file, in the format that the extension names: `.safetensors`, or `.ckpt`, `.pth`, `.pt`, `.bin` for PyTorch.
///
/// The file appears under its name only when it is complete and on the disk. Values are converted in pieces: no second copy of
/// the tensors is made.
///
/// # Errors
/// [`FileError`] if the extension is unknown or the file cannot be written.
pub fn write(path: &Path, state: &StateDict, header: &Header) -> Result<(), FileError> {
    let extension = path
        .extension()
        .unwrap_or_default()
        .to_string_lossy()
        .to_ascii_lowercase();
    let result = match extension.as_str() {
        "safetensors" => atomic::write(path, |out| safetensors::write(out, state, header)),
        "ckpt" | "pth" | "pt" | "bin" => atomic::write(path, |out| torch::write(out, state, header)),
        _ => Err(Problem::Extension),
    };
    result.map_err(|problem| FileError::new(path, problem))
}

#[cfg(test)]
mod tests;
