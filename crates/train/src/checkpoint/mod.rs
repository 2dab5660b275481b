//! Checkpoints: atomic, checksummed, complete.
//!
//! A checkpoint is one file, `<run>/last/checkpoint.safetensors` (the best one so far: `<run>/best/…`), which any
//! safetensors reader opens. It holds
//!
//! - the model's tensors under their published names,
//! - the optimiser's tensors as `optimizer.exp_avg.<name>` and `optimizer.exp_avg_sq.<name>`,
//! - in `__metadata__`: `format` ([`FORMAT`]), `state` (JSON: whatever else the trainer needs to continue), `description` (JSON:
//!   what model, task and inputs these are weights of) and `checksum` (XXH3, 128 bits, over every byte of the file with the checksum's own 32 digits taken as zeros).
//!
//! Saving writes a temporary file beside the target, flushes it to the disk, renames it and flushes the directory: at
//! every moment either the previous or the new checkpoint is there, whole. Loading checks the checksum before anything
//! else is believed.

mod error;
mod format;
mod read;
mod write;

pub use error::{CheckpointError, Previous, Result};
pub use format::{EPOCH_KEY, FILE_NAME, FORMAT, METRIC_KEY, STEP_KEY, best_path, last_path};
pub use read::{Checkpoint, Summary, inspect, load};
pub use write::{TensorRef, save};

#[cfg(test)]
mod tests;
