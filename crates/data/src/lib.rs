//! Data of vlct: Arrow tables, pictures, text, answers, the named datasets, the loader, questions of Visual
//! Genome and the generated picture world.

pub mod answers;
pub mod arrow;
pub mod datasets;
pub mod error;
pub mod loader;
pub mod manifest;
pub mod random;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod text;
pub mod webdataset;

pub use error::{DataError, Result};
