//! `vlct check-images DIR...`: which picture files training could not use.

use std::fs::{self, File};
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use clap::Args;
use log::{error, info};
use serde_json::json;
use vlct_image::check::{Checker, Flaw, Verdict, files_under};
use vlct_train::logs::Progress;
use vlct_train::logs::progress::suspend;

use crate::output::{Failure, print};

/// Find picture files that are damaged, and delete them or move them away if asked to
///
/// Decodes every file in the folders and the folders in them, whatever its name, and prints the bad ones, one a line: path and
/// reason. Bad is, as in the published script, what is no picture, what is damaged or cut short, and what Pillow would warn of:
/// a palette with transparency, damaged camera tags, more than 89,478,485 pixels. Nothing is changed unless --delete or
/// --move-to is given. Hidden files count; symbolic links are passed over.
#[derive(Args)]
#[command(after_help = "\
A file that the system will not read (permissions, a failing disk) is reported but neither
deleted nor moved.

Exit status: 0 if no bad file is left in the folders; 1 if bad ones were found and left where
they are, or something could not be read, deleted or moved.

Examples:
  vlct check-images GCC/images_train                   list what is bad
  vlct check-images train2014 val2014 --move-to bad    their paths below DIR are kept
  vlct check-images VG/images --tolerate-warnings      only what cannot be decoded
  vlct check-images images --json > bad.jsonl          path, cause, reason, action of each")]
pub struct CheckImages {
    /// Folders with pictures
    #[arg(required = true, value_name = "DIR")]
    pub folders: Vec<PathBuf>,
    /// Delete bad files
    #[arg(long, conflicts_with = "move_to")]
    pub delete: bool,
    /// Move bad files to this folder, with their path below DIR; no file there is replaced
    #[arg(long, value_name = "DIR")]
    pub move_to: Option<PathBuf>,
    /// Keep files that can be decoded, although Pillow would warn [default: warnings are errors]
    #[arg(long)]
    pub tolerate_warnings: bool,
    /// Print bad files as JSON, one object a line
    #[arg(long)]
    pub json: bool,
}

/// Files that are checked before their results are printed.
const FILES_AT_ONCE: usize = 1024;

/// Checks the folders and says what is bad.
pub fn run(args: &CheckImages) -> Result<(), Failure> {
    check_arguments(args)?;
    let checker = Checker::new(args.tolerate_warnings);
    let mut progress = match io::stderr().is_terminal() {
        true => {
            let files = |folder: &PathBuf| files_under(folder).filter(Result::is_ok).count() as u64;
            Progress::counting("file", args.folders.iter().map(files).sum(), 0)
        }
        false => Progress::quiet(),
    };
    let mut tally = Tally::default();
    for folder in &args.folders {
        let mut files = files_under(folder).peekable();
        while files.peek().is_some() {
            let mut paths = Vec::new();
            for file in files.by_ref().take(FILES_AT_ONCE) {
                match file {
                    Ok(path) => paths.push(path),
                    Err(error) => tally.fail(&error.to_string()),
                }
            }
            for (path, verdict) in paths.iter().zip(checker.check_all(&paths)) {
                tally.checked += 1;
                match verdict {
                    Verdict::Fine => {}
                    Verdict::Bad(flaw) => {
                        let action = act(args, folder, path);
                        let line = tally.note(args, path, &flaw, &action);
                        suspend(|| print(&line))?;
                        if let Err(reason) = action {
                            tally.fail(&reason);
                        }
                    }
                    Verdict::Unread(error) => tally.fail(&format!("{}: {error}", path.display())),
                }
            }
            progress.reach(tally.checked);
        }
    }
    drop(progress);
    tally.conclude()
}

fn check_arguments(args: &CheckImages) -> Result<(), Failure> {
    for folder in &args.folders {
        if !folder.is_dir() {
            let path = folder.display();
            return Err(Failure::Failed(format!(
                "{path}: not a folder; give folders that have pictures in them"
            )));
        }
    }
    let Some(target) = &args.move_to else {
        return Ok(());
    };
    let resolved = |path: &Path| resolve(path).map_err(|error| Failure::Failed(format!("{}: {error}", path.display())));
    for folder in &args.folders {
        if resolved(target)?.starts_with(resolved(folder)?) {
            let (target, folder) = (target.display(), folder.display());
            return Err(Failure::Failed(format!(
                "{target} is in {folder}; name a folder outside for --move-to"
            )));
        }
    }
    Ok(())
}

/// The path without links, as far as it exists.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    let existing = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(&path);
    let rest = path.strip_prefix(existing).unwrap_or(Path::new(""));
    Ok(existing.canonicalize()?.join(rest))
}

/// What was done about a bad file.
enum Action {
    Left,
    Deleted,
    Moved(PathBuf),
}

/// Deletes or moves a bad file if that was asked for; an error is one line.
fn act(args: &CheckImages, folder: &Path, path: &Path) -> Result<Action, String> {
    if args.delete {
        let deleted = fs::remove_file(path).map(|()| Action::Deleted);
        return deleted.map_err(|error| format!("{} cannot be deleted: {error}", path.display()));
    }
    let Some(target) = &args.move_to else {
        return Ok(Action::Left);
    };
    let target = target.join(path.strip_prefix(folder).unwrap_or(path));
    match move_file(path, &target) {
        Ok(()) => Ok(Action::Moved(target)),
        Err(error) => {
            let (path, target) = (path.display(), target.display());
            Err(format!("{path} cannot be moved to {target}: {error}"))
        }
    }
}

/// Moves a file without ever replacing one: renaming would, so it gets a second name and loses the first. Where that is
/// impossible, as between disks, it is copied.
fn move_file(from: &Path, to: &Path) -> io::Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    match fs::hard_link(from, to) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(error),
        Err(_) => copy_file(from, to)?,
        Ok(()) => {}
    }
    fs::remove_file(from)
}

fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    let mut source = File::open(from)?;
    let mut copy = File::create_new(to)?;
    let copied = io::copy(&mut source, &mut copy).and_then(|_| copy.sync_all());
    if copied.is_err() {
        // Best effort: the error that matters is the one being returned.
        let _ = fs::remove_file(to);
    }
    copied
}

/// What has been found so far.
#[derive(Default)]
struct Tally {
    checked: u64,
    damaged: u64,
    warnings: u64,
    deleted: u64,
    moved: u64,
    /// Files and folders that could not be read, deleted or moved.
    failures: u64,
}

impl Tally {
    /// Counts a bad file. Returns what is printed of it.
    fn note(&mut self, args: &CheckImages, path: &Path, flaw: &Flaw, action: &Result<Action, String>) -> String {
        let cause = match flaw {
            Flaw::Damaged(_) => {
                self.damaged += 1;
                "damaged"
            }
            Flaw::Warning(_) => {
                self.warnings += 1;
                "warning"
            }
        };
        let (action, target) = match action {
            Ok(Action::Deleted) => {
                self.deleted += 1;
                ("deleted", None)
            }
            Ok(Action::Moved(target)) => {
                self.moved += 1;
                ("moved", Some(target.to_string_lossy()))
            }
            Ok(Action::Left) | Err(_) => ("left", None),
        };
        if args.json {
            let path = path.to_string_lossy();
            let mut object = json!({"path": path, "cause": cause, "reason": flaw.to_string(), "action": action});
            if let Some(target) = target {
                object["moved_to"] = json!(target);
            }
            return format!("{object}\n");
        }
        let line = format!("{}: {flaw}", path.display());
        let visible = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
        line.chars().map(visible).chain(['\n']).collect()
    }

    /// Says what could not be done.
    fn fail(&mut self, reason: &str) {
        self.failures += 1;
        error!("{reason}");
    }

    /// Says how many files there were, and fails if bad ones are still there or some could not be read.
    fn conclude(&self) -> Result<(), Failure> {
        let bad = self.damaged + self.warnings;
        let mut parts = vec![format!("{} files checked, {bad} bad", self.checked)];
        if bad > 0 {
            parts.push(format!("{} damaged, {} with warnings", self.damaged, self.warnings));
        }
        for (count, what) in [(self.deleted, "deleted"), (self.moved, "moved")] {
            if count > 0 {
                parts.push(format!("{count} {what}"));
            }
        }
        let left = bad - self.deleted - self.moved;
        if left > 0 {
            parts.push(format!(
                "{left} left where they are (--delete or --move-to takes bad files away)"
            ));
        }
        if self.failures > 0 {
            parts.push(format!("{} could not be read, deleted or moved", self.failures));
        }
        let summary = parts.join("; ");
        if left > 0 || self.failures > 0 {
            return Err(Failure::Failed(summary));
        }
        info!("{summary}");
        Ok(())
    }
}
