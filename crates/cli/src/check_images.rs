//! `vlct check-images DIR...`: finds image files that training cannot use.

use std::fs::{self, File};
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use clap::Args;
use log::{error, info};
use serde_json::json;
use vlct_image::check::{Checker, Flaw, Verdict, files_under};
use vlct_logs::Progress;
use vlct_logs::progress::suspend;
use vlct_util::{IoError, at};

use crate::output::{Failure, print};
use vlct_util::text::counted;

/// Find damaged image files, and optionally delete or move them
///
/// Decodes every file in the directories and their subdirectories, whatever its name, and prints path and reason of each bad file
/// in one line. As in the published script, a file is bad if it is not an image, if it is damaged or truncated, if it has more than
/// 89,478,485 pixels, or if Pillow would warn about it: a palette with transparency, damaged EXIF tags, an animation with an
/// impossible number of frames. Files stay in place unless --delete or --move-to is given. A file that cannot be read here, but may be a
/// good image of another format or a rare layout, is printed and always stays in place. Captions and tables beside images (.txt, .json, .csv
/// and so on) are counted and always stay. Hidden files are checked, symbolic links are skipped.
#[derive(Args)]
#[command(after_help = "\
A file that cannot be read (permissions, a failing disk) is reported but neither
deleted nor moved.

Exit status: 0 if all files that are left in the directories can be read and are not bad; 1 if bad
files are left, if images cannot be read here, or if a file could not be read, deleted or moved.

Examples:
  vlct check-images GCC/images_train                   list bad files
  vlct check-images train2014 val2014 --move-to bad    move bad files to bad/, with their paths
                                                       relative to train2014 or val2014
  vlct check-images VG/images --tolerate-warnings      only files that cannot be decoded
  vlct check-images images --json > bad.jsonl          path, class (damaged, warning, unsupported),
                                                       reason and action")]
pub struct CheckImages {
    /// Directories with images
    #[arg(required = true, value_name = "DIR")]
    pub directories: Vec<PathBuf>,
    /// Delete bad files
    #[arg(long, conflicts_with = "move_to")]
    pub delete: bool,
    /// Move bad files to this directory; a file keeps its path relative to the checked directory. Existing files are not replaced
    #[arg(long, value_name = "TARGET")]
    pub move_to: Option<PathBuf>,
    /// Accept files that can be decoded although Pillow would warn about them
    #[arg(long)]
    pub tolerate_warnings: bool,
    /// Print bad files, and those that cannot be read here, as JSON, one object per line
    #[arg(long)]
    pub json: bool,
}

/// Number of files whose results are collected before they are printed.
const FILES_PER_BATCH: usize = 1024;

/// Checks the directories and prints the bad files.
pub fn run(args: &CheckImages) -> Result<(), Failure> {
    check_arguments(args)?;
    let checker = Checker::new(args.tolerate_warnings);
    let mut progress = if io::stderr().is_terminal() {
        let count_files = |directory: &PathBuf| files_under(directory).filter(Result::is_ok).count() as u64;
        Progress::counting("file", args.directories.iter().map(count_files).sum(), 0)
    } else {
        Progress::quiet()
    };
    let mut tally = Tally::default();
    for directory in &args.directories {
        let mut files = files_under(directory).peekable();
        while files.peek().is_some() {
            let mut paths = Vec::new();
            for file in files.by_ref().take(FILES_PER_BATCH) {
                match file {
                    Ok(path) => paths.push(path),
                    Err(error) => tally.report_failure(&error.to_string()),
                }
            }
            for (path, verdict) in paths.iter().zip(checker.check_all(&paths)) {
                tally.checked += 1;
                match verdict {
                    Verdict::Fine => {}
                    Verdict::Data => tally.data += 1,
                    Verdict::Bad(flaw) => {
                        let action = delete_or_move(args, directory, path);
                        let line = tally.add_file(args, path, &flaw, &action);
                        suspend(|| print(&line))?;
                        if let Err(reason) = action {
                            tally.report_failure(&reason);
                        }
                    }
                    Verdict::Unsupported(reason) => {
                        let line = tally.add_file(args, path, &Flaw::Unsupported(reason), &Ok(Action::Left));
                        suspend(|| print(&line))?;
                    }
                    Verdict::Unreadable(error) => tally.report_failure(&format!("{}: {error}", path.display())),
                }
            }
            progress.reach(tally.checked);
        }
    }
    drop(progress);
    tally.finish()
}

fn check_arguments(args: &CheckImages) -> Result<(), Failure> {
    for directory in &args.directories {
        if !directory.is_dir() {
            let path = directory.display();
            return Err(Failure::Failed(format!(
                "{path}: not a directory; give directories of images"
            )));
        }
    }
    let Some(target) = &args.move_to else {
        return Ok(());
    };
    let resolved = |path: &Path| resolve(path).map_err(at::<IoError>(path));
    for directory in &args.directories {
        if resolved(target)?.starts_with(resolved(directory)?) {
            let (target, directory) = (target.display(), directory.display());
            return Err(Failure::Failed(format!(
                "{target} is in {directory}; name a directory outside for --move-to"
            )));
        }
    }
    Ok(())
}

/// Resolves symbolic links in the part of the path that exists.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    let existing = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(&path);
    let rest = path.strip_prefix(existing).unwrap_or(Path::new(""));
    Ok(existing.canonicalize()?.join(rest))
}

/// What the command did with a bad file.
enum Action {
    Left,
    Deleted,
    Moved(PathBuf),
}

/// Deletes or moves a bad file if `--delete` or `--move-to` is given. Errors are one line.
fn delete_or_move(args: &CheckImages, directory: &Path, path: &Path) -> Result<Action, String> {
    if args.delete {
        let deleted = fs::remove_file(path).map(|()| Action::Deleted);
        return deleted.map_err(|error| format!("{} cannot be deleted: {error}", path.display()));
    }
    let Some(target) = &args.move_to else {
        return Ok(Action::Left);
    };
    let target = target.join(path.strip_prefix(directory).unwrap_or(path));
    match move_file(path, &target) {
        Ok(()) => Ok(Action::Moved(target)),
        Err(error) => {
            let (path, target) = (path.display(), target.display());
            Err(format!("{path} cannot be moved to {target}: {error}"))
        }
    }
}

/// Moves a file by hard link and unlink, since rename(2) would replace an existing file. Copies the file if the hard link fails, as
/// between file systems.
fn move_file(from: &Path, to: &Path) -> io::Result<()> {
    if let Some(directory) = to.parent() {
        fs::create_dir_all(directory)?;
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
        // Best effort: the error of the copy is returned, even if the removal fails too.
        let _ = fs::remove_file(to);
    }
    copied
}

/// Counts of files for the summary.
#[derive(Default)]
struct Tally {
    checked: u64,
    damaged: u64,
    warnings: u64,
    /// Captions, tables and archives.
    data: u64,
    /// Files that cannot be read here, but may be good images.
    unsupported: u64,
    deleted: u64,
    moved: u64,
    /// Files and directories that could not be read, deleted or moved.
    failures: u64,
}

impl Tally {
    /// Counts a file that is not fine. Returns the line to print.
    fn add_file(&mut self, args: &CheckImages, path: &Path, flaw: &Flaw, action: &Result<Action, String>) -> String {
        let class = match flaw {
            Flaw::Damaged(_) => {
                self.damaged += 1;
                "damaged"
            }
            Flaw::Warning(_) | Flaw::TooLarge(_) => {
                self.warnings += 1;
                "warning"
            }
            Flaw::Unsupported(_) => {
                self.unsupported += 1;
                "unsupported"
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
            let mut object = json!({"path": path, "class": class, "reason": flaw.to_string(), "action": action});
            if let Some(target) = target {
                object["moved_to"] = json!(target);
            }
            return format!("{object}\n");
        }
        let line = format!("{}: {flaw}", path.display());
        let replace_control = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
        line.chars().map(replace_control).chain(['\n']).collect()
    }

    /// Reports a file that could not be read, deleted or moved.
    fn report_failure(&mut self, reason: &str) {
        self.failures += 1;
        error!("{reason}");
    }

    /// Reports the counts. Returns an error if bad files are left, if images cannot be read here, or if a file could not be read,
    /// deleted or moved.
    fn finish(&self) -> Result<(), Failure> {
        let bad = self.damaged + self.warnings;
        let mut parts = vec![format!("{} checked, {bad} bad", counted(self.checked, "file"))];
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
                "{left} left in place (--delete and --move-to remove bad files)"
            ));
        }
        if self.data > 0 {
            parts.push(format!(
                "texts, tables and archives, which stay in place: {}",
                self.data
            ));
        }
        if self.unsupported > 0 {
            let stay = if self.unsupported == 1 { "stays" } else { "stay" };
            parts.push(format!("{} cannot be read here and {stay} in place", self.unsupported));
        }
        if self.failures > 0 {
            parts.push(format!("{} could not be read, deleted or moved", self.failures));
        }
        let summary = parts.join("; ");
        if left > 0 || self.unsupported > 0 || self.failures > 0 {
            return Err(Failure::Failed(summary));
        }
        info!("{summary}");
        Ok(())
    }
}
