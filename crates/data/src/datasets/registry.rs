//! Names, splits and files of the datasets.

use std::path::{Path, PathBuf};

use super::contents::Contents;
use super::custom;
use super::table::Table;
use crate::error::MissingFile;
use crate::manifest::{Report, unfinished};
use crate::{DataError, Result};

/// A split as the loaders know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// What is trained on.
    Train,
    /// What model selection looks at. For COCO and Flickr30k the Karpathy test split, as published.
    Val,
    /// What is reported.
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
    /// Shards 0 to any number will do, without a gap: fewer pictures could be downloaded.
    AsFound,
}

/// The files of one split.
enum Files {
    /// The split does not exist: no items.
    None,
    /// These.
    Named(&'static [&'static str]),
    /// `{prefix}_0` to `{prefix}_{count - 1}`.
    Shards(&'static str, usize),
    /// `{first}_0` and those that follow it, else `{second}_0` and those that follow it.
    EitherShards(&'static str, &'static str),
}

/// One dataset: contents and files of the three splits.
struct Dataset {
    name: &'static str,
    /// What makes its files.
    preparation: &'static str,
    contents: Contents,
    train: Files,
    val: Files,
    test: Files,
}

const fn train_only(name: &'static str, preparation: &'static str, train: Files) -> Dataset {
    Dataset {
        name,
        preparation,
        contents: Contents::Captions,
        train,
        val: Files::None,
        test: Files::None,
    }
}

const DATASETS: &[Dataset] = &[
    Dataset {
        name: "coco",
        preparation: "coco",
        contents: Contents::Captions,
        train: Files::Named(&["coco_caption_karpathy_train", "coco_caption_karpathy_restval"]),
        val: Files::Named(&["coco_caption_karpathy_test"]),
        test: Files::Named(&["coco_caption_karpathy_test"]),
    },
    Dataset {
        name: "f30k",
        preparation: "f30k",
        contents: Contents::Captions,
        train: Files::Named(&["f30k_caption_karpathy_train", "f30k_caption_karpathy_val"]),
        val: Files::Named(&["f30k_caption_karpathy_test"]),
        test: Files::Named(&["f30k_caption_karpathy_test"]),
    },
    train_only("vg", "vg", Files::Named(&["vg"])),
    Dataset {
        name: "gcc",
        preparation: "gcc",
        contents: Contents::Captions,
        train: Files::Shards("conceptual_caption_train", 31),
        val: Files::Named(&["conceptual_caption_val_0"]),
        test: Files::Named(&["conceptual_caption_val_0"]),
    },
    train_only("sbu", "sbu", Files::Shards("sbu", 9)),
    Dataset {
        name: "vqa",
        preparation: "vqav2",
        contents: Contents::Questions,
        train: Files::Named(&["vqav2_train", "vqav2_trainable_val"]),
        val: Files::Named(&["vqav2_rest_val"]),
        test: Files::Named(&["vqav2_test"]),
    },
    Dataset {
        name: "nlvr2",
        preparation: "nlvr2",
        contents: Contents::Pairs,
        train: Files::Named(&["nlvr2_train"]),
        val: Files::Named(&["nlvr2_dev", "nlvr2_test1"]),
        test: Files::Named(&["nlvr2_dev", "nlvr2_test1"]),
    },
    train_only("pretrainVQA", "pretrain-vqa", Files::Shards("pretrain_vqa", 2)),
    train_only("pretrainOI", "pretrain-openimages", Files::Shards("openimages", 17)),
    train_only("pretrainGQA", "pretrain-gqa", Files::Named(&["pretrain_gqa_0"])),
    train_only(
        "pretrainFlickr30k",
        "pretrain-f30k",
        Files::Named(&["pretrain_flickr30k_train"]),
    ),
    // The original reads the first name, its shard 0 alone, and writes the second.
    train_only(
        "pretrainVGQA",
        "pretrain-vg",
        Files::EitherShards("pretrain_vgqa", "pretrain_vg"),
    ),
];

/// The names of the published datasets.
pub fn names() -> impl ExactSizeIterator<Item = &'static str> {
    DATASETS.iter().map(|d| d.name)
}

/// Whether files of a published dataset are called so, without number and `.arrow`.
pub fn is_published_file(name: &str) -> bool {
    let all = DATASETS
        .iter()
        .flat_map(|dataset| [&dataset.train, &dataset.val, &dataset.test]);
    all.into_iter().any(|files| match files {
        Files::None => false,
        Files::Named(names) => names.contains(&name),
        Files::Shards(prefix, _) => *prefix == name,
        Files::EitherShards(first, second) => [first, second].contains(&&name),
    })
}

fn published(name: &str) -> Option<&'static Dataset> {
    DATASETS.iter().find(|d| d.name == name)
}

/// What makes the files of a published dataset.
pub fn preparation(name: &str) -> Option<&'static str> {
    Some(published(name)?.preparation)
}

/// What the dataset of that name holds. Of one's own datasets, the columns of the first file tell.
///
/// # Errors
/// [`DataError::Invalid`] if there is no such dataset; what is wrong with the file.
pub fn contents(data_root: &Path, name: &str) -> Result<Contents> {
    if let Some(dataset) = published(name) {
        return Ok(dataset.contents);
    }
    for split in [Split::Train, Split::Val, Split::Test] {
        match custom::files(data_root, name, split) {
            Ok(files) => {
                if let Some(file) = files.first() {
                    return Table::contents(file);
                }
            }
            // Validation or test files alone are a dataset too.
            Err(DataError::MissingFiles { .. }) if split == Split::Train => {}
            Err(other) => return Err(other),
        }
    }
    Ok(Contents::Captions)
}

/// How many shards `vlct prepare` wrote, if it did.
fn prepared(data_root: &Path, preparation: &'static str, prefix: &str) -> Option<usize> {
    let report = Report::read(data_root, preparation)?;
    let is_shard = |file: &str| {
        let number = file.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('_'));
        let number = number.and_then(|rest| rest.strip_suffix(".arrow"));
        number.is_some_and(|number| number.parse::<usize>().is_ok())
    };
    let count = report.files.iter().filter(|file| is_shard(&file.file)).count();
    (count > 0).then_some(count)
}

/// Refuses a dataset some of whose files are not there yet: those that are would be taken for all of it.
pub(super) fn refuse_unfinished(data_root: &Path, name: &str, wanted: impl Fn(&str) -> bool) -> Result<()> {
    match unfinished(data_root, name).into_iter().find(|file| wanted(file)) {
        Some(file) => Err(DataError::Unfinished {
            path: data_root.join(format!("{file}.arrow")),
            dataset: name.to_string(),
        }),
        None => Ok(()),
    }
}

/// Files of a dataset's split, in reading order; empty if the split does not exist.
///
/// Names of published datasets go before one's own.
///
/// # Errors
/// [`DataError::Invalid`] for an unknown name, [`DataError::MissingFiles`] with every name that is missing in `data_root`.
pub fn files(data_root: &Path, name: &str, split: Split, shards: Shards) -> Result<Vec<PathBuf>> {
    let Some(dataset) = published(name) else {
        return custom::files(data_root, name, split);
    };
    let files = match split {
        Split::Train => &dataset.train,
        Split::Val => &dataset.val,
        Split::Test => &dataset.test,
    };
    let path = |file: &str| data_root.join(format!("{file}.arrow"));
    let exists = |file: &str| path(file).exists();
    let shard = |prefix: &str, i: usize| format!("{prefix}_{i}");
    let wanted: Vec<String> = match files {
        Files::None => Vec::new(),
        Files::Named(names) => names.iter().map(|n| n.to_string()).collect(),
        Files::Shards(prefix, count) => {
            // Up to the last one that is there, so that a gap shows as missing files.
            let last = (0..*count).rev().find(|i| exists(&shard(prefix, *i)));
            let count = match shards {
                Shards::All => prepared(data_root, dataset.preparation, prefix).unwrap_or(*count),
                Shards::AsFound => last.map_or(1, |last| last + 1),
            };
            (0..count).map(|i| shard(prefix, i)).collect()
        }
        Files::EitherShards(first, second) => {
            let of_either = |file: &str| file.starts_with(first) || file.starts_with(second);
            refuse_unfinished(data_root, dataset.preparation, of_either)?;
            let following = |prefix: &str| -> Vec<String> {
                let shards = (0..).map(|i| shard(prefix, i));
                shards.take_while(|file| exists(file)).collect()
            };
            match [following(first), following(second)] {
                [found, _] if !found.is_empty() => found,
                [_, found] if !found.is_empty() => found,
                _ => vec![shard(first, 0)],
            }
        }
    };
    let missing: Vec<MissingFile> = wanted
        .iter()
        .filter(|file| !exists(file))
        .map(|file| MissingFile {
            dataset: name.to_string(),
            file: format!("{file}.arrow"),
            is_gap: shards == Shards::AsFound,
        })
        .collect();
    if !missing.is_empty() {
        return Err(DataError::MissingFiles {
            directory: data_root.to_path_buf(),
            missing,
        });
    }
    Ok(wanted.iter().map(|file| path(file)).collect())
}

/// Files of several datasets, each with the number of its dataset in `names`. All missing names are one error.
pub(super) fn files_of_all(
    data_root: &Path,
    names: &[impl AsRef<str>],
    split: Split,
    shards: Shards,
) -> Result<Vec<(usize, PathBuf)>> {
    if names.is_empty() {
        return Err(DataError::Invalid("no dataset is named; give at least one".into()));
    }
    let (mut found, mut all_missing) = (Vec::new(), Vec::new());
    for (number, name) in names.iter().enumerate() {
        match files(data_root, name.as_ref(), split, shards) {
            Ok(files) => found.extend(files.into_iter().map(|file| (number, file))),
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

/// Looks at every file of the named datasets: is it there, is it a whole file, has it the columns that its dataset needs?
/// Returns everything that is wrong; nothing if all is well. Pictures and captions are not read.
pub fn verify(data_root: &Path, names: &[impl AsRef<str>], split: Split, shards: Shards) -> Vec<DataError> {
    let (mut problems, mut all_missing) = (Vec::new(), Vec::new());
    for name in names {
        match files(data_root, name.as_ref(), split, shards) {
            Ok(files) => {
                let contents = contents(data_root, name.as_ref()).unwrap_or(Contents::Captions);
                problems.extend(files.iter().filter_map(|file| Table::with(file, contents).err()));
            }
            Err(DataError::MissingFiles { missing, .. }) => all_missing.extend(missing),
            Err(other) => problems.push(other),
        }
    }
    if !all_missing.is_empty() {
        let folder = data_root.to_path_buf();
        problems.insert(
            0,
            DataError::MissingFiles {
                directory: folder,
                missing: all_missing,
            },
        );
    }
    problems
}
