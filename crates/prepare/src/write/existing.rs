//! Checks and removes files that exist before a preparation.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::arrow_file::arrow_path;
use super::fingerprints::vocabulary_fingerprint;
use crate::plan::Plan;
use crate::{PrepareError, Result};
use vlct_data::manifest::{Journal, Report};
use vlct_util::at;

/// Returns the names of the planned files that are not finished, and of the parts into which these files will be divided. The parts
/// of a finished file are not included: they may exist if the process was stopped while it divided the file.
fn names_to_write<'a>(plan: &'a Plan, journal: &Journal) -> Vec<&'a str> {
    let mut names: Vec<&str> = (plan.files.iter().enumerate())
        .filter(|(index, _)| journal.state(*index).finished.is_none())
        .map(|(_, file)| file.name.as_str())
        .collect();
    let splits = plan
        .tail_splits
        .iter()
        .filter(|split| names.contains(&split.from.as_str()));
    let parts: Vec<&str> = splits.flat_map(|split| [split.head.as_str(), &split.tail]).collect();
    names.extend(parts);
    names
}

/// Returns an error if a file that would be written exists.
pub(super) fn reject_replacing(plan: &Plan, out: &Path, journal: &Journal) -> Result<()> {
    let existing: Vec<String> = names_to_write(plan, journal)
        .into_iter()
        .map(|name| format!("{name}.arrow"))
        .filter(|name| out.join(name).exists())
        .collect();
    if existing.is_empty() {
        return Ok(());
    }
    Err(PrepareError::OutputExists {
        out: out.to_path_buf(),
        files: existing,
    })
}

/// Returns an error if an existing file of another split has answer ids of another vocabulary than the plan, because files
/// with different vocabularies cannot be used together.
pub(super) fn check_vocabulary(plan: &Plan, out: &Path, earlier: &Report) -> Result<()> {
    let others = earlier.other_files(plan.names().map(String::as_str));
    let existing = others.iter().find(|file| out.join(&file.file).exists());
    match (existing, vocabulary_fingerprint(plan), &earlier.vocabulary) {
        (Some(file), Some(new), Some(old)) if new != *old => Err(PrepareError::OtherVocabulary {
            path: out.join(&file.file),
        }),
        _ => Ok(()),
    }
}

/// Deletes the files that will be replaced, and files of an earlier, longer series. Otherwise, old files together with the new files
/// of an interrupted preparation could be mistaken for a complete dataset.
pub(super) fn remove_stale(plan: &Plan, out: &Path, journal: &Journal, earlier: Option<&Report>) -> Result<()> {
    let mut stale: Vec<PathBuf> = names_to_write(plan, journal)
        .into_iter()
        .map(|name| arrow_path(out, name))
        .collect();
    if let Some(report) = earlier {
        let others = report.other_files(plan.names().map(String::as_str));
        let is_planned = |file: &str| plan.names().any(|name| file.strip_suffix(".arrow") == Some(name));
        let rest_of_series = report
            .files
            .iter()
            .filter(|file| !others.contains(file) && !is_planned(&file.file));
        stale.extend(rest_of_series.map(|file| out.join(&file.file)));
    }
    for path in stale {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(at(&path)(error)),
            _ => {}
        }
    }
    Ok(())
}
