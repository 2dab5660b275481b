//! Errors of a configuration.

use std::path::PathBuf;

/// An error of a configuration. Its message is one line that names the key or file and the cause.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The key does not exist.
    #[error("unknown key {key:?}: did you mean {nearest:?}?")]
    UnknownKey {
        /// The key as written.
        key: String,
        /// The most similar key.
        nearest: String,
    },
    /// A word without `=` is neither a named config nor a config file.
    #[error("unknown named config {name:?}: did you mean {nearest}?")]
    UnknownNamedConfig {
        /// The word as written.
        name: String,
        /// The most similar named config, or `KEY=VALUE` with the most similar key.
        nearest: String,
    },
    /// A value has the wrong type.
    #[error("{key}={value}: expected {expected}{hint}")]
    WrongType {
        /// The key.
        key: String,
        /// The value as a Python literal.
        value: String,
        /// The type of the key.
        expected: String,
        /// A suggestion that begins with `; `, or an empty string.
        hint: String,
    },
    /// A value has the right type, but is not in the range of the key.
    #[error("{key}={value} is out of range: must be {range}{hint}")]
    OutOfRange {
        /// The key.
        key: String,
        /// The value as a Python literal.
        value: String,
        /// The allowed values.
        range: String,
        /// A suggestion that begins with `; `, or an empty string.
        hint: String,
    },
    /// The values of several keys contradict each other.
    #[error("{0}")]
    Contradiction(String),
    /// A config file cannot be read.
    #[error("{path}: {reason}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        reason: String,
    },
}
