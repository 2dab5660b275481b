//! What a caller is told during a download.

use std::path::Path;
use std::time::Duration;

/// A step of a download.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// Files are downloaded next. Without missing files there is no such event.
    Start {
        /// Name of the repository.
        repository: &'a str,
        /// The commit, 40 hexadecimal digits.
        commit: &'a str,
        /// Number of missing files.
        files: usize,
        /// Size of the missing files in bytes, as far as the server says it.
        bytes: u64,
        /// Number of these bytes that an interrupted download has left.
        present: u64,
        /// The directory in which the files appear.
        directory: &'a Path,
    },
    /// This many bytes of the missing files are there. After [`Event::Again`] it is less than before.
    Progress {
        /// Number of bytes.
        done: u64,
    },
    /// A request failed and is repeated after a pause.
    Retry {
        /// What failed and why.
        reason: &'a str,
        /// Length of the pause.
        pause: Duration,
    },
    /// The content of a file was wrong, so that it is downloaded again from its beginning.
    Again {
        /// Name of the file in the repository.
        file: &'a str,
    },
    /// Another process downloads the file, and this one waits for it.
    Waiting {
        /// Name of the file in the repository.
        file: &'a str,
    },
    /// The Hub did not answer, and files of the cache are used.
    FromCache {
        /// Name of the repository.
        repository: &'a str,
        /// The commit of the files.
        commit: &'a str,
        /// Why the Hub is not used.
        reason: &'a str,
    },
}
