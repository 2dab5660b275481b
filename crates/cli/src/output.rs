//! Output of the program: results on standard output, messages on standard error.

use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::hints::with_hint;
use indicatif::{HumanBytes, HumanCount};
use log::{Level, LevelFilter, Log, Metadata, Record};
use vlct_logs::progress::suspend;

/// The reason why a command ends without success.
#[derive(Debug)]
pub enum Failure {
    /// Something is wrong with the configuration, a file or the machine: exit status 1.
    Failed(String),
    /// The command line itself is wrong: exit status 2.
    Usage(String),
    /// A signal stopped the command; holds the exit status.
    Stopped(u8),
    /// Another rank of the run has failed, or prints the failure of this one: exit status 1 without a message.
    Reported,
    /// The reader of standard output has closed it (`vlct … | head`).
    BrokenPipe,
}

impl<E: std::error::Error + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Failed(with_hint(&error))
    }
}

/// Prints to standard output.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Err(Failure::BrokenPipe),
        Err(e) => Err(Failure::Failed(format!("standard output: {e}"))),
    }
}

/// Checks that the directory of a file to write exists, before the work of which the file is the result.
pub fn check_directory(file: &Path) -> Result<(), Failure> {
    match file.parent() {
        Some(directory) if !directory.as_os_str().is_empty() && !directory.is_dir() => Err(Failure::Failed(format!(
            "{}: the directory {} does not exist",
            file.display(),
            directory.display()
        ))),
        _ => Ok(()),
    }
}

/// Checks that a file to write does not exist, unless it may be replaced. Weights and data are checked; pages, charts and tables, which are
/// made again at any time, are replaced.
pub fn check_new(file: &Path, overwrite: bool) -> Result<(), Failure> {
    match !overwrite && file.is_file() {
        true => Err(Failure::Failed(format!(
            "{}: the file exists; give another name, or --overwrite to replace it",
            file.display()
        ))),
        false => Ok(()),
    }
}

/// Formats a count with commas between thousands.
pub fn with_thousands_separators(count: u64) -> HumanCount {
    HumanCount(count)
}

/// Formats a number of bytes, with a unit such as KiB.
pub fn format_bytes(bytes: u64) -> HumanBytes {
    HumanBytes(bytes)
}

/// Prints messages to standard error: each warning or error as one line that begins with the level, other messages unchanged. The
/// progress bar is hidden while a message is printed.
///
/// Ranks other than rank 0 print warnings and errors only, after their rank.
pub struct Logger;

/// The rank of this process.
static RANK: AtomicUsize = AtomicUsize::new(0);

impl Logger {
    /// Sets the rank of this process.
    pub fn set_rank(rank: usize) {
        RANK.store(rank, Ordering::Relaxed);
    }

    /// Sends the messages of the `log` crate to standard error.
    pub fn install() {
        // Fails only if a logger is installed already.
        if log::set_logger(&Logger).is_ok() {
            log::set_max_level(LevelFilter::Info);
        }
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata) -> bool {
        let least = match RANK.load(Ordering::Relaxed) {
            0 => Level::Info,
            _ => Level::Warn,
        };
        metadata.target().starts_with("vlct") && metadata.level() <= least
    }

    fn log(&self, record: &Record) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let mut line = format_message(record.level(), &record.args().to_string());
        let rank = RANK.load(Ordering::Relaxed);
        if rank > 0 {
            line.insert_str(0, &format!("rank {rank}: "));
        }
        // An error is ignored: if standard error is closed, it cannot be reported.
        suspend(|| drop(writeln!(io::stderr(), "{line}")));
    }

    fn flush(&self) {}
}

fn format_message(level: Level, message: &str) -> String {
    let one_line = || message.split('\n').map(str::trim).collect::<Vec<_>>().join(" ");
    match level {
        Level::Error => format!("error: {}", one_line()),
        Level::Warn => format!("warning: {}", one_line()),
        _ => message.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_existing_file_is_replaced_only_if_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.npy");
        assert!(check_new(&file, false).is_ok());
        std::fs::write(&file, "x").unwrap();
        assert!(check_new(&file, true).is_ok());
        match check_new(&file, false) {
            Err(Failure::Failed(message)) => assert!(message.contains("a.npy: the file exists"), "{message}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn warnings_and_errors_are_one_line() {
        assert_eq!(format_message(Level::Error, "a\n  b"), "error: a b");
        assert_eq!(format_message(Level::Warn, "a"), "warning: a");
        assert_eq!(format_message(Level::Info, "a\n  b"), "a\n  b");
    }
}
