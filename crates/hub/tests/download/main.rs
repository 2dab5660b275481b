//! Downloads from a server on this computer.

#[path = "../support/mod.rs"]
mod support;

mod answers;
mod cached;
mod interrupted;
mod whole;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use support::{Hub, NAME};
use vlct_hub::{Event, HubError, Reference, Settings, locate};

/// Returns the settings of a cache in a directory. The pauses between tries are short.
fn settings(hub: &Hub, home: &Path, more: &[(&str, &str)]) -> Settings {
    let variables: Vec<(&str, OsString)> = [("HF_HOME", home.into()), ("HF_ENDPOINT", hub.endpoint().into())]
        .into_iter()
        .chain(more.iter().map(|(name, value)| (*name, OsString::from(value))))
        .collect();
    let find = |name: &str| {
        variables
            .iter()
            .rev()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value.clone())
    };
    let pause = Duration::from_millis(2);
    Settings::from_variables(&find)
        .unwrap()
        .with_tries(4, pause, 20 * pause)
}

/// Returns the path of a reference, and the events as text.
fn locate_with(reference: &str, settings: Settings) -> (Result<PathBuf, HubError>, Vec<String>) {
    let reference = Reference::parse(reference).unwrap().unwrap();
    let mut events = Vec::new();
    let path = locate(&reference, || Ok(settings), &mut |event| match event {
        Event::Progress { .. } => {}
        event => events.push(format!("{event:?}")),
    });
    (path, events)
}

/// Returns the path of the repository.
fn fetch(hub: &Hub, home: &Path) -> Result<PathBuf, HubError> {
    locate_with(&format!("hf-hub:{NAME}"), settings(hub, home, &[])).0
}

/// Returns the message of the error of the repository.
fn error(hub: &Hub, home: &Path) -> String {
    let message = fetch(hub, home).unwrap_err().to_string();
    assert!(!message.contains('\n'), "{message}");
    message
}

/// Returns the directory of the repository in the cache.
fn repository(home: &Path) -> PathBuf {
    home.join("hub/models--org--model")
}

/// Returns the names of the files in `blobs`.
fn blobs(home: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(repository(home).join("blobs")).into_iter().flatten();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
