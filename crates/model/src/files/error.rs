//! What can be wrong with a weight file.

use std::path::{Path, PathBuf};

use vlct_pickle::PickleError;

/// A weight file could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct FileError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
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

/// What is wrong with a weight file.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The system could not open, read or write it.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// A directory, device or pipe.
    #[error("is not a regular file")]
    NotAFile,
    /// No bytes at all.
    #[error("is empty")]
    Empty,
    /// The content belongs to no known format.
    #[error("{0}; expected a PyTorch checkpoint (.ckpt, .pth) or a .safetensors file")]
    Unrecognised(&'static str),
    /// The name's extension belongs to no known format.
    #[error("has an extension that names no format to write; use .ckpt, .pth, .pt, .bin or .safetensors")]
    Extension,
    /// The zip archive's structure is damaged.
    #[error("the archive is damaged or incomplete: {}", vlct_util::text::one_line(.0))]
    Archive(String),
    /// An entry of the zip archive is compressed or encrypted, which PyTorch never does.
    #[error("entry {} of the archive is compressed or encrypted; save the checkpoint again with torch.save", vlct_util::text::one_line(.0))]
    Compressed(String),
    /// A zip archive that PyTorch did not write.
    #[error("is a zip archive without data.pkl, so it is no PyTorch checkpoint")]
    NoPickle,
    /// A compiled program.
    #[error("is a TorchScript program, not a checkpoint; save the model's state_dict with torch.save")]
    TorchScript,
    /// The pickled part is malformed.
    #[error("{0}")]
    Pickle(#[from] PickleError),
    /// The older PyTorch format ends or contradicts itself.
    #[error("the checkpoint in PyTorch's older format is damaged or incomplete: {0}")]
    Legacy(String),
    /// The weights would be made by calling something unknown.
    #[error(
        "{} would be made by calling {}, which is neither known nor run; save plain tensors, as model.state_dict() gives them",
        vlct_util::text::one_line(place),
        vlct_util::text::one_line(callable)
    )]
    ForeignCallable {
        /// Where in the file.
        place: String,
        /// The class or function.
        callable: String,
    },
    /// There are no tensors where weights are looked for.
    #[error("holds no named tensors under `model`, under `state_dict` or at its top level")]
    NoWeights,
    /// Nothing is left when only the image backbone is asked for.
    #[error("holds no tensors of the image backbone (`transformer.…`)")]
    NoBackbone,
    /// One tensor is damaged or of an unsupported kind.
    #[error("tensor {}: {problem}", vlct_util::text::one_line(name))]
    Tensor {
        /// The tensor.
        name: String,
        /// What is wrong with it.
        problem: TensorProblem,
    },
    /// The tensors together claim more memory than sharing can explain.
    #[error("the tensors claim more than {limit} bytes, far beyond what the file holds")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// The safetensors header is malformed.
    #[error("{}", vlct_util::text::one_line(.0))]
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

/// What is wrong with a tensor in a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TensorProblem {
    /// Its description does not have the form PyTorch gives it.
    #[error("malformed {0}")]
    Malformed(&'static str),
    /// An element type that weights do not use.
    #[error("holds values of the unsupported kind {}", vlct_util::text::one_line(.0))]
    UnsupportedDtype(String),
    /// The file lacks its values.
    #[error("its storage {0:?} is not in the file")]
    MissingStorage(String),
    /// It claims more values than the file has for it.
    #[error("shape {shape:?} reaches beyond its storage of {available} values")]
    BeyondStorage {
        /// The sizes it claims.
        shape: Vec<usize>,
        /// Number of values that exist.
        available: usize,
    },
}
