//! Splits, the policy for missing shards, and the check for unfinished preparations.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::manifest::{Report, unfinished_files};
use crate::{DataError, Result};
use vlct_image::{Background, Orientation, Reading};

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

/// Which files belong to a split of a dataset.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FileRules {
    /// Whether a dataset may have fewer numbered files than were published, because some images can no longer be downloaded, or than
    /// were prepared.
    /// Files before the last existing one must exist. If not, all numbered files must exist. Their number is read from the report of
    /// the preparation; without a report, it is the published number.
    pub fewer_shards: bool,
    /// Whether validation is separate from training and test. If not, the splits are those of the original: COCO and Flickr30k are
    /// validated on the Karpathy test split, and NLVR2 on both dev and test1.
    pub honest_validation: bool,
    /// Whether the training split of `vqa` includes the questions of Visual Genome, `vgqa_train`.
    pub vgqa: bool,
    /// Fraction of the training rows of a custom dataset without validation files that its validation split consists of, instead of the
    /// training split. With 0 the validation split is empty.
    pub val_fraction: f64,
    /// How the images become pixels.
    pub reading: ReadingRule,
    /// The file of the test split of `vqa`: `vqav2_{name}`.
    pub vqa_test: VqaTest,
}

/// How the images of datasets become pixels: these values, else those that the file records, else for custom datasets
/// [`Reading::CUSTOM`] and for published ones the default, as published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadingRule {
    /// What stands behind transparent pixels.
    pub background: Option<Background>,
    /// Whether the orientation tag is applied.
    pub orientation: Option<Orientation>,
}

impl ReadingRule {
    /// Returns how the images of a file become pixels. `recorded` is what the file says.
    pub(super) fn resolve(self, recorded: Option<Reading>, is_published: bool) -> Reading {
        let base = recorded.unwrap_or(match is_published {
            true => Reading::default(),
            false => Reading::CUSTOM,
        });
        Reading {
            background: self.background.unwrap_or(base.background),
            orientation: self.orientation.unwrap_or(base.orientation),
        }
    }
}

/// The file of the test split of `vqa`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VqaTest {
    /// All test questions.
    #[default]
    Test,
    /// The questions of test-dev.
    TestDev,
    /// The validation questions that are not used for training.
    RestVal,
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

/// Returns the number of shards in the report of the preparation; `None` if there is no report or it has no shards.
pub(super) fn prepared_shards(data_root: &Path, preparation: &str, prefix: &str) -> Option<usize> {
    let report = Report::read(data_root, preparation)?;
    let is_shard = |file: &str| {
        let number = file.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('_'));
        let number = number.and_then(|rest| rest.strip_suffix(".arrow"));
        number.is_some_and(|number| number.parse::<usize>().is_ok())
    };
    let count = report.files.iter().filter(|file| is_shard(&file.file)).count();
    (count > 0).then_some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_read_as_given_else_as_recorded_else_as_usual() {
        let black = Reading {
            background: Background::BLACK,
            orientation: Orientation::AsStored,
        };
        let rule = ReadingRule::default();
        assert_eq!(rule.resolve(None, true), Reading::default());
        assert_eq!(rule.resolve(None, false), Reading::CUSTOM);
        assert_eq!(rule.resolve(Some(black), false), black);
        let given = ReadingRule {
            background: Some(Background::Keep),
            orientation: None,
        };
        assert_eq!(given.resolve(Some(black), false).background, Background::Keep);
        assert_eq!(given.resolve(None, false).orientation, Orientation::Upright);
    }
}
