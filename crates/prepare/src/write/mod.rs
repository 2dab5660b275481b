//! Writes a plan: images are read on several threads, files are written in order, and an interrupted preparation is resumed.

mod arrow_file;
mod existing;
mod fingerprints;
mod image_stamps;
mod label_counts;
mod parallel;
mod tail_split;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use crate::image_processing::{ImageProcessing, ProcessedImage};
use crate::plan::{Plan, PlannedFile, RowText};
use crate::{PrepareError, Result};
use arrow_file::{ArrowFileWriter, arrow_path};
use existing::{check_vocabulary, reject_replacing, remove_stale};
use fingerprints::{Fingerprints, vocabulary_fingerprint};
use label_counts::label_counts;
use parallel::{ByteSize, map_in_order};
use vlct_data::DataError;
use vlct_data::arrow::{ArrowTable, partial_path};
use vlct_data::manifest::{FileState, Journal, LeftOut, Report, WrittenFile};
use vlct_util::{at, atomic::sync_directory};

/// Maximum total size in bytes of the images that wait to be written.
const MAX_WAITING_BYTES: usize = 128 << 20;
/// Number of batches between two journal entries. A resumed preparation writes at most this many batches (256 MiB) again. Tests write
/// few batches, so there is an entry after each batch.
const BATCHES_PER_ENTRY: usize = if cfg!(test) { 1 } else { 8 };

/// Options of [`write()`].
#[derive(Clone, Debug)]
pub struct WriteOptions {
    /// The directory of the Arrow files. It is created if it is missing.
    pub out: PathBuf,
    /// The processing of every image.
    pub processing: ImageProcessing,
    /// Whether to replace existing files that were made from other inputs.
    pub overwrite: bool,
    /// Number of threads that read images, at least 1.
    pub threads: usize,
}

/// Progress of [`write()`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Rows of the plan.
    pub total: u64,
    /// Rows written or left out, including those of earlier processes.
    pub done: u64,
    /// Bytes of images written by this process.
    pub bytes: u64,
}

/// Result of [`write()`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All files are written.
    Written(Report),
    /// All files had been written before, from the same inputs.
    UpToDate(Report),
    /// The callback `watch` stopped the preparation. The same call resumes it.
    Stopped,
}

/// The images and the other columns of a row, or their errors.
struct Prepared<'a> {
    images: Result<Vec<ProcessedImage>>,
    text: Result<RowText<'a>>,
}

impl ByteSize for Prepared<'_> {
    fn byte_size(&self) -> usize {
        self.images
            .as_ref()
            .map_or(0, |images| images.iter().map(|image| image.bytes.len()).sum())
    }
}

/// The reason why the loop over the rows of a file ended early.
enum EarlyEnd {
    Stopped,
    Failed(PrepareError),
}

impl From<PrepareError> for EarlyEnd {
    fn from(error: PrepareError) -> Self {
        Self::Failed(error)
    }
}

impl From<DataError> for EarlyEnd {
    fn from(error: DataError) -> Self {
        Self::Failed(error.into())
    }
}

/// Writes the files of a plan for the dataset `name`. `watch` is called before the first row and after every row, and returns whether
/// to continue.
///
/// Files appear under their names when they are complete. If the process ends early, its unfinished files stay under hidden names, and
/// the same call resumes them. The files are then the same, byte for byte, as without an interruption.
///
/// # Errors
/// Returns an error if files would be replaced without `overwrite`, if writing fails, or if an annotation is wrong.
pub fn write(
    name: &str,
    plan: &Plan,
    options: &WriteOptions,
    watch: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Outcome> {
    let out = &options.out;
    std::fs::create_dir_all(out).map_err(at::<PrepareError>(out))?;
    let fingerprints = Fingerprints::new(name, plan, &options.processing)?;
    let earlier = Report::read(out, name);
    if let Some(report) = &earlier {
        let mut files = fingerprints.by_name(plan);
        if files.all(|(name, inputs)| report.finished(out, name, inputs).is_some()) {
            return Ok(Outcome::UpToDate(report.clone()));
        }
        check_vocabulary(plan, out, report)?;
    }
    let mut journal = open_journal(name, plan, options, earlier.as_ref(), &fingerprints)?;
    let mut progress = Progress {
        total: plan.rows(),
        done: (0..plan.files.len()).map(|i| journal.state(i).consumed as u64).sum(),
        bytes: 0,
    };
    if watch(progress).is_break() {
        return Ok(Outcome::Stopped);
    }
    remove_stale(plan, out, &journal, earlier.as_ref())?;
    for (index, file) in plan.files.iter().enumerate() {
        if journal.state(index).finished.is_some() {
            continue;
        }
        match write_file(index, file, options, &mut journal, &mut progress, watch) {
            Ok(()) => {}
            Err(EarlyEnd::Stopped) => return Ok(Outcome::Stopped),
            Err(EarlyEnd::Failed(error)) => return Err(error),
        }
    }
    for split in &plan.tail_splits {
        split.write(out)?;
    }
    let mut report = build_report(name, plan, options, &fingerprints, &journal)?;
    if let Some(earlier) = earlier {
        report.merge(earlier);
    }
    report.write(out)?;
    journal.remove()?;
    Ok(Outcome::Written(report))
}

/// Opens the journal and reconciles it with the existing files.
///
/// # Errors
/// Returns an error if another process has locked the journal, if it is the journal of another preparation, or if a file would be
/// replaced without `overwrite`.
fn open_journal(
    name: &str,
    plan: &Plan,
    options: &WriteOptions,
    earlier: Option<&Report>,
    fingerprints: &Fingerprints,
) -> Result<Journal> {
    let out = &options.out;
    let mut journal = Journal::open(
        &Journal::path(out, name),
        &fingerprints.all,
        &plan.files.iter().map(|file| file.name.as_str()).collect::<Vec<_>>(),
        options.overwrite,
    )?;
    let is_new = (0..plan.files.len()).all(|index| *journal.state(index) == FileState::default());
    reconcile(plan, out, &mut journal, earlier, fingerprints)?;
    if !options.overwrite
        && let Err(error) = reject_replacing(plan, out, &journal)
    {
        if is_new {
            journal.remove()?;
        }
        return Err(error);
    }
    Ok(journal)
}

/// Reconciles the journal with the existing files: renames complete files that still have their temporary name, resets the entries of
/// files that are missing or have another size, and records files that an earlier preparation of other splits has written.
fn reconcile(
    plan: &Plan,
    out: &Path,
    journal: &mut Journal,
    earlier: Option<&Report>,
    fingerprints: &Fingerprints,
) -> Result<()> {
    for (index, (file, inputs)) in plan.files.iter().zip(&fingerprints.files).enumerate() {
        let path = arrow_path(out, &file.name);
        let partial = partial_path(&path)?;
        let length = |path: &Path| std::fs::metadata(path).map(|metadata| metadata.len()).ok();
        let state = journal.state(index);
        if state.finished.is_some() && state.finished == length(&partial) {
            // The process ended between the journal entry and the renaming.
            std::fs::rename(&partial, &path).map_err(at::<PrepareError>(&path))?;
            sync_directory(&path).map_err(at::<PrepareError>(&path))?;
        }
        let is_missing_or_changed = match state.finished {
            Some(_) => state.finished != length(&path),
            None => !state.blocks.is_empty() && !partial.exists(),
        };
        if is_missing_or_changed {
            journal.reset(index)?;
        }
        if let Some(report) = earlier
            && *journal.state(index) == FileState::default()
            && let Some(written) = report.finished(out, &file.name, inputs)
        {
            let left_out = report.left_out.iter().filter(|l| l.file == file.name);
            let state = FileState {
                consumed: file.rows.rows(),
                blocks: Vec::new(),
                left_out: left_out.cloned().collect(),
                transparent: written.transparent,
                finished: Some(written.bytes),
            };
            journal.record(index, state)?;
        }
    }
    Ok(())
}

/// Writes file `index` of the plan. Resumes after the rows that the journal has recorded.
fn write_file(
    index: usize,
    file: &PlannedFile,
    options: &WriteOptions,
    journal: &mut Journal,
    progress: &mut Progress,
    watch: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<(), EarlyEnd> {
    let rows = &*file.rows;
    let mut state = journal.state(index).clone();
    let first = state.consumed;
    let path = arrow_path(&options.out, &file.name);
    let mut writer = ArrowFileWriter::resume(&path, file.schema, state.blocks.clone())?;
    if let Some(reading) = options.processing.reading {
        writer.set_reading(reading);
    }
    let make = |row| Prepared {
        images: rows.images(row).and_then(|images| {
            let processed = images.into_iter().map(|bytes| options.processing.apply(bytes));
            processed.collect()
        }),
        text: rows.text(row),
    };
    let take = |row: usize, prepared: Prepared<'_>| {
        let bytes = prepared.byte_size() as u64;
        let text = prepared.text?;
        let mut transparent = 0;
        match prepared.images {
            Ok(images) => {
                transparent = images.iter().filter(|image| image.is_transparent).count() as u64;
                let images: Vec<Vec<u8>> = images.into_iter().map(|image| image.bytes).collect();
                writer.push(&images, &text)?;
            }
            Err(error) if error.ends_preparation() => return Err(error.into()),
            Err(error) => state.left_out.push(LeftOut {
                file: file.name.clone(),
                image: rows.row_name(row),
                reason: error.to_string(),
            }),
        }
        if writer.blocks().len() >= state.blocks.len() + BATCHES_PER_ENTRY {
            // `push` wrote the batches before it buffered this row, so this row is in none of them.
            writer.sync()?;
            state.consumed = row;
            state.blocks = writer.blocks().to_vec();
            journal.record(index, state.clone())?;
        }
        state.transparent += transparent;
        progress.done += 1;
        progress.bytes += bytes;
        match watch(*progress) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(EarlyEnd::Stopped),
        }
    };
    map_in_order(first..rows.rows(), options.threads, MAX_WAITING_BYTES, make, take)?;
    state.consumed = rows.rows();
    // The journal entry is written before the renaming, so that a file under its final name is never unknown to the journal.
    writer.finish(|bytes| {
        state.finished = Some(bytes);
        journal.record(index, state)
    })?;
    Ok(())
}

fn build_report(
    name: &str,
    plan: &Plan,
    options: &WriteOptions,
    fingerprints: &Fingerprints,
    journal: &Journal,
) -> Result<Report> {
    let (out, reading) = (options.out.as_path(), options.processing.reading);
    let files = fingerprints
        .by_name(plan)
        .map(|(name, inputs)| {
            let path = arrow_path(out, name);
            let table = ArrowTable::open(&path)?;
            let metadata = std::fs::metadata(&path).map_err(at::<PrepareError>(&path))?;
            Ok(WrittenFile {
                file: format!("{name}.arrow"),
                rows: table.rows() as u64,
                bytes: metadata.len(),
                fingerprint: inputs.fingerprint.clone(),
                images: Some(inputs.images.clone()),
                // Parts of a divided file have no count of their own.
                transparent: (plan.files.iter().position(|file| file.name == name))
                    .map_or(0, |index| journal.state(index).transparent),
            })
        })
        .collect::<Result<_>>()?;
    Ok(Report {
        dataset: name.to_string(),
        files,
        coverage: plan.coverage.clone(),
        remarks: plan.remarks.clone(),
        left_out: (0..plan.files.len())
            .flat_map(|index| journal.state(index).left_out.clone())
            .collect(),
        vocabulary: vocabulary_fingerprint(plan),
        reading,
        labels: label_counts(plan, out)?,
    })
}

#[cfg(test)]
mod tests;
