//! The report of a preparation.

use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{DataError, Result};
use vlct_image::Reading;
use vlct_util::{at, atomic};

/// Counts of the image files and annotations of a group of images.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// The group: a split, or the dataset's name.
    pub part: String,
    /// Number of image files.
    pub found: usize,
    /// Number of image files with an annotation. Only these are written.
    pub kept: usize,
    /// Number of annotated images, with or without a file.
    pub annotated: usize,
    /// Number of annotated images without a file.
    #[serde(rename = "without_picture")]
    pub without_image: usize,
    /// The names of the first few annotated images without a file.
    pub examples: Vec<String>,
}

impl Coverage {
    /// Maximum number of names in [`Self::examples`].
    pub const MAX_EXAMPLES: usize = 5;
}

/// A row that is not written, because one of its images cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// The file that the row was planned for, without `.arrow`.
    pub file: String,
    /// The path of the image.
    #[serde(rename = "picture")]
    pub image: String,
    /// The reason why the image cannot be used.
    pub reason: String,
}

/// What a file, or all files of a preparation, are made from, as two hashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inputs {
    /// Hash of everything that determines the content, except the content of images.
    pub fingerprint: String,
    /// Hash of the sizes and modification times of the image files.
    pub images: String,
}

impl Inputs {
    /// Whether a report or journal records these inputs. Those of earlier versions do not have the hash of image files.
    pub(super) fn are(&self, fingerprint: &str, images: Option<&str>) -> bool {
        self.fingerprint == fingerprint && images.is_none_or(|images| self.images == images)
    }
}

/// A finished file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrittenFile {
    /// File name, with `.arrow`.
    pub file: String,
    /// Number of rows.
    pub rows: u64,
    /// Size in bytes.
    pub bytes: u64,
    /// Hash of everything that determines the content of the file, except the content of images.
    pub fingerprint: String,
    /// Hash of the sizes and modification times of the image files. Earlier versions did not record it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<String>,
    /// Number of images with a pixel that is not opaque; 0 if the images were not decoded.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub transparent: u64,
}

/// The class labels of a split, in the written files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelCounts {
    /// The split.
    pub part: String,
    /// Whether a row may have any number of labels instead of exactly one.
    pub several: bool,
    /// Number of rows of each label.
    pub rows: BTreeMap<String, u64>,
    /// Number of rows whose labels are not known, in a test split.
    pub unlabelled: u64,
    /// Number of rows without image.
    pub without_image: u64,
    /// Number of rows without text.
    pub without_text: u64,
}

/// The report of a preparation: `prepare_NAME.json` in the directory of the files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The name of the dataset.
    pub dataset: String,
    /// The files, including those of other splits that were prepared before.
    pub files: Vec<WrittenFile>,
    /// Images and annotations of each group.
    pub coverage: Vec<Coverage>,
    /// Remarks about the annotations. The program prints them.
    pub remarks: Vec<String>,
    /// The rows that are left out.
    pub left_out: Vec<LeftOut>,
    /// Hash of the answer vocabulary, if the files have answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vocabulary: Option<String>,
    /// How the images become pixels, if the dataset is a custom one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reading: Option<Reading>,
    /// The class labels of each split, if the files have labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<LabelCounts>,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Report {
    /// The path of the report of the dataset `name`.
    pub fn path(out: &Path, name: &str) -> PathBuf {
        out.join(format!("prepare_{name}.json"))
    }

    /// Reads the report in `out`; `None` if it does not exist or is damaged.
    pub fn read(out: &Path, name: &str) -> Option<Self> {
        let text = std::fs::read(Self::path(out, name)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// The entry of the file `name` (without `.arrow`), if it has these inputs and the file exists with the recorded size.
    pub fn finished(&self, out: &Path, name: &str, inputs: &Inputs) -> Option<&WrittenFile> {
        let name = format!("{name}.arrow");
        let written = self.files.iter().find(|file| file.file == name)?;
        let found = std::fs::metadata(out.join(&name)).ok()?;
        let is_unchanged = found.is_file() && found.len() == written.bytes;
        (is_unchanged && inputs.are(&written.fingerprint, written.images.as_deref())).then_some(written)
    }

    /// Returns the entries that stay in the report when files with these names (without `.arrow`) are written: all except these files
    /// and the other files of their numbered series. Readers read all files of a series, so no file of an earlier, longer series may
    /// stay.
    pub fn other_files<'a>(&self, names: impl Iterator<Item = &'a str>) -> Vec<&WrittenFile> {
        let names: HashSet<&str> = names.collect();
        let written_series: HashSet<&str> = names.iter().filter_map(|name| series(name)).collect();
        let stays_in_report = |file: &&WrittenFile| {
            let name = file.file.strip_suffix(".arrow").unwrap_or(&file.file);
            !names.contains(name) && !series(name).is_some_and(|series| written_series.contains(series))
        };
        self.files.iter().filter(stays_in_report).collect()
    }

    /// Returns the labels of each other split that no row of `train` has, if there are any. Without a split `train`, there are none.
    pub fn labels_without_training_rows(&self) -> Vec<(&str, Vec<&str>)> {
        let Some(train) = self.labels.iter().find(|counts| counts.part == "train") else {
            return Vec::new();
        };
        let mut untrained = Vec::new();
        for counts in &self.labels {
            let names = counts.rows.keys().map(String::as_str);
            let names: Vec<&str> = names.filter(|name| !train.rows.contains_key(*name)).collect();
            if !names.is_empty() {
                untrained.push((counts.part.as_str(), names));
            }
        }
        untrained
    }

    /// Adds what this report lacks from an earlier report: files, groups, labels, rows left out, the vocabulary and remarks.
    pub fn merge(&mut self, earlier: Self) {
        let written: HashSet<String> = self.files.iter().map(|file| file.file.clone()).collect();
        let names = written.iter().filter_map(|file| file.strip_suffix(".arrow"));
        let others: Vec<WrittenFile> = earlier.other_files(names).into_iter().cloned().collect();
        let has_other_file = |part: &str| {
            let prefix = format!("{}_{part}", self.dataset);
            others
                .iter()
                .any(|file| file.file.strip_suffix(".arrow").and_then(series) == Some(&prefix))
        };
        let kept = earlier.labels.into_iter();
        self.labels.extend(kept.filter(|counts| has_other_file(&counts.part)));
        self.files.extend(others);
        let new_parts: HashSet<String> = self.coverage.iter().map(|part| part.part.clone()).collect();
        let kept = earlier
            .coverage
            .into_iter()
            .filter(|part| !new_parts.contains(&part.part));
        self.coverage.extend(kept);
        let files: HashSet<&str> = self
            .files
            .iter()
            .filter_map(|f| f.file.strip_suffix(".arrow"))
            .collect();
        let kept = earlier.left_out.into_iter().filter(|left_out| {
            files.contains(left_out.file.as_str()) && !written.contains(&format!("{}.arrow", left_out.file))
        });
        self.left_out.extend(kept.collect::<Vec<_>>());
        self.vocabulary = self.vocabulary.take().or(earlier.vocabulary);
        let new_remarks: HashSet<String> = self.remarks.iter().cloned().collect();
        self.remarks.extend(
            earlier
                .remarks
                .into_iter()
                .filter(|remark| !new_remarks.contains(remark)),
        );
    }

    /// Writes the report atomically.
    ///
    /// # Errors
    /// Returns [`DataError::Io`] if writing fails.
    pub fn write(&self, out: &Path) -> Result<()> {
        let path = Self::path(out, &self.dataset);
        let mut text = serde_json::to_string_pretty(self).map_err(|e| DataError::Invalid(e.to_string()))?;
        text.push('\n');
        atomic::write(&path, |out| out.write_all(text.as_bytes())).map_err(at(&path))
    }
}

/// The common part of the names of a numbered series: `x` of `x_3`.
fn series(name: &str) -> Option<&str> {
    let (series, number) = name.rsplit_once('_')?;
    number.bytes().all(|byte| byte.is_ascii_digit()).then_some(series)
}
