//! Data of vlct: Arrow tables, pictures, text, the named datasets, the loader and the generated picture world.

pub mod arrow;
pub mod datasets;
pub mod error;
pub mod loader;
mod mapped;
pub mod pictures;
pub mod random;
pub mod records;
pub mod text;
pub mod webdataset;
pub mod world;

pub use error::{DataError, Result};
