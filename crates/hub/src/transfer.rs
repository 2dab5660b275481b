//! The download of one file into the cache: it continues what is there, checks the content, and then gives it its name.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use ureq::http::HeaderMap;
use vlct_util::{at, atomic};

use crate::cache::Cache;
use crate::client::{Client, Failure};
use crate::content;
use crate::listing::RemoteFile;
use crate::{Event, HubError, Repository};

/// Size of the pieces in which a file is read and written.
const PIECE: usize = 256 << 10;
/// Number of new bytes after which earlier failures do not count.
const PROGRESS: u64 = 1 << 20;
/// Maximum size in bytes of a file whose size the server does not state.
const MAX_UNKNOWN: u64 = 64 << 20;

/// A file of a repository.
pub struct Source<'a> {
    /// The repository.
    pub repository: &'a Repository,
    /// The commit.
    pub commit: &'a str,
    /// The file.
    pub file: &'a RemoteFile,
}

/// Downloads a file into the cache, unless its content is there. `before` is the number of bytes of the files before it, for
/// [`Event::Progress`].
///
/// # Errors
/// Returns [`HubError::Damaged`] if the content is wrong twice, [`HubError::Io`] if writing fails, and the errors of requests.
pub fn fetch(
    client: &Client,
    cache: &Cache,
    source: &Source,
    before: u64,
    on_event: &mut dyn FnMut(Event),
) -> Result<(), HubError> {
    let RemoteFile { name, tag, size } = source.file;
    let blob = cache.blob(tag);
    if is_there(&blob, *size) {
        return Ok(());
    }
    let path = cache.incomplete(tag);
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(at::<HubError>(directory))?;
    }
    let _lock = cache.lock(tag, name, on_event)?;
    // Another process may have finished meanwhile.
    if is_there(&blob, *size) {
        return Ok(());
    }
    let mut is_second = false;
    loop {
        let mut out = open(&path)?;
        let fault = match download(client, source, &mut out, &path, before, on_event)? {
            Some(fault) => Some(fault),
            None => {
                out.seek(SeekFrom::Start(0)).map_err(at::<HubError>(&path))?;
                content::fault(&mut out, tag).map_err(at::<HubError>(&path))?
            }
        };
        let Some(reason) = fault else {
            out.sync_all().map_err(at::<HubError>(&path))?;
            fs::rename(&path, &blob).map_err(at::<HubError>(&blob))?;
            return atomic::sync_directory(&blob).map_err(at(&blob));
        };
        fs::remove_file(&path).map_err(at::<HubError>(&path))?;
        if is_second {
            let file = format!("{name} of {}", source.repository);
            return Err(HubError::Damaged { file, reason });
        }
        is_second = true;
        on_event(Event::Again { file: name });
    }
}

/// Returns the number of bytes of a file that are in the cache.
pub fn present(cache: &Cache, file: &RemoteFile) -> u64 {
    let length = |path: &Path| fs::metadata(path).map_or(0, |metadata| metadata.len());
    match length(&cache.blob(&file.tag)) {
        0 => length(&cache.incomplete(&file.tag)).min(file.size.unwrap_or(0)),
        length => length,
    }
}

/// Returns whether a file exists with this size, or any size if it is not known.
fn is_there(path: &Path, size: Option<u64>) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && size.is_none_or(|size| size == metadata.len()))
}

fn open(path: &Path) -> Result<File, HubError> {
    let options = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path);
    options.map_err(at(path))
}

/// Downloads the rest of a file, in several tries if the connection ends early. Returns what is wrong with the file if it is too long.
fn download(
    client: &Client,
    source: &Source,
    out: &mut File,
    path: &Path,
    before: u64,
    on_event: &mut dyn FnMut(Event),
) -> Result<Option<String>, HubError> {
    let mut length = out.metadata().map_err(at::<HubError>(path))?.len();
    if source.file.size.is_some_and(|size| length > size) {
        out.set_len(0).map_err(at::<HubError>(path))?;
        length = 0;
    }
    let mut failures = 0;
    loop {
        if source.file.size == Some(length) {
            return Ok(None);
        }
        let start = length;
        let failure = match download_once(client, source, out, path, &mut length, &mut |length| {
            on_event(Event::Progress { done: before + length });
        }) {
            Ok(fault) => return Ok(fault),
            Err(failure) => failure,
        };
        if length >= start + PROGRESS {
            failures = 0;
        }
        failures += 1;
        match failure {
            Failure::Final(error) => return Err(error),
            Failure::Temporary { reason, after } => {
                client.pause(failures, client.settings().tries, reason, after, on_event)?
            }
        }
    }
}

/// Requests the bytes of a file from `length` on, and appends them. `length` is the number of bytes in `out` afterwards, also if the try
/// fails.
fn download_once(
    client: &Client,
    source: &Source,
    out: &mut File,
    path: &Path,
    length: &mut u64,
    on_length: &mut dyn FnMut(u64),
) -> Result<Option<String>, Failure> {
    let RemoteFile { name, size, .. } = source.file;
    let what = format!("{name} of {}", source.repository);
    let io = |error: io::Error| Failure::Final(at::<HubError>(path)(error));
    let response = client.content(source.repository, source.commit, name, *length)?;
    let headers = response.headers();
    let encoding = headers.get("content-encoding").and_then(|value| value.to_str().ok());
    if encoding.is_some_and(|encoding| !encoding.eq_ignore_ascii_case("identity")) {
        return Err(client.unexpected(format!("{what} is encoded")).into());
    }
    let is_rest = match response.status().as_u16() {
        206 => range_start(headers) == Some(*length),
        // The server ignores ranges, and sends the file from its beginning.
        200 => {
            *length = 0;
            true
        }
        _ => false,
    };
    if !is_rest {
        // The file is not what it was when the download began.
        *length = 0;
    }
    out.set_len(*length).map_err(io)?;
    out.seek(SeekFrom::Start(*length)).map_err(io)?;
    if !is_rest {
        return Err(Failure::Temporary {
            reason: format!("{what}: the server has no such rest of the file"),
            after: None,
        });
    }
    let mut body = response.into_body().into_reader();
    let mut piece = vec![0; PIECE];
    loop {
        let count = match body.read(&mut piece) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                return Err(Failure::Temporary {
                    reason: format!("{what}: the connection failed after {length} bytes: {error}"),
                    after: None,
                });
            }
        };
        if count == 0 {
            return match size {
                Some(size) if *length < *size => Err(Failure::Temporary {
                    reason: format!("{what}: the connection ended after {length} of {size} bytes"),
                    after: None,
                }),
                _ => Ok(None),
            };
        }
        let total = *length + count as u64;
        if total > size.unwrap_or(MAX_UNKNOWN) {
            return Ok(Some(match size {
                Some(size) => format!("it has more than its {size} bytes"),
                None => format!("it has more than {} MiB and no stated size", MAX_UNKNOWN >> 20),
            }));
        }
        out.write_all(&piece[..count]).map_err(io)?;
        *length = total;
        on_length(total);
    }
}

/// Returns the first byte of the part that an answer has: `Content-Range: bytes 5-9/10`.
fn range_start(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get("content-range")?.to_str().ok()?;
    let (start, _) = range.trim().strip_prefix("bytes")?.trim().split_once('-')?;
    start.parse().ok()
}
