//! Checkpoints: atomic, checksummed, complete.
