//! What is used from the cache, without a connection and with one.

use super::support::{COMMIT, NAME, Reply};
use super::*;

/// Returns the result and the events without a server: nothing listens at the address.
fn without_server(hub: &Hub, home: &Path, more: &[(&str, &str)]) -> (Result<PathBuf, HubError>, Vec<String>) {
    let address = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let endpoint = format!("http://{address}");
    let variables: Vec<(&str, &str)> = more.iter().copied().chain([("HF_ENDPOINT", &*endpoint)]).collect();
    locate_with(&format!("hf-hub:{NAME}"), settings(hub, home, &variables))
}

#[test]
fn without_downloads_the_cache_is_used() {
    let home = tempfile::tempdir().unwrap();
    let hub = Hub::start(&[("model.safetensors", b"weights")]);
    let offline = [("HF_HUB_OFFLINE", "1")];
    let (path, _) = without_server(&hub, home.path(), &offline);
    let message = path.unwrap_err().to_string();
    assert!(
        message.starts_with("org/model: not in the cache") && message.contains("HF_HUB_OFFLINE"),
        "{message}"
    );
    let expected = fetch(&hub, home.path()).unwrap();
    let (path, events) = without_server(&hub, home.path(), &offline);
    assert_eq!((path.unwrap(), events), (expected, vec![]));
    let (path, _) = locate_with(&format!("hf-hub:{NAME}@v2"), settings(&hub, home.path(), &offline));
    assert!(
        path.unwrap_err()
            .to_string()
            .starts_with("org/model@v2: not in the cache")
    );
}

#[test]
fn without_an_answer_the_cache_is_used_and_named() {
    let home = tempfile::tempdir().unwrap();
    let hub = Hub::start(&[("model.safetensors", b"weights")]);
    let (path, events) = without_server(&hub, home.path(), &[]);
    assert!(path.unwrap_err().to_string().contains("cannot be used"));
    assert_eq!(events.len(), 3, "{events:?}");
    let expected = fetch(&hub, home.path()).unwrap();
    let (path, events) = without_server(&hub, home.path(), &[]);
    assert_eq!((path.unwrap(), events.len()), (expected.clone(), 1));
    assert!(
        events[0].starts_with("FromCache") && events[0].contains(COMMIT),
        "{events:?}"
    );
    for status in [500, 401, 403] {
        hub.answer(move |_| Some(Reply::new(status, "")));
        assert_eq!(fetch(&hub, home.path()).unwrap(), expected);
    }
    hub.answer(|_| Some(Reply::new(404, "")));
    assert!(error(&hub, home.path()).contains("does not exist"));
}

#[test]
fn a_part_of_a_commit_is_not_used() {
    let home = tempfile::tempdir().unwrap();
    let index = br#"{"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}"#;
    let hub = Hub::start(&[
        ("config.json", b"{}"),
        ("model.safetensors.index.json", index),
        ("a.safetensors", b"first"),
        ("b.safetensors", b"second"),
    ]);
    let path = fetch(&hub, home.path()).unwrap();
    let offline = [("HF_HUB_OFFLINE", "yes")];
    for name in ["a.safetensors", "model.safetensors.index.json"] {
        assert!(without_server(&hub, home.path(), &offline).0.is_ok());
        std::fs::remove_file(path.join(name)).unwrap();
        assert!(without_server(&hub, home.path(), &offline).0.is_err(), "{name}");
        hub.requests();
        assert_eq!(fetch(&hub, home.path()).unwrap(), path);
        // The content is still there: only the link is made again.
        assert_eq!(hub.requests().iter().filter(|request| request.is_content()).count(), 0);
    }
}

#[test]
fn a_branch_moves_only_when_the_new_commit_is_whole() {
    let home = tempfile::tempdir().unwrap();
    let old = Hub::start(&[("model.safetensors", b"old")]);
    let path = fetch(&old, home.path()).unwrap();
    let commit = COMMIT.replace('0', "f");
    let list = serde_json::json!({"sha": commit, "siblings": [{"rfilename": "model.safetensors"}]}).to_string();
    let new = Hub::start(&[]);
    new.answer(move |request| {
        Some(match request.path.starts_with("/api/models/") {
            true => Reply::new(200, list.clone()),
            false => Reply::new(500, ""),
        })
    });
    assert!(error(&new, home.path()).contains("status 500"));
    let (cached, _) = without_server(&new, home.path(), &[]);
    assert_eq!(cached.unwrap(), path);
}

#[cfg(unix)]
#[test]
fn links_that_lead_nowhere_are_replaced() {
    let home = tempfile::tempdir().unwrap();
    let hub = Hub::start(&[("model.safetensors", b"weights")]);
    let file = fetch(&hub, home.path()).unwrap().join("model.safetensors");
    let blobs = repository(home.path()).join("blobs");
    std::fs::remove_dir_all(&blobs).unwrap();
    assert!(!file.exists());
    fetch(&hub, home.path()).unwrap();
    assert_eq!(std::fs::read(&file).unwrap(), b"weights");
    assert!(file.is_symlink());
}

#[test]
fn a_cache_with_all_files_can_be_read_only() {
    let home = tempfile::tempdir().unwrap();
    let hub = Hub::start(&[("model.safetensors", b"weights")]);
    let path = fetch(&hub, home.path()).unwrap();
    // Python does not store which files are missing. Here, this fails.
    let directory = repository(home.path()).join(".no_exist");
    std::fs::remove_dir_all(&directory).unwrap();
    std::fs::write(&directory, "a file").unwrap();
    assert_eq!(fetch(&hub, home.path()).unwrap(), path);
}

#[test]
fn a_cache_that_cannot_be_written_is_an_error() {
    let home = tempfile::tempdir().unwrap();
    let hub = Hub::start(&[("model.safetensors", b"weights")]);
    std::fs::write(home.path().join("hub"), "a file").unwrap();
    assert!(error(&hub, home.path()).contains("hub/models--org--model"));
}
