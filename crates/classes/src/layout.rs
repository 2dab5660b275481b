//! Finds out how the images and classes of a directory are stored.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::directories::Summary;
use vlct_data::datasets::{Split, tars};
use vlct_data::webdataset::tar_stem;
use vlct_data::{DataError, Result};
use vlct_util::text::{counted, quoted};

/// Maximum number of names that a message lists.
const LISTED_NAMES: usize = 5;

/// How images and their classes are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// One directory per class, in directories of the splits.
    Directories { train: PathBuf, val: Option<PathBuf> },
    /// The Arrow files of the dataset `name`.
    Arrow { root: PathBuf, name: String },
    /// WebDataset tars. `beside` are the directories that may have a file of the names of the classes.
    Tars {
        train: Vec<PathBuf>,
        val: Vec<PathBuf>,
        beside: Vec<PathBuf>,
    },
}

/// Lists names for a message.
pub(crate) fn list_names(names: &[impl AsRef<str>]) -> String {
    let listed = names.iter().take(LISTED_NAMES).map(|name| quoted(name.as_ref()));
    let listed = listed.collect::<Vec<_>>().join(", ");
    match names.len() {
        count if count > LISTED_NAMES => format!("{listed}, … ({count} in all)"),
        _ => listed,
    }
}

/// Returns the split that a word of a name stands for.
fn split_of(word: &str) -> Option<Split> {
    match word.to_ascii_lowercase().as_str() {
        "train" | "training" => Some(Split::Train),
        "val" | "valid" | "validation" => Some(Split::Val),
        "test" => Some(Split::Test),
        _ => None,
    }
}

/// Returns the split that a word of a tar's name stands for: `imagenet1k-validation-00.tar` belongs to the validation split.
fn split_of_tar(path: &Path) -> Option<Split> {
    let (stem, _) = tar_stem(path)?;
    stem.split(|c: char| !c.is_ascii_alphanumeric()).find_map(split_of)
}

/// Returns the name of the dataset of an Arrow file of the training split: `photos` for `photos_train_0.arrow` and `photos_train.arrow`.
fn arrow_dataset(file: &str) -> Option<&str> {
    let stem = file.strip_suffix(".arrow")?;
    if let Some(name) = stem.strip_suffix("_train") {
        return Some(name);
    }
    let (rest, number) = stem.rsplit_once('_')?;
    number.parse::<u64>().ok()?;
    rest.strip_suffix("_train")
}

fn arrow_datasets(files: &[String]) -> BTreeSet<&str> {
    files.iter().filter_map(|file| arrow_dataset(file)).collect()
}

impl Layout {
    /// Looks at the names in a directory and its subdirectories. `path` is a directory, or `DIRECTORY/NAME` for the Arrow files of the
    /// dataset `NAME` in a directory. Directories take precedence over Arrow files, and these over tars.
    ///
    /// # Errors
    /// Returns [`DataError::Format`] if there are no images with classes, or several datasets; [`DataError::Io`] if a directory cannot
    /// be read.
    pub fn find(path: &Path) -> Result<Self> {
        if !path.is_dir() {
            return Self::find_arrow(path);
        }
        let summary = Summary::of(path)?;
        let of_split = |split: Split| -> Result<Option<PathBuf>> {
            let mut found = summary.directories.iter().filter(|name| split_of(name) == Some(split));
            let first = found.next();
            if let (Some(first), Some(second)) = (first, found.next()) {
                let reason = format!("its directories {first} and {second} are both the split {split}; join them");
                return Err(DataError::format(path, reason));
            }
            Ok(first.map(|name| path.join(name)))
        };
        let val = of_split(Split::Val)?;
        if let Some(train) = of_split(Split::Train)? {
            let train_tars = tars(&train)?;
            if train_tars.is_empty() {
                return Ok(Self::Directories { train, val });
            }
            return Ok(Self::Tars {
                train: train_tars,
                val: val.map_or_else(|| Ok(Vec::new()), |val| tars(&val))?,
                beside: vec![path.to_path_buf(), train],
            });
        }
        let datasets = arrow_datasets(&summary.files);
        if datasets.len() > 1 {
            let names: Vec<&str> = datasets.into_iter().collect();
            let reason = format!(
                "it has Arrow files of several datasets: {}; give the path of one, {}",
                list_names(&names),
                path.join(names[0]).display()
            );
            return Err(DataError::format(path, reason));
        }
        if let Some(name) = datasets.first() {
            return Ok(Self::Arrow {
                root: path.to_path_buf(),
                name: name.to_string(),
            });
        }
        let all = tars(path)?;
        if !all.is_empty() {
            let of = |split: Option<Split>| -> Vec<PathBuf> {
                let is_of_split = |tar: &&PathBuf| split_of_tar(tar) == split;
                all.iter().filter(is_of_split).cloned().collect()
            };
            // Tars whose names say nothing are of the training split if no others are.
            let train = Some(of(Some(Split::Train)))
                .filter(|tars| !tars.is_empty())
                .unwrap_or_else(|| of(None));
            if !train.is_empty() {
                return Ok(Self::Tars {
                    train,
                    val: of(Some(Split::Val)),
                    beside: vec![path.to_path_buf()],
                });
            }
        }
        // The directories of the classes themselves.
        let has_images = |name: &String| Summary::of(&path.join(name)).is_ok_and(|summary| summary.images() > 0);
        if val.is_none() && summary.directories.iter().any(has_images) {
            return Ok(Self::Directories {
                train: path.to_path_buf(),
                val,
            });
        }
        Err(not_of_classes(path, &summary))
    }

    /// Looks for the Arrow files of a dataset: `path` is `DIRECTORY/NAME`.
    fn find_arrow(path: &Path) -> Result<Self> {
        let parent = match path.parent() {
            Some(parent) if parent.as_os_str().is_empty() => Some(Path::new(".")),
            parent => parent,
        };
        let name = path.file_name().and_then(|name| name.to_str());
        if let (Some(root), Some(name)) = (parent.filter(|parent| parent.is_dir()), name)
            && Summary::of(root).is_ok_and(|summary| arrow_datasets(&summary.files).contains(name))
        {
            return Ok(Self::Arrow {
                root: root.to_path_buf(),
                name: name.to_string(),
            });
        }
        let reason = match path.exists() {
            true => format!("it is a file; give a directory: {EXPECTED}"),
            false => format!("there is no such directory; give one that has {EXPECTED}"),
        };
        Err(DataError::format(path, reason))
    }
}

/// What a directory of classes has.
const EXPECTED: &str = "train/CLASS/IMAGE and val/CLASS/IMAGE, Arrow files NAME_train_0.arrow with labels, or tars of images with \
                        classes (train/*.tar or NAME-train-0.tar)";

fn not_of_classes(path: &Path, summary: &Summary) -> DataError {
    let mut found = Vec::new();
    if !summary.directories.is_empty() {
        found.push(format!("the directories {}", list_names(&summary.directories)));
    }
    if !summary.files.is_empty() {
        let count = counted(summary.files.len(), "file");
        found.push(format!("{count} ({})", list_names(&summary.files)));
    }
    let found = match found.is_empty() {
        true => "it is empty".to_string(),
        false => format!("it has {}", found.join(" and ")),
    };
    DataError::format(
        path,
        format!("it is not a directory of classes: {found}; expected {EXPECTED}"),
    )
}
