//! Carrying a plan out: pictures read by all cores, files written in order, going on where an earlier process was stopped.

use std::hash::Hasher;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use super::cut::Cut;
use super::ordered::{Weigh, in_order};
use super::picture::Treatment;
use super::plan::{Plan, PlannedFile, RowText};
use super::table::TableWriter;
use crate::{DataError, Result};
use vlct_data::arrow::partial;
use vlct_data::manifest::{FileState, Journal};
use vlct_data::manifest::{LeftOut, Report, WrittenFile};
use vlct_util::IoError;

/// Bytes of pictures that may wait to be written.
const BUDGET: usize = 128 << 20;
/// Batches between two entries of the journal: a quarter of a gibibyte, what a process that is killed has to do again.
/// Tests, which write little, interrupt after every batch.
const BATCHES_PER_ENTRY: usize = if cfg!(test) { 1 } else { 8 };
/// Part of every fingerprint: to be changed when the same plan is written differently.
const VERSION: &str = "2";

/// Where and how to write.
#[derive(Clone, Debug)]
pub struct Target {
    /// The folder of the Arrow files; created if it is missing.
    pub out: PathBuf,
    /// What to do with every picture.
    pub treatment: Treatment,
    /// Whether files that are there already, from other inputs, are replaced.
    pub overwrite: bool,
    /// Threads that read pictures, at least 1.
    pub threads: usize,
}

/// How far the work is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Rows of the plan.
    pub total: u64,
    /// Rows dealt with, also by earlier processes.
    pub done: u64,
    /// Bytes of pictures written by this process.
    pub bytes: u64,
}

/// What became of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything is written.
    Done(Report),
    /// Everything had been written before, from the same inputs.
    WasDone(Report),
    /// It was stopped; the same call goes on.
    Stopped,
}

/// A row with its pictures, or why it has none.
struct Prepared<'a> {
    pictures: Result<Vec<Vec<u8>>>,
    text: Result<RowText<'a>>,
}

impl Weigh for Prepared<'_> {
    fn weight(&self) -> usize {
        self.pictures.as_ref().map_or(0, |p| p.iter().map(Vec::len).sum())
    }
}

/// Why a loop over rows ended early.
enum End {
    Stopped,
    Failed(DataError),
}

impl From<DataError> for End {
    fn from(error: DataError) -> Self {
        Self::Failed(error)
    }
}

/// Writes the files of a plan for the dataset `name`. `watch` hears how far it is, once before the first row and after every row, and says
/// whether to go on.
///
/// Files appear under their names when they are whole. What was written when the process ends early stays in hidden files, and the
/// same call goes on there; the result is the same, byte by byte.
///
/// # Errors
/// [`DataError`] for files in the way, a full disk, an annotation that cannot be written.
pub fn write(
    name: &str,
    plan: &Plan,
    target: &Target,
    watch: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Outcome> {
    let out = &target.out;
    std::fs::create_dir_all(out).map_err(|source| {
        DataError::Io(IoError {
            path: out.clone(),
            source,
        })
    })?;
    let fingerprints = Fingerprints::new(name, plan, &target.treatment)?;
    let earlier = Report::read(out, name);
    if let Some(report) = &earlier
        && (fingerprints.of_names(plan)).all(|(name, print)| report.finished(out, name, print).is_some())
    {
        return Ok(Outcome::WasDone(report.clone()));
    }
    if let Some(report) = &earlier {
        refuse_other_vocabulary(plan, out, report)?;
    }
    let mut journal = Journal::open(
        &Journal::path(out, name),
        &fingerprints.all,
        &plan.files.iter().map(|file| file.name.as_str()).collect::<Vec<_>>(),
        target.overwrite,
    )?;
    let is_new = (0..plan.files.len()).all(|number| *journal.state(number) == FileState::default());
    for (number, file) in plan.files.iter().enumerate() {
        let length = std::fs::metadata(path(out, &file.name)).map(|m| m.len()).ok();
        let state = journal.state(number);
        let gone = match state.finished {
            Some(_) => state.finished != length,
            None => !state.blocks.is_empty() && !partial(&path(out, &file.name))?.exists(),
        };
        if gone {
            journal.forget(number)?;
        }
        if let Some(report) = &earlier
            && *journal.state(number) == FileState::default()
            && let Some(written) = report.finished(out, &file.name, &fingerprints.files[number])
        {
            // Another preparation, of other splits, has written it.
            let left_out = report.left_out.iter().filter(|l| l.file == file.name);
            let state = FileState {
                consumed: file.rows.rows(),
                blocks: Vec::new(),
                left_out: left_out.cloned().collect(),
                finished: Some(written.bytes),
            };
            journal.note(number, state)?;
        }
    }
    if !target.overwrite
        && let Err(refusal) = refuse_to_replace(plan, out, &journal)
    {
        if is_new {
            journal.remove()?;
        }
        return Err(refusal);
    }

    let mut progress = Progress {
        total: plan.rows(),
        done: (0..plan.files.len()).map(|i| journal.state(i).consumed as u64).sum(),
        bytes: 0,
    };
    if watch(progress).is_break() {
        return Ok(Outcome::Stopped);
    }
    withdraw(plan, out, &journal, earlier.as_ref())?;
    for (number, file) in plan.files.iter().enumerate() {
        if journal.state(number).finished.is_some() {
            continue;
        }
        match write_file(number, file, target, &mut journal, &mut progress, watch) {
            Ok(()) => {}
            Err(End::Stopped) => return Ok(Outcome::Stopped),
            Err(End::Failed(error)) => return Err(error),
        }
    }
    for cut in &plan.cuts {
        cut.make(out)?;
    }
    let mut report = report(name, plan, out, &fingerprints, &journal)?;
    if let Some(earlier) = earlier {
        report.merge(earlier);
    }
    report.write(out)?;
    journal.remove()?;
    Ok(Outcome::Done(report))
}

fn path(out: &Path, name: &str) -> PathBuf {
    out.join(format!("{name}.arrow"))
}

/// Numbers, in hexadecimal digits, of everything that decides what is written, but for the content of pictures.
struct Fingerprints {
    /// One for each file of the plan.
    files: Vec<String>,
    /// One for the two files of each cut.
    cuts: Vec<String>,
    /// Of everything.
    all: String,
}

impl Fingerprints {
    fn new(name: &str, plan: &Plan, treatment: &Treatment) -> Result<Self> {
        let of_file = |file: &PlannedFile| {
            let mut hash = Xxh3::new();
            let head = format!("{VERSION} {name} {treatment:?} {} {:?}", file.name, file.columns);
            Hasher::write(&mut hash, head.as_bytes());
            file.rows.identify(&mut hash)?;
            Ok(digits(&hash))
        };
        let files: Vec<String> = plan.files.iter().map(of_file).collect::<Result<_>>()?;
        let of_cut = |cut: &Cut| {
            let from = plan.files.iter().position(|file| file.name == cut.from);
            let from = from.map_or("", |number| &files[number]);
            of_text(&format!("{cut:?} {from}"))
        };
        let cuts: Vec<String> = plan.cuts.iter().map(of_cut).collect();
        let all = of_text(&format!("{} {}", files.join(" "), cuts.join(" ")));
        Ok(Self { files, cuts, all })
    }

    /// Names and fingerprints of all files, those that are cut out of others included.
    fn of_names<'a>(&'a self, plan: &'a Plan) -> impl Iterator<Item = (&'a str, &'a str)> {
        let files = plan.files.iter().zip(&self.files);
        let cuts = plan.cuts.iter().zip(&self.cuts);
        let parts = cuts.flat_map(|(cut, print)| [(cut.head.as_str(), print.as_str()), (&cut.tail, print)]);
        files
            .map(|(file, print)| (file.name.as_str(), print.as_str()))
            .chain(parts)
    }
}

fn of_text(text: &str) -> String {
    let mut hash = Xxh3::new();
    Hasher::write(&mut hash, text.as_bytes());
    digits(&hash)
}

fn digits(hash: &Xxh3) -> String {
    format!("{:032x}", hash.digest128())
}

/// Names of the files of the plan that are not finished. Cuts of a finished file are left out: they may be there from the process
/// that was stopped while it made them.
fn to_be_written<'a>(plan: &'a Plan, journal: &Journal) -> Vec<&'a str> {
    let mut names: Vec<&str> = (plan.files.iter().enumerate())
        .filter(|(number, _)| journal.state(*number).finished.is_none())
        .map(|(_, file)| file.name.as_str())
        .collect();
    let cuts = plan.cuts.iter().filter(|cut| names.contains(&cut.from.as_str()));
    let cuts: Vec<&str> = cuts.flat_map(|cut| [cut.head.as_str(), &cut.tail]).collect();
    names.extend(cuts);
    names
}

/// Deletes what is to be replaced, and files of an earlier, longer series, so that nobody takes what a stopped process leaves
/// for a whole data set.
fn withdraw(plan: &Plan, out: &Path, journal: &Journal, earlier: Option<&Report>) -> Result<()> {
    let mut obsolete: Vec<PathBuf> = to_be_written(plan, journal)
        .into_iter()
        .map(|name| path(out, name))
        .collect();
    if let Some(report) = earlier {
        let stay = report.other_files(plan.names().map(String::as_str));
        let planned = |file: &str| plan.names().any(|name| file.strip_suffix(".arrow") == Some(name));
        let gone = report
            .files
            .iter()
            .filter(|file| !stay.contains(file) && !planned(&file.file));
        obsolete.extend(gone.map(|file| out.join(&file.file)));
    }
    for path in obsolete {
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(DataError::Io(IoError { path, source }));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Files of other splits whose answers were numbered otherwise cannot be used with the ones of this plan.
fn refuse_other_vocabulary(plan: &Plan, out: &Path, earlier: &Report) -> Result<()> {
    let stay = earlier.other_files(plan.names().map(String::as_str));
    let there = stay.iter().find(|file| out.join(&file.file).exists());
    match (there, vocabulary(plan), &earlier.vocabulary) {
        (Some(file), Some(new), Some(old)) if new != *old => Err(DataError::Format {
            path: out.join(&file.file),
            reason: "its answers are numbered by another vocabulary than those that are to be written beside it, since training \
                     annotations have changed; prepare all splits together, or into another --out"
                .into(),
        }),
        _ => Ok(()),
    }
}

/// A number of the vocabulary, in hexadecimal digits.
fn vocabulary(plan: &Plan) -> Option<String> {
    let vocabulary = plan.vocabulary.as_ref()?;
    let answers = (0..vocabulary.len() as u32).map(|id| vocabulary.answer(id));
    Some(of_text(&format!("{:?}", answers.collect::<Vec<_>>())))
}

fn refuse_to_replace(plan: &Plan, out: &Path, journal: &Journal) -> Result<()> {
    let in_the_way: Vec<String> = to_be_written(plan, journal)
        .into_iter()
        .map(|name| format!("{name}.arrow"))
        .filter(|name| out.join(name).exists())
        .collect();
    if in_the_way.is_empty() {
        return Ok(());
    }
    Err(DataError::Format {
        path: out.to_path_buf(),
        reason: format!(
            "{} there already, made from other inputs or with other options; --overwrite replaces, another --out keeps",
            match &in_the_way[..] {
                [one] => format!("{one} is"),
                [first, .., last] => format!("{} files, {first} to {last}, are", in_the_way.len()),
                [] => String::new(),
            }
        ),
    })
}

fn write_file(
    number: usize,
    file: &PlannedFile,
    target: &Target,
    journal: &mut Journal,
    progress: &mut Progress,
    watch: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<(), End> {
    let rows = &*file.rows;
    let mut state = journal.state(number).clone();
    let first = state.consumed;
    let path = path(&target.out, &file.name);
    let mut writer = TableWriter::resume(&path, file.columns, state.blocks.clone())?;
    let make = |row| Prepared {
        pictures: rows.pictures(row).and_then(|pictures| {
            let treated = pictures.into_iter().map(|bytes| target.treatment.apply(bytes));
            treated.collect()
        }),
        text: rows.text(row),
    };
    let take = |row: usize, prepared: Prepared<'_>| {
        let bytes = prepared.weight() as u64;
        let text = prepared.text?;
        match prepared.pictures {
            Ok(pictures) => writer.push(&pictures, &text)?,
            // No damage of the picture: it may be read another time.
            Err(error @ DataError::Io(_)) => return Err(error.into()),
            Err(error) => state.left_out.push(LeftOut {
                file: file.name.clone(),
                image: rows.label(row),
                reason: error.to_string(),
            }),
        }
        if writer.blocks().len() >= state.blocks.len() + BATCHES_PER_ENTRY {
            // A batch is written when the row after it comes: this row is in none yet.
            writer.sync()?;
            state.consumed = row;
            state.blocks = writer.blocks().to_vec();
            journal.note(number, state.clone())?;
        }
        progress.done += 1;
        progress.bytes += bytes;
        match watch(*progress) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(End::Stopped),
        }
    };
    in_order(first..rows.rows(), target.threads, BUDGET, make, take)?;
    state.consumed = rows.rows();
    writer.finish()?;
    let length = std::fs::metadata(&path)
        .map_err(|source| DataError::Io(IoError { path, source }))?
        .len();
    state.finished = Some(length);
    journal.note(number, state)?;
    Ok(())
}

fn report(name: &str, plan: &Plan, out: &Path, fingerprints: &Fingerprints, journal: &Journal) -> Result<Report> {
    let files = fingerprints
        .of_names(plan)
        .map(|(name, fingerprint)| {
            let table = vlct_data::arrow::ArrowTable::open(path(out, name))?;
            let bytes = std::fs::metadata(table.path()).map_err(|source| {
                DataError::Io(IoError {
                    path: table.path().to_path_buf(),
                    source,
                })
            })?;
            Ok(WrittenFile {
                file: format!("{name}.arrow"),
                rows: table.rows() as u64,
                bytes: bytes.len(),
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
        vocabulary: vocabulary(plan),
    })
}
