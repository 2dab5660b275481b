//! What can go wrong with data.

use std::path::PathBuf;

use vlct_image::ImageError;
use vlct_util::IoError;

use crate::datasets::prepare_command;

/// An error of this crate: one line that says what, where and, if it can be known, what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A file or directory cannot be read or written.
    #[error(transparent)]
    Io(#[from] IoError),
    /// A file is not what it should be.
    #[error("{path}: {reason}", path = path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Files of datasets that are not there: all of them.
    #[error("{}", missing_files(directory, missing))]
    MissingFiles {
        /// Where they were looked for.
        directory: PathBuf,
        /// What is missing.
        missing: Vec<MissingFile>,
    },
    /// An image that cannot be decoded, or an argument that image processing refuses.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A request that makes no sense (an unknown name, a size of zero, …).
    #[error("{0}")]
    Invalid(String),
}

impl DataError {
    /// The error of a file that does not have the expected content.
    pub fn format(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Self::Format {
            path: path.into(),
            reason: reason.into(),
        }
    }
}

/// A file that is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingFile {
    /// The dataset that it belongs to.
    pub dataset: String,
    /// Its name.
    pub file: String,
    /// Whether only the shards that are there were asked for: then later ones are, and `fewer_shards` does not help.
    pub is_gap: bool,
}

fn missing_files(folder: &std::path::Path, missing: &[MissingFile]) -> String {
    let mut datasets: Vec<&str> = missing.iter().map(|m| m.dataset.as_str()).collect();
    datasets.dedup();
    let lists: Vec<String> = datasets
        .iter()
        .map(|dataset| {
            let files = missing
                .iter()
                .filter(|m| m.dataset == *dataset)
                .map(|m| m.file.as_str());
            format!("{} (of {dataset})", runs_shortened(&files.collect::<Vec<_>>()))
        })
        .collect();
    let folder_note = if folder.is_dir() { "" } else { ", which is not a folder" };
    let commands = datasets.iter().map(|dataset| prepare_command(dataset, folder));
    let first_is_there = |file: &str| {
        let number = file.trim_end_matches(".arrow").rsplit_once('_');
        number.is_some_and(|(name, number)| {
            number.parse::<u64>().is_ok() && folder.join(format!("{name}_0.arrow")).exists()
        })
    };
    let fewer = match missing.iter().any(|m| !m.is_gap && first_is_there(&m.file)) {
        true => ", or fewer_shards=True if there are no more",
        false => "",
    };
    format!(
        "not found in {}{folder_note}: {}; give data_root the folder that has the Arrow files of {}{fewer}, or make them: {}",
        folder.display(),
        lists.join("; "),
        datasets.join(", "),
        commands.collect::<Vec<_>>().join("; ")
    )
}

/// Names with commas between them; of a long run of numbered files the first and the last.
fn runs_shortened(files: &[&str]) -> String {
    const LONG: usize = 6;
    let number = |file: &str| -> Option<(String, u64)> {
        let (name, number) = file.strip_suffix(".arrow")?.rsplit_once('_')?;
        Some((name.to_string(), number.parse().ok()?))
    };
    let follows = |a: &&str, b: &&str| match (number(a), number(b)) {
        (Some((a, i)), Some((b, j))) => a == b && i.checked_add(1) == Some(j),
        _ => false,
    };
    let runs = files.chunk_by(follows).map(|run| match run {
        [first, .., last] if run.len() >= LONG => format!("{first} to {last}"),
        _ => run.join(", "),
    });
    runs.collect::<Vec<_>>().join(", ")
}

/// Result with a [`DataError`], if not said otherwise.
pub type Result<T, E = DataError> = std::result::Result<T, E>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_runs_of_numbered_files_are_shortened() {
        let names = |numbers: std::ops::Range<u64>| numbers.map(|i| format!("s_{i}.arrow"));
        let files: Vec<String> = ["a.arrow".into()]
            .into_iter()
            .chain(names(1..9))
            .chain(names(10..12))
            .collect();
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        assert_eq!(
            runs_shortened(&files),
            "a.arrow, s_1.arrow to s_8.arrow, s_10.arrow, s_11.arrow"
        );
    }
}
