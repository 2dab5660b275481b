//! WebDataset shards: tar files of images and captions, as img2dataset writes them. [`TarTable`] reads them in place.
//!
//! A sample is an image and a caption whose members have the same key. Members of a sample are usually adjacent; those that are apart
//! are joined by their keys when the file is opened. In a tar of classes, a sample is an image and its class, a `.cls`.

mod file;
mod index;
mod members;
mod part;
mod sample;
mod table;
mod unpack;

pub use index::TarCounts;
pub use table::TarTable;
pub use unpack::{compression, tar_stem};

#[cfg(test)]
pub(crate) mod tests;
