//! Checkpoints: atomic, checksummed, complete.
//!
//! A checkpoint is one safetensors file: `<run>/last/checkpoint.safetensors` for the last checkpoint of a run,
//! `<run>/best/checkpoint.safetensors` for the best one, `<run>/step_000123/checkpoint.safetensors` for one that is kept. It contains
//!
//! - the model's tensors under their published names,
//! - the optimiser's moments as `optimizer.exp_avg.<name>` and `optimizer.exp_avg_sq.<name>`,
//! - exponential moving averages of the weights as `ema.<name>`, if the run computes them,
//! - in `__metadata__`: `format` ([`FORMAT`]), `state` (JSON: the state of the run), `description` (JSON: model, task and inputs)
//!   and `checksum` (128-bit XXH3 of all bytes of the file, with zeros in place of the checksum's 32 digits).
//!
//! Saving writes a temporary file in the same directory, flushes it to the disk, renames it and flushes the directory. At any time,
//! either the previous or the new checkpoint exists completely. Loading verifies the checksum before it reads anything else.

mod error;
mod format;
mod read;
mod write;

pub use error::{CheckpointError, Previous, Result};
pub use format::{
    AVERAGE_PREFIX, EPOCH_KEY, FILE_NAME, FORMAT, METRIC_KEY, MOMENT_PREFIX, STEP_KEY, best_path, find, is_format,
    last_path, step_path, steps,
};
pub use read::{Checkpoint, Summary, inspect, load, read_description, read_state};
pub use read::{begins_as_checkpoint, verify};
pub use write::{TensorRef, save};

#[cfg(test)]
mod tests;
