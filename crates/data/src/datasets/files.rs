//! Splits, and what the files of published and of custom datasets have in common.

use std::path::Path;

use crate::manifest::unfinished;
use crate::{DataError, Result};

/// A split of a dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// Training.
    Train,
    /// Validation: selects the best checkpoint. For COCO and Flickr30k the Karpathy test split, as published.
    Val,
    /// Test: reported.
    Test,
}

impl std::fmt::Display for Split {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Split::Train => "train",
            Split::Val => "val",
            Split::Test => "test",
        })
    }
}

/// Whether numbered shards may be absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shards {
    /// Every shard must be there: as many as the report of their preparation says, or else as were published.
    #[default]
    All,
    /// Shards 0 to any number, without a gap: fewer images could be downloaded.
    AsFound,
}

/// Rejects a dataset of which some files are still to be written: those that exist would be taken for all of it.
///
/// # Errors
/// Returns [`DataError::Unfinished`] if the preparation `name` was stopped before a file that `wanted` names.
pub(super) fn refuse_unfinished(data_root: &Path, name: &str, wanted: impl Fn(&str) -> bool) -> Result<()> {
    match unfinished(data_root, name).into_iter().find(|file| wanted(file)) {
        Some(file) => Err(DataError::Unfinished {
            path: data_root.join(format!("{file}.arrow")),
            dataset: name.to_string(),
        }),
        None => Ok(()),
    }
}
