//! Errors of references and downloads.

use std::path::PathBuf;

use vlct_util::IoError;

/// The reason why the weights of a reference are not available.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The text begins like a reference and is none.
    #[error("{text:?} is not a reference: {reason}")]
    Reference {
        /// The reference.
        text: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// The path of `local-dir:` is not a directory.
    #[error("local-dir:{path}: it is not a directory; give the directory that save_pretrained wrote", path = .0.display())]
    NotADirectory(PathBuf),
    /// The value of an environment variable cannot be used.
    #[error("{variable}: {reason}")]
    Variable {
        /// Name of the variable.
        variable: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The server does not give access to a repository or file.
    #[error("{what}: {reason}")]
    Access {
        /// The repository or file.
        what: String,
        /// What to do.
        reason: &'static str,
    },
    /// The repository, revision or file does not exist.
    #[error("{what}: {missing} does not exist on {host}")]
    Missing {
        /// The repository with its revision, or the file.
        what: String,
        /// What is missing: "the repository", "the revision" or "the file".
        missing: &'static str,
        /// The server.
        host: String,
    },
    /// The server could not be reached, or its answers failed, also after several tries.
    #[error("{host} cannot be used: {reason}")]
    Unreachable {
        /// The server.
        host: String,
        /// The last failure.
        reason: String,
    },
    /// An answer of the server has wrong or unexpected content.
    #[error("unexpected answer of {host}: {reason}")]
    Answer {
        /// The server.
        host: String,
        /// What is wrong.
        reason: String,
    },
    /// A file has wrong content after a second download.
    #[error("{file}: {reason}; the file was deleted, since it is damaged on the server or on the way")]
    Damaged {
        /// The repository and the file.
        file: String,
        /// What differs.
        reason: String,
    },
    /// A repository has no weights.
    #[error("{repository}: the repository has no weights: {reason}")]
    NoWeights {
        /// Name of the repository.
        repository: String,
        /// What it has.
        reason: String,
    },
    /// Downloads are switched off and the cache lacks the files.
    #[error("{repository}: not in the cache {directory}, and downloads are switched off by {variable}", directory = .directory.display())]
    Offline {
        /// The repository with its revision.
        repository: String,
        /// The directory of the cache.
        directory: PathBuf,
        /// The environment variables.
        variable: &'static str,
    },
    /// This CPU cannot do the arithmetic of https.
    #[error(
        "https needs instructions that this CPU lacks ({lacking}); download the files on another computer, and give their directory as local-dir:PATH"
    )]
    Cpu {
        /// Names of the instructions.
        lacking: String,
    },
    /// A file of the cache cannot be read or written.
    #[error(transparent)]
    Io(#[from] IoError),
}

impl HubError {
    /// Returns whether an older answer of the same server is better than this error: the server cannot be used, or gives no access now.
    pub(crate) fn allows_cache(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. } | Self::Access { .. } | Self::Cpu { .. } | Self::Answer { .. }
        )
    }
}
