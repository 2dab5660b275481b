//! Errors of this crate. A message is one line: what is wrong, and where. The program adds hints about its options.

use std::path::{Path, PathBuf};

use vlct_image::ImageError;
use vlct_util::IoError;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A file or directory cannot be read or written.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The content of a file is damaged, or not of the form that its reader needs.
    #[error("{path}: {reason}", path = path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and where in the file.
        reason: String,
    },
    /// A compressed file, where the reader needs a file that is not.
    #[error("{path}: it is compressed with {compression}; unpack it with {program}", path = path.display())]
    Compressed {
        /// The file.
        path: PathBuf,
        /// The name of the compression.
        compression: &'static str,
        /// The program that decompresses it.
        program: &'static str,
    },
    /// A directory of classes has no validation images, and none are held out.
    #[error("{path}: there {missing}; add one, or hold out a fraction of the training images", path = path.display())]
    NoValidation {
        /// The directory.
        path: PathBuf,
        /// A clause that says what is missing, such as `is no directory val`.
        missing: String,
    },
    /// A row beyond the end of a file.
    #[error("{path}: there is no row {row}; the file has {}", vlct_util::text::counted(rows, "row"), path = path.display())]
    NoRow {
        /// The file.
        path: PathBuf,
        /// The requested row, from 0.
        row: usize,
        /// The number of rows in the file.
        rows: usize,
    },
    /// A column that an Arrow file does not have.
    #[error("{path}: there is no column {column:?}; the columns are {}", columns.join(", "), path = path.display())]
    NoColumn {
        /// The file.
        path: PathBuf,
        /// The requested column.
        column: String,
        /// The columns of the file.
        columns: Vec<String>,
    },
    /// A row that is too large to be written.
    #[error("{path}: a row of {bytes} bytes is too large for an Arrow file; leave the image out", path = path.display())]
    RowTooLarge {
        /// The file being written.
        path: PathBuf,
        /// The size of the row.
        bytes: usize,
    },
    /// Files of datasets do not exist. One error lists all missing files.
    #[error("{}", missing_files(directory, missing))]
    MissingFiles {
        /// The directory that was searched.
        directory: PathBuf,
        /// The missing files, ordered by dataset.
        missing: Vec<MissingFile>,
    },
    /// No published dataset has this name, and the directory has no files of a custom dataset with this name.
    #[error("{}", unknown_dataset(name, *similar, known, directory))]
    UnknownDataset {
        /// The name.
        name: String,
        /// The published dataset whose name is most similar, if it is similar enough.
        similar: Option<&'static str>,
        /// The names of the published datasets.
        known: Vec<&'static str>,
        /// The directory that was searched.
        directory: PathBuf,
    },
    /// The preparation of this file is not finished, so the dataset is incomplete.
    #[error("{path}: the preparation of {dataset} is not finished", path = path.display())]
    Unfinished {
        /// The unfinished file.
        path: PathBuf,
        /// The dataset that is being prepared.
        dataset: String,
    },
    /// Another process holds the lock of this journal.
    #[error("{path}: another process prepares the same dataset here", path = path.display())]
    Locked {
        /// The journal.
        path: PathBuf,
    },
    /// The journal belongs to another preparation, which has another fingerprint and has already written rows.
    #[error(
        "{path}: this is the journal of an unfinished preparation from other inputs or with other options",
        path = path.display()
    )]
    OtherPreparation {
        /// The journal.
        path: PathBuf,
    },
    /// An image cannot be decoded, or an argument of image processing is out of range.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// An argument is out of range, unknown or inconsistent with another argument.
    #[error("{0}")]
    Invalid(String),
}

impl DataError {
    /// Creates a [`Self::Format`].
    pub fn format(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Self::Format {
            path: path.into(),
            reason: reason.into(),
        }
    }
}

/// A file that does not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingFile {
    /// The dataset of the file.
    pub dataset: String,
    /// The name of the file.
    pub file: String,
    /// Whether the dataset may have fewer shards than published (`FileRules::fewer_shards`). This file is needed in either case.
    pub allows_fewer_shards: bool,
}

fn missing_files(directory: &Path, missing: &[MissingFile]) -> String {
    let lists = missing.chunk_by(|a, b| a.dataset == b.dataset).map(|files| {
        let names: Vec<&str> = files.iter().map(|file| file.file.as_str()).collect();
        format!("{} (of {})", shorten_runs(&names), files[0].dataset)
    });
    let note = if directory.is_dir() {
        ""
    } else {
        ", which is not a directory"
    };
    format!(
        "not found in {}{note}: {}",
        directory.display(),
        lists.collect::<Vec<_>>().join("; ")
    )
}

fn unknown_dataset(name: &str, similar: Option<&str>, known: &[&str], directory: &Path) -> String {
    let similar = similar.map_or(String::new(), |similar| format!(" (did you mean {similar:?}?)"));
    let searched = match (directory.is_dir(), directory.exists()) {
        (true, _) => format!(
            "has neither {name}_train_0.arrow, {name}_train_1.arrow, … nor {name}_train.arrow nor a directory {name} of .tar files (for \
             validation and test {name}_val…, {name}_test…)"
        ),
        (false, true) => "is not a directory".into(),
        (false, false) => "does not exist".into(),
    };
    format!(
        "unknown dataset {name:?}{similar}: it is not one of {}, and {} {searched}",
        known.join(", "),
        directory.display()
    )
}

/// Joins names with commas. Shortens six or more consecutively numbered files to the first and the last.
fn shorten_runs(files: &[&str]) -> String {
    const MIN_RUN: usize = 6;
    let number = |file: &str| -> Option<(String, u64)> {
        let (name, number) = file.strip_suffix(".arrow")?.rsplit_once('_')?;
        Some((name.to_string(), number.parse().ok()?))
    };
    let follows = |a: &&str, b: &&str| match (number(a), number(b)) {
        (Some((a, i)), Some((b, j))) => a == b && i.checked_add(1) == Some(j),
        _ => false,
    };
    let runs = files.chunk_by(follows).map(|run| match run {
        [first, .., last] if run.len() >= MIN_RUN => format!("{first} to {last}"),
        _ => run.join(", "),
    });
    runs.collect::<Vec<_>>().join(", ")
}

/// Result whose error is [`DataError`] unless another type is given.
pub type Result<T, E = DataError> = std::result::Result<T, E>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shortens_runs_of_numbered_files() {
        let names = |numbers: std::ops::Range<u64>| numbers.map(|i| format!("s_{i}.arrow"));
        let files: Vec<String> = ["a.arrow".into()]
            .into_iter()
            .chain(names(1..9))
            .chain(names(10..12))
            .collect();
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        assert_eq!(
            shorten_runs(&files),
            "a.arrow, s_1.arrow to s_8.arrow, s_10.arrow, s_11.arrow"
        );
    }
}
