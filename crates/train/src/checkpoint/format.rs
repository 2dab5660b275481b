//! The layout of a checkpoint file, and where checkpoints lie.

use std::path::{Path, PathBuf};

/// What `__metadata__.format` says in files of this layout.
pub const FORMAT: &str = "vlct-checkpoint-2";

/// The first format: without a description, and with the state of the beginning of a window.
pub(super) const FORMAT_1: &str = "vlct-checkpoint-1";

/// Name of the file inside `last/` and `best/`.
pub const FILE_NAME: &str = "checkpoint.safetensors";

/// Key of `state` under which [`inspect`](super::inspect) and error messages find the number of optimiser steps taken.
pub const STEP_KEY: &str = "global_step";

/// Key of `state` under which [`inspect`](super::inspect) finds the epoch.
pub const EPOCH_KEY: &str = "epoch";

/// Key of `state` under which [`inspect`](super::inspect) finds the best value of the monitored metric.
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
pub(super) const MAX_HEADER: usize = 100_000_000;

/// What every checkpoint begins with after the eight bytes of the header's length; the 32 digits of the checksum follow.
pub(super) const HEADER_START: &str = r#"{"__metadata__":{"checksum":""#;

/// Where the checksum's digits begin in the file.
pub(super) const CHECKSUM_AT: usize = 8 + HEADER_START.len();

/// Number of hexadecimal digits of the checksum.
pub(super) const CHECKSUM_DIGITS: usize = 32;

/// The checksum as it stands in the file.
pub(super) fn checksum_digits(digest: u128) -> String {
    format!("{digest:0width$x}", width = CHECKSUM_DIGITS)
}
