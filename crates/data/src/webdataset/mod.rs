//! WebDataset shards: tar files of images and captions, as img2dataset writes them. [`TarTable`] reads them in place.

mod members;
mod table;

pub use table::{TarCounts, TarTable};

#[cfg(test)]
pub(crate) mod tests;
