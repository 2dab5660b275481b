//! What a preparation wrote and what it left out, kept beside the files.

use std::collections::HashSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{DataError, Result};

use vlct_util::{at, atomic};

/// Pictures against annotations, for one group of pictures.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// The group: a split, or the dataset's name.
    pub part: String,
    /// Picture files found.
    pub found: usize,
    /// Of these, those with an annotation: what is written.
    pub kept: usize,
    /// Annotated pictures, with a file or without.
    pub annotated: usize,
    /// Annotated pictures without a file.
    #[serde(rename = "without_picture")]
    pub without_image: usize,
    /// The first few of them.
    pub examples: Vec<String>,
}

impl Coverage {
    /// How many examples are kept.
    pub const EXAMPLES: usize = 5;
}

/// A row that is not in its file, since a picture of it cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// The file that it would be in, without `.arrow`.
    pub file: String,
    /// The image.
    #[serde(rename = "picture")]
    pub image: String,
    /// What is wrong with it.
    pub reason: String,
}

/// A file that was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrittenFile {
    /// Its name.
    pub file: String,
    /// Number of rows.
    pub rows: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// Of everything that decided what was written to it, but for the content of pictures.
    pub fingerprint: String,
}

/// The report of a preparation, `prepare_NAME.json` in the folder of the files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The dataset.
    pub dataset: String,
    /// The files, also those of other splits that were prepared before.
    pub files: Vec<WrittenFile>,
    /// Pictures against annotations.
    pub coverage: Vec<Coverage>,
    /// Remarks about the annotations.
    pub remarks: Vec<String>,
    /// Rows left out.
    pub left_out: Vec<LeftOut>,
    /// Of the vocabulary by which answers are numbered, if they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vocabulary: Option<String>,
}

impl Report {
    /// Where the report of the dataset `name` lies.
    pub fn path(out: &Path, name: &str) -> PathBuf {
        out.join(format!("prepare_{name}.json"))
    }

    /// The report in `out`, if there is one.
    pub fn read(out: &Path, name: &str) -> Option<Self> {
        let text = std::fs::read(Self::path(out, name)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// What the report says of the file `name` (without `.arrow`), if it was written with this fingerprint and is there, as long
    /// as it was.
    pub fn finished(&self, out: &Path, name: &str, fingerprint: &str) -> Option<&WrittenFile> {
        let name = format!("{name}.arrow");
        let written = self.files.iter().find(|file| file.file == name)?;
        let found = std::fs::metadata(out.join(&name)).ok()?;
        let as_it_was = written.fingerprint == fingerprint && found.is_file() && found.len() == written.bytes;
        as_it_was.then_some(written)
    }

    /// The files of this report that stay as they are when the named ones (without `.arrow`) are written: neither one of those
    /// nor numbered like one. Readers take numbered files as they find them, and would read those of an earlier, longer series
    /// with the new ones.
    pub fn other_files<'a>(&self, names: impl Iterator<Item = &'a str>) -> Vec<&WrittenFile> {
        let names: HashSet<&str> = names.collect();
        let written_series: HashSet<&str> = names.iter().filter_map(|name| series(name)).collect();
        let stays = |file: &&WrittenFile| {
            let name = file.file.strip_suffix(".arrow").unwrap_or(&file.file);
            !names.contains(name) && !series(name).is_some_and(|series| written_series.contains(series))
        };
        self.files.iter().filter(stays).collect()
    }

    /// Takes in what an earlier report says of other files.
    pub fn merge(&mut self, earlier: Self) {
        let written: HashSet<String> = self.files.iter().map(|file| file.file.clone()).collect();
        let names = written.iter().filter_map(|file| file.strip_suffix(".arrow"));
        let others: Vec<WrittenFile> = earlier.other_files(names).into_iter().cloned().collect();
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

    /// Writes the report, whole or not at all.
    ///
    /// # Errors
    /// [`DataError::Io`] if the disk is full or refuses.
    pub fn write(&self, out: &Path) -> Result<()> {
        let path = Self::path(out, &self.dataset);
        let mut text = serde_json::to_string_pretty(self).map_err(|e| DataError::Invalid(e.to_string()))?;
        text.push('\n');
        atomic::write(&path, |out| out.write_all(text.as_bytes())).map_err(at(&path))
    }
}

/// What the names of a numbered series have in common: `x` of `x_3`.
fn series(name: &str) -> Option<&str> {
    let (series, number) = name.rsplit_once('_')?;
    number.bytes().all(|byte| byte.is_ascii_digit()).then_some(series)
}
