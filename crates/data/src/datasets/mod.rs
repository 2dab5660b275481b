//! The named datasets: which files they consist of, and their rows as one space of items (a row, and one of its texts).
//!
//! `registry.rs` maps the published names and splits to file names (with their oddities: the validation split of COCO and
//! Flickr30k is the Karpathy *test* split). [`CaptionDataset`], [`QuestionDataset`] and [`PairDataset`] open several of
//! them as one: all are an [`ItemDataset`], each with what its rows have. Texts stay in the mapped files; what is kept in
//! memory is one index entry per 128 texts.

mod captions;
mod contents;
mod custom;
mod index;
mod items;
mod pairs;
mod questions;
mod registry;
mod table;

pub use captions::CaptionDataset;
pub use contents::{Captions, Contents, Pairs, Questions, RowKind};
pub use custom::split_tars;
pub use custom::{is_custom_name, tars};
pub use items::{ItemDataset, Location};
pub use pairs::{PairDataset, Sentence};
pub use questions::QuestionDataset;
pub use registry::is_published_file;
pub use registry::{Shards, Split, contents, files, names, preparation, verify};
pub use table::Table;

#[cfg(test)]
mod tests;
