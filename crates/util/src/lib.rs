//! Helpers that several crates share: atomic writes, memory-mapped files, lock files, bounded reads, caught panics, JSON of
//! Python, an I/O error that names its path, and text for messages.

pub mod atomic;
mod error;
pub mod json;
pub mod lock;
mod map;
pub mod panics;
mod read;
pub mod text;

pub use error::{IoError, at};
pub use map::MappedFile;
pub use read::{open_file, read_at_most, read_open_file};
