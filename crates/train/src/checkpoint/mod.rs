//! Checkpoints: atomic, checksummed, complete.
//!
//! A checkpoint is one file, `<run>/last/checkpoint.safetensors` (the best one so far: `<run>/best/…`), which any
//! safetensors reader opens. It holds
//!
//! - the model's tensors under their published names,
//! - the optimiser's tensors as `optimizer.exp_avg.<name>` and `optimizer.exp_avg_sq.<name>`,
//! - in `__metadata__`: `format` ([`FORMAT`]), `state` (JSON: whatever else the trainer needs to continue) and
//!   `checksum` (XXH3, 128 bits, over every byte of the file with the checksum's own 32 digits taken as zeros).
//!
//! Saving writes a temporary file beside the target, flushes it to the disk, renames it and flushes the folder: at
//! every moment either the previous or the new checkpoint is there, whole. Loading checks the checksum before anything
//! else is believed.

mod error;
mod read;
mod write;

use std::path::{Path, PathBuf};

pub use error::{CheckpointError, Previous, Result};
pub use read::{Checkpoint, Summary, inspect, load};
pub use write::{TensorRef, save};

/// What `__metadata__.format` says in files of this layout.
pub const FORMAT: &str = "vlct-checkpoint-1";

/// Name of the file inside `last/` and `best/`.
pub const FILE_NAME: &str = "checkpoint.safetensors";

/// Key of `state` under which [`inspect`] and error messages find the number of optimiser steps taken.
pub const STEP_KEY: &str = "global_step";

/// Key of `state` under which [`inspect`] finds the epoch.
pub const EPOCH_KEY: &str = "epoch";

/// Key of `state` under which [`inspect`] finds the best value of the monitored metric.
pub const METRIC_KEY: &str = "best_metric";

/// The most recent checkpoint of a run directory (where it is, or would be).
pub fn last_path(run: &Path) -> PathBuf {
    run.join("last").join(FILE_NAME)
}

/// The best checkpoint of a run directory (where it is, or would be).
pub fn best_path(run: &Path) -> PathBuf {
    run.join("best").join(FILE_NAME)
}

/// Largest header that safetensors readers accept, in bytes.
const MAX_HEADER: usize = 100_000_000;

/// What every checkpoint begins with after the eight bytes of the header's length; the 32 digits of the checksum follow.
const HEADER_START: &str = r#"{"__metadata__":{"checksum":""#;

/// Where the checksum's digits begin in the file.
const CHECKSUM_AT: usize = 8 + HEADER_START.len();

/// Number of hexadecimal digits of the checksum.
const CHECKSUM_DIGITS: usize = 32;

#[cfg(test)]
mod tests;
