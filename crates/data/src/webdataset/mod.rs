//! WebDataset shards, as img2dataset writes them: tar files of pictures with captions beside them, read in place.
//!
//! [`TarTable`] maps a file and indexes its samples. `members.rs` reads the headers of the format.

mod members;
mod table;

pub use table::{TarCounts, TarTable};

#[cfg(test)]
pub(crate) mod tests;
