//! What the Hub says about a revision and about a file.

use std::io::Read;

use serde::Deserialize;

use crate::Repository;
use crate::client::{Client, Failure, LINKED_TAG};
use crate::reference::is_commit;
use crate::selection::is_safe;

/// Maximum size of the answer about a revision in bytes.
const MAX_LISTING: u64 = 32 << 20;
/// Maximum number of characters of a tag, which becomes the name of a file.
const MAX_TAG: usize = 128;

/// The files of a revision.
#[derive(Debug)]
pub struct Listing {
    /// The commit.
    pub commit: String,
    /// Names of all files.
    pub files: Vec<String>,
}

/// A file of a commit.
#[derive(Clone, Debug)]
pub struct RemoteFile {
    /// Name in the repository.
    pub name: String,
    /// The tag of the content (ETag): a hash of it, and its name in the cache.
    pub tag: String,
    /// Size in bytes, if the server states it.
    pub size: Option<u64>,
}

/// The part of the answer about a revision that is read.
#[derive(Deserialize)]
struct Answer {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

impl Listing {
    /// Requests the files of a revision.
    pub fn request(client: &Client, repository: &Repository) -> Result<Self, Failure> {
        let mut json = Vec::new();
        let mut body = client
            .revision(repository)?
            .into_body()
            .into_reader()
            .take(MAX_LISTING + 1);
        body.read_to_end(&mut json).map_err(|error| Failure::Temporary {
            reason: format!("the answer about {repository} ended early: {error}"),
            after: None,
        })?;
        let wrong = |reason: String| client.unexpected(format!("{reason}, for {repository}"));
        if json.len() as u64 > MAX_LISTING {
            return Err(wrong(format!("more than {} MiB", MAX_LISTING >> 20)).into());
        }
        let answer: Answer = serde_json::from_slice(&json).map_err(|error| wrong(error.to_string()))?;
        let is_asked_for = repository.commit().is_none_or(|commit| commit == answer.sha);
        if !is_commit(&answer.sha) || !is_asked_for {
            return Err(wrong("another commit or none".into()).into());
        }
        let names = answer.siblings.into_iter().map(|sibling| sibling.rfilename);
        Ok(Self {
            commit: answer.sha,
            // Names that lead out of a directory are not needed.
            files: names.filter(|name| is_safe(name)).collect(),
        })
    }
}

impl RemoteFile {
    /// Requests tag and size of a file.
    pub fn request(client: &Client, repository: &Repository, commit: &str, name: &str) -> Result<Self, Failure> {
        let headers = client.headers(repository, commit, name)?;
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let tag = header(LINKED_TAG).or_else(|| header("etag")).and_then(plain_tag);
        let tag = tag.ok_or_else(|| client.unexpected(format!("{name} of {repository} has no tag (ETag)")))?;
        // The length of a redirect is not that of the file.
        let length = || header("content-length").filter(|_| !headers.contains_key("location"));
        let size = header("x-linked-size")
            .or_else(length)
            .and_then(|size| size.parse().ok());
        if header("x-repo-commit").is_some_and(|other| other != commit) {
            return Err(client
                .unexpected(format!("{name} of {repository} is that of another commit"))
                .into());
        }
        Ok(Self {
            name: name.to_owned(),
            tag,
            size,
        })
    }
}

/// Removes the quotes of an ETag header, and the mark of a weak one. Returns `None` if the rest cannot be the name of a file.
fn plain_tag(header: &str) -> Option<String> {
    let header = header.trim();
    let tag = header.strip_prefix("W/").unwrap_or(header).trim_matches('"');
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || ['-', '_', '.'].contains(&c);
    let is_name = !tag.is_empty() && tag.len() <= MAX_TAG && tag.chars().all(is_allowed) && !tag.starts_with('.');
    is_name.then(|| tag.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_become_names_of_files() {
        for (header, tag) in [
            ("\"a1\"", "a1"),
            ("W/\"a1\"", "a1"),
            ("a1", "a1"),
            ("\"a-1:x\"", ""),
            ("\"\"", ""),
        ] {
            assert_eq!(plain_tag(header).unwrap_or_default(), tag, "{header}");
        }
        for header in ["\"../x\"", "\"..\"", "\"a/b\"", "\"a\\b\"", &"a".repeat(200)] {
            assert_eq!(plain_tag(header), None, "{header}");
        }
    }
}
