//! Data for training: Arrow and WebDataset files, answers, datasets, and the parts of a loader.

pub mod answers;
pub mod arrow;
pub mod datasets;
pub mod error;
pub mod loader;
pub mod manifest;
pub mod random;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod webdataset;

pub use error::{DataError, Result};
