//! Data of vlct: Arrow tables, pictures, text, answers, the named datasets, the loader, questions of Visual
//! Genome and the generated picture world.

pub mod answers;
pub mod arrow;
pub mod datasets;
pub mod error;
mod json;
mod limited;
pub mod loader;
mod mapped;
pub mod pictures;
pub mod prepare;
pub mod random;
pub mod records;
pub mod text;
pub mod vgqa;
pub mod webdataset;
pub mod world;

pub use error::{DataError, Result};
