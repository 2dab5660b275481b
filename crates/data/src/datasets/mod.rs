//! The named datasets: which files they consist of, and the caption datasets as one space of (picture, caption) pairs.
//!
//! `registry.rs` maps the published names and splits to file names (with their oddities: the validation split of COCO and
//! Flickr30k is the Karpathy *test* split). [`CaptionDataset`] opens several of them as one. Captions stay in the
//! mapped files; what is kept in memory is one index entry per 128 captions.

mod captions;
mod index;
mod own;
mod registry;
mod table;

pub use captions::{CaptionDataset, Location};
pub use own::{is_own_name, tars};
pub(crate) use own::{prepare_command, split_tars};
pub use registry::{Contents, Shards, Split, contents, files, names, verify};
pub use table::Table;

#[cfg(test)]
mod tests;
