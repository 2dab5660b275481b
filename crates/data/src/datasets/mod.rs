//! The named datasets: their files, and the items of these files. An item is a row with one of its texts,
//! or a row with labels.
//!
//! `published.rs` lists the published datasets with their oddities (the validation split of COCO and Flickr30k is the
//! Karpathy *test* split), `custom.rs` finds the files of custom datasets, and `registry.rs` maps the names of all datasets to files.
//! [`TableDataset`] opens several datasets as one [`Dataset`].

mod contents;
mod custom;
mod dataset;
mod examples;
mod files;
mod held_out;
mod identity;
mod index;
mod items;
mod label_names;
mod name;
mod published;
mod registry;
mod rows;
mod table;
mod vocabulary;

pub use contents::Contents;
pub use custom::{split_tars, tars};
pub use dataset::{Answer, Dataset, Example};
pub use files::{FileRules, ReadingRule, Split, VqaTest};
pub use held_out::{Part, RowView};
pub use identity::FileIdentity;
pub use items::{Location, TableDataset};
pub use label_names::LabelNames;
pub use name::is_custom_name;
pub use published::{DATASETS, Files, Honest, NAMES, Published, is_published_file};
pub use registry::{SplitFile, contents, files};
pub use rows::RowsOf;
pub use table::Table;

#[cfg(test)]
mod tests;
