//! Writing a plan: images are read on all cores, files are written in order, and an interrupted process is resumed.

mod arrow_file;
mod existing;
mod fingerprints;
mod parallel;
mod tail_split;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use crate::image_processing::ImageProcessing;
use crate::plan::{Plan, PlannedFile, RowText};
use crate::{PrepareError, Result};
use arrow_file::{ArrowFileWriter, arrow_path};
use existing::{refuse_other_vocabulary, refuse_to_replace, remove_stale};
use fingerprints::{Fingerprints, of_vocabulary};
use parallel::{ByteSize, map_in_order};
use vlct_data::DataError;
use vlct_data::arrow::{ArrowTable, partial_path};
use vlct_data::manifest::{FileState, Journal, LeftOut, Report, WrittenFile};
use vlct_util::at;

/// Bytes of images that may wait to be written.
const BUDGET: usize = 128 << 20;
/// Batches between two journal entries: a quarter of a gibibyte, which a process that was killed has to write again. Tests write
/// little and interrupt after every batch.
const BATCHES_PER_ENTRY: usize = if cfg!(test) { 1 } else { 8 };

/// Where and how to write.
#[derive(Clone, Debug)]
pub struct WriteOptions {
    /// The directory of the Arrow files. It is created if it is missing.
    pub out: PathBuf,
    /// Applied to every image.
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
    /// `watch` stopped it. The same call resumes it.
    Stopped,
}

/// A row with its images, or the reason why it has none.
struct Prepared<'a> {
    images: Result<Vec<Vec<u8>>>,
    text: Result<RowText<'a>>,
}

impl ByteSize for Prepared<'_> {
    fn byte_size(&self) -> usize {
        self.images.as_ref().map_or(0, |p| p.iter().map(Vec::len).sum())
    }
}

/// Why the loop over the rows of a file ended early.
enum End {
    Stopped,
    Failed(PrepareError),
}

impl From<PrepareError> for End {
    fn from(error: PrepareError) -> Self {
        Self::Failed(error)
    }
}

impl From<DataError> for End {
    fn from(error: DataError) -> Self {
        Self::Failed(error.into())
    }
}

/// Writes the files of a plan for the dataset `name`. `watch` is called before the first row and after every row, and returns whether
/// to continue.
///
/// Files appear under their names when they are complete. If the process ends early, what it has written stays in hidden files, and
/// the same call resumes from there; the result is the same, byte by byte.
///
/// # Errors
/// Returns an error if other files are in the way, if writing fails, or if an annotation cannot be written.
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
        let mut files = fingerprints.of_names(plan);
        if files.all(|(name, print)| report.finished(out, name, print).is_some()) {
            return Ok(Outcome::UpToDate(report.clone()));
        }
        refuse_other_vocabulary(plan, out, report)?;
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
    for (number, file) in plan.files.iter().enumerate() {
        if journal.state(number).finished.is_some() {
            continue;
        }
        match write_file(number, file, options, &mut journal, &mut progress, watch) {
            Ok(()) => {}
            Err(End::Stopped) => return Ok(Outcome::Stopped),
            Err(End::Failed(error)) => return Err(error),
        }
    }
    for split in &plan.tail_splits {
        split.write(out)?;
    }
    let mut report = report(name, plan, out, &fingerprints, &journal)?;
    if let Some(earlier) = earlier {
        report.merge(earlier);
    }
    report.write(out)?;
    journal.remove()?;
    Ok(Outcome::Written(report))
}

/// Opens the journal, and makes it agree with the files that exist.
///
/// # Errors
/// Returns an error if another process has the journal open, if it is that of another preparation, or if a file would be replaced that
/// may not be.
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
    let is_new = (0..plan.files.len()).all(|number| *journal.state(number) == FileState::default());
    reconcile(plan, out, &mut journal, earlier, fingerprints)?;
    if !options.overwrite
        && let Err(refusal) = refuse_to_replace(plan, out, &journal)
    {
        if is_new {
            journal.remove()?;
        }
        return Err(refusal);
    }
    Ok(journal)
}

/// Makes the journal agree with the files that exist: forgets those that are gone, and notes those that an earlier preparation, of
/// other splits, has written.
fn reconcile(
    plan: &Plan,
    out: &Path,
    journal: &mut Journal,
    earlier: Option<&Report>,
    fingerprints: &Fingerprints,
) -> Result<()> {
    for (number, (file, fingerprint)) in plan.files.iter().zip(&fingerprints.files).enumerate() {
        let length = std::fs::metadata(arrow_path(out, &file.name)).map(|m| m.len()).ok();
        let state = journal.state(number);
        let gone = match state.finished {
            Some(_) => state.finished != length,
            None => !state.blocks.is_empty() && !partial_path(&arrow_path(out, &file.name))?.exists(),
        };
        if gone {
            journal.reset(number)?;
        }
        if let Some(report) = earlier
            && *journal.state(number) == FileState::default()
            && let Some(written) = report.finished(out, &file.name, fingerprint)
        {
            let left_out = report.left_out.iter().filter(|l| l.file == file.name);
            let state = FileState {
                consumed: file.rows.rows(),
                blocks: Vec::new(),
                left_out: left_out.cloned().collect(),
                finished: Some(written.bytes),
            };
            journal.record(number, state)?;
        }
    }
    Ok(())
}

/// Writes the file at position `number` of the plan, from where the journal says that it was interrupted.
fn write_file(
    number: usize,
    file: &PlannedFile,
    options: &WriteOptions,
    journal: &mut Journal,
    progress: &mut Progress,
    watch: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<(), End> {
    let rows = &*file.rows;
    let mut state = journal.state(number).clone();
    let first = state.consumed;
    let path = arrow_path(&options.out, &file.name);
    let mut writer = ArrowFileWriter::resume(&path, file.schema, state.blocks.clone())?;
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
        match prepared.images {
            Ok(images) => writer.push(&images, &text)?,
            // The image is not damaged: reading it may succeed another time.
            Err(error) if error.is_io() => return Err(error.into()),
            Err(error) => state.left_out.push(LeftOut {
                file: file.name.clone(),
                image: rows.label(row),
                reason: error.to_string(),
            }),
        }
        if writer.blocks().len() >= state.blocks.len() + BATCHES_PER_ENTRY {
            // A batch is written when the next row comes: this row is in none yet.
            writer.sync()?;
            state.consumed = row;
            state.blocks = writer.blocks().to_vec();
            journal.record(number, state.clone())?;
        }
        progress.done += 1;
        progress.bytes += bytes;
        match watch(*progress) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(End::Stopped),
        }
    };
    map_in_order(first..rows.rows(), options.threads, BUDGET, make, take)?;
    state.consumed = rows.rows();
    writer.finish()?;
    let metadata = std::fs::metadata(&path).map_err(at::<PrepareError>(&path))?;
    state.finished = Some(metadata.len());
    journal.record(number, state)?;
    Ok(())
}

fn report(name: &str, plan: &Plan, out: &Path, fingerprints: &Fingerprints, journal: &Journal) -> Result<Report> {
    let files = fingerprints
        .of_names(plan)
        .map(|(name, fingerprint)| {
            let path = arrow_path(out, name);
            let table = ArrowTable::open(&path)?;
            let metadata = std::fs::metadata(&path).map_err(at::<PrepareError>(&path))?;
            Ok(WrittenFile {
                file: format!("{name}.arrow"),
                rows: table.rows() as u64,
                bytes: metadata.len(),
                fingerprint: fingerprint.to_string(),
            })
        })
        .collect::<Result<_>>()?;
    Ok(Report {
        dataset: name.to_string(),
        files,
        coverage: plan.coverage.clone(),
        remarks: plan.remarks.clone(),
        left_out: (0..plan.files.len())
            .flat_map(|number| journal.state(number).left_out.clone())
            .collect(),
        vocabulary: of_vocabulary(plan),
    })
}

#[cfg(test)]
mod tests;
