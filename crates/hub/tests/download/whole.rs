//! Downloads without failures: the layout of the cache, which files are chosen, and who gets the token.

use super::support::{COMMIT, NAME, Reply, git_hash, noise, sha256};
use super::*;

#[test]
fn the_cache_has_the_layout_of_huggingface_hub() {
    let home = tempfile::tempdir().unwrap();
    let weights = noise(300_000, 1);
    let hub = Hub::start(&[
        ("config.json", b"{}"),
        ("README.md", b"read"),
        ("model.safetensors", &weights),
    ]);
    let (path, events) = locate_with(&format!("hf-hub:{NAME}"), settings(&hub, home.path(), &[]));
    let repository = repository(home.path());
    let path = path.unwrap();
    assert_eq!(path, repository.join("snapshots").join(COMMIT));
    assert_eq!(events.len(), 1, "{events:?}");
    assert!(events[0].contains("files: 2, bytes: 300002, present: 0"), "{events:?}");

    let mut expected = vec![git_hash(b"{}"), sha256(&weights)];
    expected.sort();
    assert_eq!(blobs(home.path()), expected);
    assert_eq!(std::fs::read(path.join("model.safetensors")).unwrap(), weights);
    #[cfg(unix)]
    assert_eq!(
        std::fs::read_link(path.join("config.json")).unwrap(),
        Path::new("../../blobs").join(git_hash(b"{}"))
    );
    assert_eq!(std::fs::read_to_string(repository.join("refs/main")).unwrap(), COMMIT);
    assert!(repository.join(".no_exist").join(COMMIT).join("vocab.txt").is_file());
    assert!(!path.join("README.md").exists());
}

#[test]
fn a_whole_commit_is_not_requested_again() {
    let home = tempfile::tempdir().unwrap();
    let hub = Hub::start(&[("config.json", b"{}"), ("pytorch_model.bin", b"weights")]);
    let expected = fetch(&hub, home.path()).unwrap();
    hub.requests();
    assert_eq!(fetch(&hub, home.path()).unwrap(), expected);
    let paths: Vec<String> = hub.requests().into_iter().map(|request| request.path).collect();
    assert_eq!(paths, [format!("/api/models/{NAME}/revision/main")]);
    let (path, _) = locate_with(&format!("hf-hub:{NAME}@{COMMIT}"), settings(&hub, home.path(), &[]));
    assert_eq!((path.unwrap(), hub.requests().len()), (expected, 0));
    // A file that was lost is downloaded again.
    std::fs::remove_file(
        repository(home.path())
            .join("snapshots")
            .join(COMMIT)
            .join("config.json"),
    )
    .unwrap();
    let (path, _) = locate_with(&format!("hf-hub:{NAME}@{COMMIT}"), settings(&hub, home.path(), &[]));
    assert!(path.unwrap().join("config.json").is_file());
}

#[test]
fn revisions_have_their_own_references() {
    let home = tempfile::tempdir().unwrap();
    let hub = Hub::start(&[("model.safetensors", b"weights")]);
    let (path, _) = locate_with(&format!("hf-hub:{NAME}@refs/pr/1"), settings(&hub, home.path(), &[]));
    assert!(path.unwrap().ends_with(COMMIT));
    let reference = repository(home.path()).join("refs/refs/pr/1");
    assert_eq!(std::fs::read_to_string(reference).unwrap(), COMMIT);
}

#[test]
fn an_index_names_the_files_of_the_weights() {
    let home = tempfile::tempdir().unwrap();
    let index = br#"{"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}"#;
    let files: [(&str, &[u8]); 4] = [
        ("model.safetensors.index.json", index),
        ("model-1-of-2.safetensors", b"first"),
        ("model-2-of-2.safetensors", b"second"),
        ("pytorch_model.bin", b"other"),
    ];
    let hub = Hub::start(&files);
    let path = fetch(&hub, home.path()).unwrap();
    for (name, content) in &files[..3] {
        assert_eq!(std::fs::read(path.join(name)).unwrap(), *content);
    }
    assert!(!path.join("pytorch_model.bin").exists());

    let hub = Hub::start(&files[..2]);
    let message = error(&hub, tempfile::tempdir().unwrap().path());
    assert!(
        message.contains("the index names model-2-of-2.safetensors, which is not in the repository"),
        "{message}"
    );
}

#[test]
fn a_single_file_with_another_name_is_the_weights() {
    let home = tempfile::tempdir().unwrap();
    let hub = Hub::start(&[("config.json", b"{}"), ("sub dir/vlc+ü.ckpt", b"weights")]);
    hub.answer(|request| {
        // The names of files are encoded in addresses.
        let path = format!("/{NAME}/resolve/{COMMIT}/sub%20dir/vlc%2B%C3%BC.ckpt");
        (!request.is_cdn && request.path == path)
            .then(|| super::support::part(request, b"weights").with("ETag", format!("\"{}\"", sha256(b"weights"))))
    });
    let path = fetch(&hub, home.path()).unwrap();
    assert!(path.ends_with("sub dir/vlc+ü.ckpt"));
    assert_eq!(std::fs::read(&path).unwrap(), b"weights");
}

#[test]
fn content_can_be_on_the_same_server() {
    let home = tempfile::tempdir().unwrap();
    let hub = Hub::start(&[("model.safetensors", b"weights")]);
    hub.answer(|request| {
        if request.path == "/content" {
            return Some(super::support::part(request, b"weights").with("ETag", "\"another\""));
        }
        let redirect = || Reply::new(302, "").with("Location", "/content");
        let tag = format!("\"{}\"", sha256(b"weights"));
        request
            .path
            .contains("/resolve/")
            .then(|| redirect().with("X-Linked-Etag", tag).with("X-Linked-Size", 7))
    });
    fetch(&hub, home.path()).unwrap();
    assert_eq!(blobs(home.path()), [sha256(b"weights")]);
}

#[test]
fn the_token_goes_to_the_hub_only() {
    let home = tempfile::tempdir().unwrap();
    let hub = Hub::start_with(
        &[("config.json", b"{}"), ("model.safetensors", b"weights")],
        Some("secret"),
    );
    let (path, _) = locate_with(
        &format!("hf-hub:{NAME}"),
        settings(&hub, home.path(), &[("HF_TOKEN", "secret")]),
    );
    assert!(path.unwrap().join("model.safetensors").is_file());
    let requests = hub.requests();
    assert!(requests.iter().any(|request| request.is_cdn));
    for request in requests {
        assert_eq!(
            request.headers.contains_key("authorization"),
            !request.is_cdn,
            "{request:?}"
        );
    }
}

#[test]
fn files_are_copied_where_links_are_switched_off() {
    let home = tempfile::tempdir().unwrap();
    let hub = Hub::start(&[("model.safetensors", b"weights")]);
    let settings = settings(&hub, home.path(), &[("HF_HUB_DISABLE_SYMLINKS", "1")]);
    let file = locate_with(&format!("hf-hub:{NAME}"), settings)
        .0
        .unwrap()
        .join("model.safetensors");
    assert!(!file.is_symlink());
    assert_eq!(std::fs::read(&file).unwrap(), b"weights");
}

#[test]
fn a_local_directory_must_exist() {
    let home = tempfile::tempdir().unwrap();
    let hub = Hub::start(&[]);
    let reference = |path: &Path| format!("local-dir:{}", path.display());
    let (path, events) = locate_with(&reference(home.path()), settings(&hub, home.path(), &[]));
    assert_eq!((path.unwrap(), events.len()), (home.path().to_path_buf(), 0));
    let missing = home.path().join("missing");
    let message = locate_with(&reference(&missing), settings(&hub, home.path(), &[]))
        .0
        .unwrap_err()
        .to_string();
    assert!(message.contains("missing: it is not a directory"), "{message}");
}
