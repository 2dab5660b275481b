//! Errors of reading and writing weight files.

use std::path::{Path, PathBuf};

use vlct_pickle::PickleError;

/// A weight file could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct FileError {
    /// The file.
    pub path: PathBuf,
    /// The reason.
    #[source]
    pub problem: Problem,
}

impl FileError {
    pub(crate) fn new(path: &Path, problem: impl Into<Problem>) -> Self {
        Self {
            path: path.to_owned(),
            problem: problem.into(),
        }
    }
}

/// The reason why a weight file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// Opening, reading or writing the file failed.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The configuration of a model of Hugging Face is not valid JSON.
    #[error("the configuration cannot be read: {0}")]
    Configuration(String),
    /// The path is a directory, device or pipe.
    #[error("is not a regular file")]
    NotAFile,
    /// The file has no bytes.
    #[error("is empty")]
    Empty,
    /// The content has no supported format.
    #[error("{0}; expected a PyTorch checkpoint (.ckpt, .pth) or a .safetensors file")]
    Unrecognised(&'static str),
    /// The extension does not determine a format to write.
    #[error("has an extension that is not supported for writing; use .ckpt, .pth, .pt, .bin or .safetensors")]
    Extension,
    /// The structure of the zip archive is damaged.
    #[error("the archive is damaged or incomplete: {}", vlct_util::text::one_line(.0))]
    Archive(String),
    /// An entry of the zip archive is compressed or encrypted, which PyTorch never does.
    #[error("entry {} of the archive is compressed or encrypted; save the checkpoint again with torch.save", vlct_util::text::one_line(.0))]
    Compressed(String),
    /// The zip archive was not written by PyTorch.
    #[error("is a zip archive without data.pkl, so it is not a PyTorch checkpoint")]
    NoPickle,
    /// The file is a compiled TorchScript program.
    #[error("is a TorchScript program, not a checkpoint; save the model's state_dict with torch.save")]
    TorchScript,
    /// The pickle is malformed.
    #[error("{0}")]
    Pickle(#[from] PickleError),
    /// A checkpoint in the format of PyTorch before version 1.6 is truncated or inconsistent.
    #[error("the checkpoint in PyTorch's older format is damaged or incomplete: {0}")]
    Legacy(String),
    /// The weights would be made by a call of a function or class other than those that PyTorch uses for tensors.
    #[error(
        "{} would be made by calling {}, which is not supported; save plain tensors, as returned by model.state_dict()",
        vlct_util::text::one_line(entry),
        vlct_util::text::one_line(callable)
    )]
    ForeignCallable {
        /// The entry of the file that the call makes.
        entry: String,
        /// The class or function.
        callable: String,
    },
    /// There are no named tensors at the places where weights are looked for.
    #[error("holds no named tensors: {}", vlct_util::text::one_line(found))]
    NoWeights {
        /// What the file has instead.
        found: String,
    },
    /// A directory has no weights.
    #[error("the directory has no weights; {found}")]
    NoWeightsInDirectory {
        /// A clause about the weight files that the directory has.
        found: String,
    },
    /// A file of an index is missing.
    #[error("the file does not exist, but {index} names it; download all files of the model")]
    MissingPart {
        /// The index.
        index: String,
    },
    /// The index of several weight files is malformed.
    #[error("the index is damaged: {}", vlct_util::text::one_line(.0))]
    Index(String),
    /// A checkpoint of this program is damaged.
    #[error("{0}; use another checkpoint of the run (`last` or `best`), or save the weights again")]
    Checkpoint(String),
    /// Values of tensors have changed since the file was written.
    #[error(
        "the file is damaged, copy or download it again: tensors do not have their checksums (CRC-32): {}",
        vlct_util::text::one_line(.0)
    )]
    Checksums(String),
    /// The state of an optimiser does not have PyTorch's form.
    #[error("the state of the optimiser is malformed: {0}")]
    Optimizer(&'static str),
    /// A tensor of the state of an optimiser cannot be read.
    #[error("the state of the optimiser is damaged: {0}")]
    OptimizerTensor(TensorProblem),
    /// The conversion to MAE's names found no tensors of the image backbone.
    #[error("holds no tensors of the image backbone (`transformer.…`)")]
    NoBackbone,
    /// The safetensors header is malformed.
    #[error("the safetensors file is damaged or incomplete, copy it again: {}", vlct_util::text::one_line(.0))]
    Safetensors(#[from] safetensors::SafeTensorError),
}

impl From<zip::result::ZipError> for Problem {
    fn from(error: zip::result::ZipError) -> Self {
        match error {
            zip::result::ZipError::Io(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => Self::Io(error),
            error => Self::Archive(error.to_string()),
        }
    }
}

/// The reason why a tensor could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TensorProblem {
    /// A part of the tensor's description does not have PyTorch's form.
    #[error("malformed {0}")]
    Malformed(&'static str),
    /// The element type or tensor class is not supported.
    #[error("has the unsupported type {}", vlct_util::text::one_line(.0))]
    UnsupportedDtype(String),
    /// The file does not contain the tensor's storage.
    #[error("its storage {0:?} is not in the file")]
    MissingStorage(String),
    /// The value is not a tensor, but would be made by a call of a function or class that PyTorch does not use for tensors.
    #[error("would be made by calling {}", vlct_util::text::one_line(.0))]
    ForeignCallable(String),
    /// The tensor would take several times the size of the file, which is more than shared storages explain.
    #[error("would take {size} bytes, with the tensors before it several times the size of the file")]
    TooLarge {
        /// Size of the tensor in bytes.
        size: usize,
    },
    /// The index says that the tensor is in a file which does not have it.
    #[error("is not in {}, where the index says that it is", vlct_util::text::one_line(.0))]
    NotInPart(String),
    /// The tensor is made of several tensors of the file, one of which is missing.
    #[error("is made of query, key and value, but the file has no tensor {}", vlct_util::text::one_line(.0))]
    MissingPart(String),
    /// The tensors of which the tensor is made differ in shape or element type, or have no axis.
    #[error("is made of query, key and value, which have different types or shapes: {0}")]
    PartsDiffer(String),
    /// The values have changed since the file was written.
    #[error("does not have its checksum (CRC-32): the file is damaged, copy or download it again")]
    Checksum,
    /// Offset, shape and strides exceed the storage.
    #[error("shape {shape:?} reaches beyond its storage of {available} values")]
    BeyondStorage {
        /// The declared shape.
        shape: Vec<usize>,
        /// Number of values of the storage.
        available: usize,
    },
}
