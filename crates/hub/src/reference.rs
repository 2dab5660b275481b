//! References to weights: `hf-hub:ORG/NAME@REVISION` and `local-dir:PATH`.

use std::fmt;
use std::path::PathBuf;

use crate::HubError;

/// Begin of a reference to a repository of the Hub.
const HUB: &str = "hf-hub:";
/// Begin of a reference to a directory.
const DIRECTORY: &str = "local-dir:";
/// Beginnings of other forms in which repositories are written.
const ADDRESSES: [&str; 6] = ["huggingface.co/", "hf.co/", "hf_hub:", "hfhub:", "hf-hub/", "hf:"];
/// Ends of the names of files, which are no names of repositories.
const FILES: [&str; 6] = [".safetensors", ".ckpt", ".pth", ".pt", ".bin", ".json"];
/// The revision of a reference without one.
const MAIN: &str = "main";
/// Largest number of characters of the name of an organisation or a repository, as on the Hub.
const MAX_NAME: usize = 96;
/// Largest number of characters of a revision.
const MAX_REVISION: usize = 200;
/// Number of hexadecimal digits of a commit.
const COMMIT_DIGITS: usize = 40;

/// A reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// A repository of the Hub.
    Hub(Repository),
    /// A directory as `save_pretrained` of Python's transformers writes it.
    Directory(PathBuf),
}

/// A repository of the Hub and a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repository {
    /// `ORG/NAME`, or `NAME` for the oldest repositories.
    name: String,
    /// A branch, a tag or a commit.
    revision: String,
}

impl Reference {
    /// Parses a reference. Returns `None` for a text that does not begin as one, such as a path.
    ///
    /// # Errors
    /// Returns [`HubError::Reference`] if the name or the revision is not one that the Hub allows.
    pub fn parse(text: &str) -> Result<Option<Self>, HubError> {
        if let Some(path) = text.strip_prefix(DIRECTORY) {
            return match path {
                "" => Err(invalid(text, "the path is missing, as in local-dir:models/mae")),
                path => Ok(Some(Self::Directory(PathBuf::from(path)))),
            };
        }
        let Some(rest) = text.strip_prefix(HUB) else {
            return Ok(None);
        };
        let (name, revision) = rest.split_once('@').unwrap_or((rest, MAIN));
        let parts: Vec<&str> = name.split('/').collect();
        if parts.len() > 2 || !parts.iter().all(|part| is_name(part)) {
            let reason = "it is hf-hub:ORG/NAME or hf-hub:ORG/NAME@REVISION, with letters, digits, '-', '_' and '.'";
            return Err(invalid(text, reason));
        }
        if !is_revision(revision) {
            return Err(invalid(text, "the revision after @ is a branch, a tag or a commit"));
        }
        Ok(Some(Self::Hub(Repository {
            name: name.to_owned(),
            revision: revision.to_owned(),
        })))
    }

    /// Returns the reference that a text probably means which is neither a reference nor an existing path: the address of a repository, one
    /// with another prefix, or `ORG/NAME`.
    pub fn suggestion(text: &str) -> Option<String> {
        let address = ["https://", "http://", ""]
            .iter()
            .find_map(|scheme| text.strip_prefix(scheme))
            .unwrap_or(text);
        let repository = ADDRESSES.iter().find_map(|prefix| address.strip_prefix(prefix));
        let parts: Vec<&str> = repository
            .unwrap_or(text)
            .split('/')
            .filter(|part| !part.is_empty())
            .collect();
        // What follows the name in an address is a page or a file.
        let name = match (parts.as_slice(), repository) {
            ([organisation, name], _) | ([organisation, name, ..], Some(_)) => format!("{organisation}/{name}"),
            _ => return None,
        };
        let suggestion = format!("{HUB}{name}");
        let is_file = repository.is_none() && FILES.iter().any(|end| name.ends_with(end));
        let is_valid = matches!(Self::parse(&suggestion), Ok(Some(_)));
        (is_valid && !is_file).then_some(suggestion)
    }
}

impl Repository {
    /// Returns the name, `ORG/NAME`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the revision: a branch, a tag or a commit.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// Returns the revision if it is a whole commit.
    pub(crate) fn commit(&self) -> Option<&str> {
        is_commit(&self.revision).then_some(&self.revision)
    }
}

/// `ORG/NAME`, with the revision if it is not `main`.
impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.revision.as_str() {
            MAIN => f.write_str(&self.name),
            revision => write!(f, "{}@{revision}", self.name),
        }
    }
}

/// Returns whether a text is a whole commit: 40 hexadecimal digits in lower case.
pub(crate) fn is_commit(text: &str) -> bool {
    text.len() == COMMIT_DIGITS && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Returns whether a text is a name as the Hub allows it. `--` separates the parts of a name in the cache.
fn is_name(text: &str) -> bool {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || ['-', '_', '.'].contains(&c);
    !text.is_empty()
        && text.len() <= MAX_NAME
        && text.chars().all(is_allowed)
        && !text.starts_with(['-', '.'])
        && !text.ends_with(['-', '.'])
        && !text.contains("--")
        && !text.contains("..")
}

/// Returns whether a text can be a revision, whose parts become directories and a file of the cache.
fn is_revision(text: &str) -> bool {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || ['-', '_', '.', '+'].contains(&c);
    let is_part = |part: &str| !part.is_empty() && !part.starts_with('.') && part.chars().all(is_allowed);
    text.len() <= MAX_REVISION && text.split('/').all(is_part)
}

fn invalid(text: &str, reason: &'static str) -> HubError {
    HubError::Reference {
        text: text.chars().take(MAX_REVISION).collect(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn repository(text: &str) -> (String, String) {
        match Reference::parse(text).unwrap() {
            Some(Reference::Hub(repository)) => (repository.name, repository.revision),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn parses_repositories_revisions_and_directories() {
        let pair = |name: &str, revision: &str| (name.to_owned(), revision.to_owned());
        assert_eq!(repository("hf-hub:gpt2"), pair("gpt2", "main"));
        assert_eq!(repository("hf-hub:a-b/C.d_1"), pair("a-b/C.d_1", "main"));
        assert_eq!(repository("hf-hub:a/b@refs/pr/1"), pair("a/b", "refs/pr/1"));
        assert_eq!(
            Reference::parse("local-dir:some/where@x").unwrap(),
            Some(Reference::Directory("some/where@x".into()))
        );
        for path in ["weights.pth", "hf-hub", "./hf-hub:a/b", ""] {
            assert_eq!(Reference::parse(path).unwrap(), None, "{path}");
        }
    }

    #[test]
    fn rejects_names_and_revisions_that_the_hub_does_not_allow() {
        for text in [
            "hf-hub:",
            "hf-hub:a/b/c",
            "hf-hub:/b",
            "hf-hub:a/",
            "hf-hub:a/..",
            "hf-hub:../b",
            "hf-hub:a--b/c",
            "hf-hub:a/b?x",
            "hf-hub:a/b@",
            "hf-hub:a/b@../x",
            "hf-hub:a/b@/x",
            "hf-hub:a/b@x y",
            "local-dir:",
        ] {
            let message = Reference::parse(text).unwrap_err().to_string();
            assert!(
                message.contains("is not a reference") && !message.contains('\n'),
                "{message}"
            );
        }
    }

    #[test]
    fn suggests_references_for_other_forms() {
        for text in [
            "a/b",
            "hf_hub:a/b",
            "hf:a/b",
            "https://huggingface.co/a/b",
            "https://huggingface.co/a/b/tree/main",
            "hf.co/a/b/",
        ] {
            assert_eq!(Reference::suggestion(text).as_deref(), Some("hf-hub:a/b"), "{text}");
        }
        for text in [
            "",
            "a",
            "a/b/c",
            "runs/a.ckpt",
            "../a",
            "/a",
            "https://example.com/a/b",
            "a b/c",
        ] {
            assert_eq!(Reference::suggestion(text), None, "{text}");
        }
    }

    #[test]
    fn a_commit_has_forty_digits() {
        assert!(is_commit(&"0a".repeat(20)));
        for text in ["main", &"0A".repeat(20), &"0a".repeat(19)] {
            assert!(!is_commit(text), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_name_leads_out_of_the_cache(text in "[./@a-]{0,12}") {
            if let Ok(Some(Reference::Hub(repository))) = Reference::parse(&format!("{HUB}{text}")) {
                for part in repository.name.split('/').chain(repository.revision.split('/')) {
                    prop_assert!(!part.is_empty() && !part.starts_with('.'));
                }
            }
        }
    }
}
