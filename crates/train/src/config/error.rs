//! What can be wrong with a configuration.

use std::path::PathBuf;

/// An error in a configuration: one line that names the key or file, what is wrong and what to write instead.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A key that does not exist.
    #[error("unknown key {key:?}: did you mean {nearest:?}?")]
    UnknownKey {
        /// The key as written.
        key: String,
        /// The most similar key.
        nearest: String,
    },
    /// A word without `=` that is neither a named config nor a config file.
    #[error("unknown named config {name:?}: did you mean {nearest}?")]
    UnknownNamedConfig {
        /// The word as written.
        name: String,
        /// What was probably meant, ready to be written.
        nearest: String,
    },
    /// A value of the wrong type.
    #[error("{key}={value}: expected {expected}{hint}")]
    WrongType {
        /// The key.
        key: String,
        /// The value as a Python literal.
        value: String,
        /// The type of the key.
        expected: String,
        /// What was probably meant: empty, or a clause that begins with a separator.
        hint: String,
    },
    /// A value of the right type that the key does not allow.
    #[error("{key}={value} is out of range: must be {range}{hint}")]
    OutOfRange {
        /// The key.
        key: String,
        /// The value as a Python literal.
        value: String,
        /// The values allowed.
        range: String,
        /// What was probably meant: empty, or a clause that begins with a separator.
        hint: String,
    },
    /// Values that are fine alone but not together.
    #[error("{0}")]
    Contradiction(String),
    /// A config file that cannot be read.
    #[error("{path}: {reason}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}
