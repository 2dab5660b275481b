//! Weights that are given as a reference: `hf-hub:ORG/NAME@REVISION` or `local-dir:PATH`. Every command that takes weights resolves
//! them here; the libraries get paths.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use log::{info, warn};
use vlct_config::Config;
use vlct_hub::{Event, Reference, Settings, locate};
use vlct_logs::duration_text;
use vlct_logs::progress::Progress;
use vlct_util::text::{counted, escape_control};

use crate::output::{Failure, format_bytes};

/// Number of digits of a commit in messages.
const COMMIT_DIGITS: usize = 10;

/// Configuration keys whose values are weights.
const KEYS: [&str; 3] = ["load_path", "pretrain_path", "resume_from"];

/// The references that this process has resolved, so that the Hub is asked once about each.
static RESOLVED: Mutex<Vec<(String, PathBuf)>> = Mutex::new(Vec::new());

/// Returns the local path of weights: that of a reference, after a download if it is needed; a path as it is.
///
/// # Errors
/// Returns an error if a reference is not valid, or its weights cannot be downloaded.
pub fn local_path(weights: &Path) -> Result<PathBuf, Failure> {
    let reference = weights.to_str().map(Reference::parse).transpose()?.flatten();
    let (Some(reference), Some(text)) = (reference, weights.to_str()) else {
        let suggestion = weights.to_str().and_then(Reference::suggestion);
        return match suggestion.filter(|_| !weights.exists()) {
            None => Ok(weights.to_path_buf()),
            Some(suggestion) => Err(Failure::Failed(format!(
                "{}: there is no such file or directory; a repository of the Hugging Face Hub is written as {suggestion}",
                weights.display()
            ))),
        };
    };
    let mut resolved = RESOLVED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, path)) = resolved.iter().find(|(known, _)| known == text) {
        return Ok(path.clone());
    }
    let mut display = Display {
        progress: None,
        shown: 0,
        least: 0,
    };
    let path = locate(&reference, Settings::from_environment, &mut |event| display.show(event))?;
    resolved.push((text.to_owned(), path.clone()));
    Ok(path)
}

/// Returns the local path of weights that need not be given.
///
/// # Errors
/// Returns the errors of [`local_path`].
pub fn optional_local_path(weights: Option<&PathBuf>) -> Result<Option<PathBuf>, Failure> {
    weights.map(|weights| local_path(weights)).transpose()
}

/// Returns the local path of a text.
fn local_text(text: &str) -> Result<String, Failure> {
    match local_path(Path::new(text))?.into_os_string().into_string() {
        Ok(path) => Ok(path),
        Err(path) => Err(Failure::Failed(format!("{}: the path is not UTF-8", path.display()))),
    }
}

/// Replaces the references of a configuration by local paths. Returns whether there were any.
///
/// # Errors
/// Returns the errors of [`local_path`].
pub fn resolve_config(config: &mut Config) -> Result<bool, Failure> {
    let before = config.clone();
    config.load_path = local_text(&config.load_path)?;
    config.pretrain_path = local_text(&config.pretrain_path)?;
    config.resume_from = config.resume_from.as_deref().map(local_text).transpose()?;
    Ok(*config != before)
}

/// Replaces the references in words `KEY=VALUE` of a configuration by local paths.
///
/// # Errors
/// Returns the errors of [`local_path`].
pub fn resolve_words(words: &mut [String]) -> Result<(), Failure> {
    for word in words {
        let Some((key, value)) = word.split_once('=').filter(|(key, _)| KEYS.contains(&key.trim())) else {
            continue;
        };
        let value = value.trim().trim_matches(['"', '\'']);
        if Reference::parse(value)?.is_some() {
            *word = format!("{key}={}", local_text(value)?);
        }
    }
    Ok(())
}

/// Shows a download: messages, and a progress bar or lines.
struct Display {
    progress: Option<Progress>,
    /// The number of bytes that was shown last.
    shown: u64,
    /// The smallest number of bytes that is shown. The speed of small files says nothing about the rest.
    least: u64,
}

impl Display {
    fn show(&mut self, event: Event) {
        match event {
            Event::Start {
                repository,
                commit,
                files,
                bytes,
                present,
                directory,
            } => {
                let rest = match present {
                    0 => String::new(),
                    present => format!(" ({} are there already)", format_bytes(present)),
                };
                info!(
                    "downloading {repository} at {}: {}, {}{rest}, to {}",
                    short(commit),
                    counted(files, "file"),
                    format_bytes(bytes),
                    directory.display()
                );
                self.progress = Some(Progress::bytes(bytes, present));
                self.least = bytes / 100;
            }
            Event::Progress { done } => {
                if let Some(progress) = self
                    .progress
                    .as_mut()
                    .filter(|_| done != self.shown && done >= self.least)
                {
                    progress.reach(done);
                    self.shown = done;
                }
            }
            Event::Retry { reason, pause } => warn!(
                "{}; next try in {}",
                escape_control(reason),
                duration_text(pause.as_secs_f64())
            ),
            Event::Again { file } => warn!(
                "{}: the content is wrong, so that it is downloaded again",
                escape_control(file)
            ),
            Event::Waiting { file } => info!("waiting for another process that downloads {}", escape_control(file)),
            Event::FromCache {
                repository,
                commit,
                reason,
            } => warn!(
                "{}; {repository} at {} is used from the cache",
                escape_control(reason),
                short(commit)
            ),
        }
    }
}

/// Returns the beginning of a commit.
fn short(commit: &str) -> &str {
    commit.get(..COMMIT_DIGITS).unwrap_or(commit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_without_a_prefix_is_an_error_that_names_the_reference() {
        for text in ["dandelin/vilt-b32-mlm", "https://huggingface.co/dandelin/vilt-b32-mlm"] {
            match local_path(Path::new(text)) {
                Err(Failure::Failed(message)) => assert!(message.contains("hf-hub:dandelin/vilt-b32-mlm"), "{message}"),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn paths_stay_as_they_are() {
        for path in ["weights.pth", "/w/hf-hub:a", ""] {
            assert_eq!(local_path(Path::new(path)).unwrap(), Path::new(path));
        }
    }

    #[test]
    fn references_of_a_configuration_are_resolved() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_str().unwrap();
        let reference = format!("local-dir:{path}");
        let mut config = Config {
            load_path: reference.clone(),
            pretrain_path: "mae.pth".into(),
            resume_from: Some(reference.clone()),
            ..Config::default()
        };
        assert!(resolve_config(&mut config).unwrap());
        assert_eq!((&*config.load_path, &*config.pretrain_path), (path, "mae.pth"));
        assert_eq!(config.resume_from.as_deref(), Some(path));
        assert!(!resolve_config(&mut config).unwrap());

        let mut words = [
            format!("load_path=\"{reference}\""),
            format!("exp_name={reference}"),
            "photos".into(),
        ];
        resolve_words(&mut words).unwrap();
        assert_eq!(
            words,
            [
                format!("load_path={path}"),
                format!("exp_name={reference}"),
                "photos".into()
            ]
        );
    }

    #[test]
    fn a_reference_that_is_not_valid_is_an_error() {
        for text in ["hf-hub:a/b/c", "local-dir:/does/not/exist"] {
            match local_path(Path::new(text)) {
                Err(Failure::Failed(message)) => assert!(!message.contains('\n'), "{message}"),
                other => panic!("{other:?}"),
            }
        }
    }
}
