//! What a preparation wrote and what it left out, kept beside the files.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::plan::Coverage;
use crate::{DataError, Result};

/// A row that is not in its file, since a picture of it cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// The file that it would be in, without `.arrow`.
    pub file: String,
    /// The picture.
    pub picture: String,
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
}

/// The report of a preparation, `prepare_NAME.json` in the folder of the files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The dataset.
    pub dataset: String,
    /// Of everything that decided what was written, but for the pictures' content.
    pub fingerprint: String,
    /// The files.
    pub files: Vec<WrittenFile>,
    /// Pictures against annotations.
    pub coverage: Vec<Coverage>,
    /// Remarks about the annotations.
    pub remarks: Vec<String>,
    /// Rows left out.
    pub left_out: Vec<LeftOut>,
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

    /// The report in `out` if there is one of this fingerprint and every file of it is there, as long as it was.
    pub fn of_finished(out: &Path, name: &str, fingerprint: &str) -> Option<Self> {
        let report = Self::read(out, name)?;
        let as_it_was = |file: &WrittenFile| {
            let found = std::fs::metadata(out.join(&file.file));
            found.is_ok_and(|found| found.is_file() && found.len() == file.bytes)
        };
        (report.fingerprint == fingerprint && report.files.iter().all(as_it_was)).then_some(report)
    }

    /// Writes the report, whole or not at all.
    ///
    /// # Errors
    /// [`DataError::Io`] if the disk is full or refuses.
    pub fn write(&self, out: &Path) -> Result<()> {
        let path = Self::path(out, &self.dataset);
        let mut text = serde_json::to_string_pretty(self).map_err(|e| DataError::Invalid(e.to_string()))?;
        text.push('\n');
        let temporary = out.join(format!(".prepare_{}.json.part", self.dataset));
        let written = std::fs::write(&temporary, text).and_then(|()| std::fs::rename(&temporary, &path));
        written.map_err(|source| DataError::Io { path, source })
    }
}
