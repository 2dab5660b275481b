//! Data of vlct: Arrow tables, pictures, text, the named datasets, the loader and the generated picture world.

pub mod arrow;
pub mod datasets;
pub mod error;
pub mod loader;
pub mod pictures;
pub mod prepare;
pub mod random;
pub mod text;
pub mod world;

pub use error::{DataError, Result};
