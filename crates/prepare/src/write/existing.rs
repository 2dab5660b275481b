//! Files that exist before a preparation begins: those in its way, and those that it makes stale.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::arrow_file::arrow_path;
use super::fingerprints::of_vocabulary;
use crate::plan::Plan;
use crate::{PrepareError, Result};
use vlct_data::manifest::{Journal, Report};
use vlct_util::at;

/// Returns the names of the files of the plan that are not finished. The parts of a finished file are not among them: they may exist
/// already if the process was stopped while it split the file.
fn to_be_written<'a>(plan: &'a Plan, journal: &Journal) -> Vec<&'a str> {
    let mut names: Vec<&str> = (plan.files.iter().enumerate())
        .filter(|(number, _)| journal.state(*number).finished.is_none())
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
pub(super) fn refuse_to_replace(plan: &Plan, out: &Path, journal: &Journal) -> Result<()> {
    let in_the_way: Vec<String> = to_be_written(plan, journal)
        .into_iter()
        .map(|name| format!("{name}.arrow"))
        .filter(|name| out.join(name).exists())
        .collect();
    if in_the_way.is_empty() {
        return Ok(());
    }
    Err(PrepareError::OutputExists {
        out: out.to_path_buf(),
        files: in_the_way,
    })
}

/// Returns an error if files of other splits stay whose answers are numbered by another vocabulary than the plan's: they could not be
/// used together.
pub(super) fn refuse_other_vocabulary(plan: &Plan, out: &Path, earlier: &Report) -> Result<()> {
    let stay = earlier.other_files(plan.names().map(String::as_str));
    let there = stay.iter().find(|file| out.join(&file.file).exists());
    match (there, of_vocabulary(plan), &earlier.vocabulary) {
        (Some(file), Some(new), Some(old)) if new != *old => Err(PrepareError::OtherVocabulary {
            path: out.join(&file.file),
        }),
        _ => Ok(()),
    }
}

/// Deletes the files that will be replaced, and files of an earlier, longer series. If the process is stopped, what it leaves is then
/// not mistaken for a whole dataset.
pub(super) fn remove_stale(plan: &Plan, out: &Path, journal: &Journal, earlier: Option<&Report>) -> Result<()> {
    let mut stale: Vec<PathBuf> = to_be_written(plan, journal)
        .into_iter()
        .map(|name| arrow_path(out, name))
        .collect();
    if let Some(report) = earlier {
        let stay = report.other_files(plan.names().map(String::as_str));
        let planned = |file: &str| plan.names().any(|name| file.strip_suffix(".arrow") == Some(name));
        let gone = report
            .files
            .iter()
            .filter(|file| !stay.contains(file) && !planned(&file.file));
        stale.extend(gone.map(|file| out.join(&file.file)));
    }
    for path in stale {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(at(&path)(error)),
            _ => {}
        }
    }
    Ok(())
}
