//! Splits, the policy for missing shards, and the check for unfinished preparations.

use std::path::Path;

use crate::manifest::unfinished_files;
use crate::{DataError, Result};

/// A split of a dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// The training split.
    Train,
    /// The validation split, which selects the best checkpoint. For COCO and Flickr30k it is the Karpathy test split, as published.
    Val,
    /// The test split.
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

/// Which numbered shards must exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ShardPolicy {
    /// All shards must exist. Their number is read from the report of the preparation; without a report, it is the published number.
    #[default]
    All,
    /// There may be fewer shards than published, because some images can no longer be downloaded. Shards before the last existing one
    /// must exist.
    AsFound,
}

/// Rejects a dataset whose preparation is not finished, because its existing files could be mistaken for a complete dataset.
///
/// # Errors
/// Returns [`DataError::Unfinished`] if the preparation `name` has not finished a file for which `is_needed` returns true.
pub(super) fn reject_unfinished(data_root: &Path, name: &str, is_needed: impl Fn(&str) -> bool) -> Result<()> {
    match unfinished_files(data_root, name)
        .into_iter()
        .find(|file| is_needed(file))
    {
        Some(file) => Err(DataError::Unfinished {
            path: data_root.join(format!("{file}.arrow")),
            dataset: name.to_string(),
        }),
        None => Ok(()),
    }
}
