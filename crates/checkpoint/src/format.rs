//! The layout of checkpoint files, and their paths in a run directory.

use std::io;
use std::path::{Path, PathBuf};

/// Value of `__metadata__.format` in files of this layout.
pub const FORMAT: &str = "vlct-checkpoint-2";

/// Value of `__metadata__.format` in files of format 1. A file of format 1 has no description, and the fields of its
/// state differ.
pub(crate) const FORMAT_1: &str = "vlct-checkpoint-1";

/// Name of the checkpoint file in `last/` and `best/`.
pub const FILE_NAME: &str = "checkpoint.safetensors";

/// Prefix of the names of the optimiser's moments, `optimizer.exp_avg.NAME`.
pub const MOMENT_PREFIX: &str = "optimizer.";

/// Prefix of the names of averaged weights, `ema.NAME`.
pub const AVERAGE_PREFIX: &str = "ema.";

/// Key in `state`. Its value is the number of optimiser steps, which [`inspect`](super::inspect) and error messages report.
pub const STEP_KEY: &str = "global_step";

/// Key in `state`. Its value is the epoch, which [`inspect`](super::inspect) reports.
pub const EPOCH_KEY: &str = "epoch";

/// Key in `state`. Its value is the best value of the metric, which [`inspect`](super::inspect) reports.
pub const METRIC_KEY: &str = "best_metric";

/// Returns the path of the last checkpoint in a run directory. The file need not exist.
pub fn last_path(run: &Path) -> PathBuf {
    run.join("last").join(FILE_NAME)
}

/// Returns the path of the best checkpoint in a run directory. The file need not exist.
pub fn best_path(run: &Path) -> PathBuf {
    run.join("best").join(FILE_NAME)
}

/// Returns the path of the checkpoint that a run keeps of the validation after `step` optimiser steps. The file need not exist.
pub fn step_path(run: &Path, step: u64) -> PathBuf {
    run.join(step_directory(step)).join(FILE_NAME)
}

fn step_directory(step: u64) -> String {
    format!("step_{step:06}")
}

/// Returns the steps of the checkpoints that a run keeps, ascending. Their files may be missing if the run was killed.
///
/// # Errors
/// Returns an error if the directory cannot be read.
pub fn steps(run: &Path) -> io::Result<Vec<u64>> {
    let mut steps = Vec::new();
    for entry in std::fs::read_dir(run)? {
        let entry = entry?;
        let name = entry.file_name();
        let step = name
            .to_str()
            .and_then(|name| name.strip_prefix("step_"))
            .and_then(|digits| digits.parse().ok());
        let is_canonical = |step: &u64| name == *step_directory(*step) && entry.path().is_dir();
        steps.extend(step.filter(is_canonical));
    }
    steps.sort_unstable();
    Ok(steps)
}

/// Returns the checkpoint of a directory: one in the directory itself, else that of a run directory, the best or, if there is none, the
/// last one. Returns `None` if there is no checkpoint.
pub fn find(directory: &Path) -> Option<PathBuf> {
    let candidates = [directory.join(FILE_NAME), best_path(directory), last_path(directory)];
    candidates.into_iter().find(|path| path.is_file())
}

/// Whether `format` is the value of `__metadata__.format` in a checkpoint, in this or an earlier layout.
pub fn is_format(format: &str) -> bool {
    [FORMAT, FORMAT_1].contains(&format)
}

/// Maximum size of a header in bytes. Readers of safetensors reject a larger header.
pub(crate) const MAX_HEADER: usize = 100_000_000;

/// First bytes of the header of every checkpoint. In the file, the 8 bytes of the header's length precede them, and the digits of the
/// checksum follow.
pub(crate) const HEADER_START: &str = r#"{"__metadata__":{"checksum":""#;

/// Offset of the checksum's digits in the file.
pub(crate) const CHECKSUM_OFFSET: usize = 8 + HEADER_START.len();

/// Number of hexadecimal digits of the checksum.
pub(crate) const CHECKSUM_DIGITS: usize = 32;

/// Formats a checksum as hexadecimal digits.
pub(crate) fn checksum_digits(digest: u128) -> String {
    format!("{digest:0width$x}", width = CHECKSUM_DIGITS)
}
