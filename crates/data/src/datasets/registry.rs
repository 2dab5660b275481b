//! Maps the name of a dataset to its files.

use std::path::{Path, PathBuf};

use super::contents::Contents;
use super::custom;
use super::files::{FileRules, Split, prepared_shards, reject_unfinished};
use super::held_out::Part;
use super::published::{Files, Published};
use super::table::Table;
use crate::error::MissingFile;
use crate::{DataError, Result};

/// Returns the contents of a dataset. The contents of a custom dataset are detected from the columns of its first file.
///
/// # Errors
/// Returns [`DataError::UnknownDataset`] if there is no such dataset, or an error of the first file.
pub fn contents(data_root: &Path, name: &str) -> Result<Contents> {
    if let Some(dataset) = Published::find(name) {
        return Ok(dataset.contents);
    }
    for split in [Split::Train, Split::Val, Split::Test] {
        // Any existing file shows the contents.
        match custom::files(data_root, name, split, true) {
            Ok(files) => {
                if let Some(file) = files.first() {
                    return Table::detect_contents(file);
                }
            }
            // A custom dataset may have only validation or test files.
            Err(DataError::MissingFiles { .. }) if split == Split::Train => {}
            Err(other) => return Err(other),
        }
    }
    Ok(Contents::Captions)
}

/// Returns the files of a split of a dataset, in reading order; empty if the split does not exist.
///
/// Published names take precedence over custom ones.
///
/// # Errors
/// Returns [`DataError::UnknownDataset`] for an unknown name, [`DataError::MissingFiles`] with all files that are missing in
/// `data_root`, [`DataError::Unfinished`] if the preparation is not finished.
pub fn files(data_root: &Path, name: &str, split: Split, rules: &FileRules) -> Result<Vec<PathBuf>> {
    let Some(dataset) = Published::find(name) else {
        return custom::files(data_root, name, split, rules.fewer_shards);
    };
    let path = |file: &str| data_root.join(format!("{file}.arrow"));
    let exists = |file: &str| path(file).exists();
    let shard = |prefix: &str, i: usize| format!("{prefix}_{i}");
    let expected: Vec<String> = match dataset.files(split, rules) {
        Files::None => Vec::new(),
        Files::Named(names) => names.iter().map(|n| n.to_string()).collect(),
        Files::Shards(prefix, count) => {
            // With `fewer_shards`, all shards up to the last existing one are expected, so gaps are reported as missing files.
            let last_existing = (0..*count).rev().find(|i| exists(&shard(prefix, *i)));
            let count = if rules.fewer_shards {
                last_existing.map_or(1, |last| last + 1)
            } else {
                prepared_shards(data_root, dataset.preparation, prefix).unwrap_or(*count)
            };
            (0..count).map(|i| shard(prefix, i)).collect()
        }
        Files::EitherShards(first, second) => {
            let has_either_name = |file: &str| file.starts_with(first) || file.starts_with(second);
            reject_unfinished(data_root, dataset.preparation, has_either_name)?;
            let existing = |prefix: &str| -> Vec<String> {
                let shards = (0..).map(|i| shard(prefix, i));
                shards.take_while(|file| exists(file)).collect()
            };
            match [existing(first), existing(second)] {
                [found, _] if !found.is_empty() => found,
                [_, found] if !found.is_empty() => found,
                _ => vec![shard(first, 0)],
            }
        }
    };
    let missing: Vec<MissingFile> = expected
        .iter()
        .filter(|file| !exists(file))
        .map(|file| MissingFile {
            dataset: name.to_string(),
            file: format!("{file}.arrow"),
            allows_fewer_shards: rules.fewer_shards,
        })
        .collect();
    if !missing.is_empty() {
        return Err(DataError::MissingFiles {
            directory: data_root.to_path_buf(),
            missing,
        });
    }
    Ok(expected.iter().map(|file| path(file)).collect())
}

/// A file of a split.
pub struct SplitFile {
    /// Index of the dataset among the given names.
    pub dataset: usize,
    /// Path of the file.
    pub path: PathBuf,
    /// The rows that belong to the split.
    pub part: Part,
}

/// Returns the files of several datasets. One error lists all missing files.
pub(super) fn files_of_all(
    data_root: &Path,
    names: &[impl AsRef<str>],
    split: Split,
    rules: &FileRules,
) -> Result<Vec<SplitFile>> {
    if names.is_empty() {
        return Err(DataError::Invalid("no dataset is given; name at least one".into()));
    }
    let (mut found, mut all_missing) = (Vec::new(), Vec::new());
    for (index, name) in names.iter().enumerate() {
        match files_and_part(data_root, name.as_ref(), split, rules) {
            Ok((files, part)) => found.extend(files.into_iter().map(|path| SplitFile {
                dataset: index,
                path,
                part,
            })),
            Err(DataError::MissingFiles { missing, .. }) => all_missing.extend(missing),
            Err(other) => return Err(other),
        }
    }
    if !all_missing.is_empty() {
        return Err(DataError::MissingFiles {
            directory: data_root.to_path_buf(),
            missing: all_missing,
        });
    }
    Ok(found)
}

/// Returns the files of a split of a dataset and which of their rows belong to the split. With [`FileRules::val_fraction`], the training
/// files of a custom dataset without validation files have the rows of both splits.
fn files_and_part(data_root: &Path, name: &str, split: Split, rules: &FileRules) -> Result<(Vec<PathBuf>, Part)> {
    let found = files(data_root, name, split, rules)?;
    let divides = rules.val_fraction > 0.0 && Published::find(name).is_none();
    Ok(match split {
        Split::Val if divides && found.is_empty() => {
            let training = files(data_root, name, Split::Train, rules)?;
            (training, Part::HeldOut(rules.val_fraction))
        }
        Split::Train if divides && files(data_root, name, Split::Val, rules)?.is_empty() => {
            (found, Part::WithoutHeldOut(rules.val_fraction))
        }
        _ => (found, Part::Whole),
    })
}
