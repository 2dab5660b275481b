//! Answers that are errors, or that a server should not give.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::support::{COMMIT, NAME, Reply};
use super::*;

/// Returns the message if the server answers all requests about revisions with a reply.
fn message(reply: Reply) -> String {
    let home = tempfile::tempdir().unwrap();
    let hub = Hub::start(&[("model.safetensors", b"weights")]);
    hub.answer(move |request| request.path.starts_with("/api/models/").then(|| reply.clone()));
    let message = error(&hub, home.path());
    assert!(blobs(home.path()).is_empty());
    message
}

#[test]
fn denied_access_names_the_token() {
    let home = tempfile::tempdir().unwrap();
    let hub = Hub::start_with(&[("model.safetensors", b"weights")], Some("secret"));
    let message = error(&hub, home.path());
    assert!(message.contains("is private: then set HF_TOKEN"), "{message}");
    let settings = settings(&hub, home.path(), &[("HF_TOKEN", "wrong")]);
    let message = locate_with(&format!("hf-hub:{NAME}"), settings)
        .0
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("the token (HF_TOKEN) gives no access") && !message.contains("wrong"),
        "{message}"
    );
    // Of a gated repository, the list is public and the files are not.
    let hub = Hub::start(&[("model.safetensors", b"weights")]);
    hub.answer(|request| {
        request
            .path
            .contains("/resolve/")
            .then(|| Reply::new(403, "").with("X-Error-Code", "GatedRepo"))
    });
    let message = error(&hub, home.path());
    assert!(
        message.contains("model.safetensors of org/model: access is granted on the page"),
        "{message}"
    );
}

#[test]
fn what_does_not_exist_is_named() {
    let home = tempfile::tempdir().unwrap();
    let hub = Hub::start(&[("model.safetensors", b"weights")]);
    let message = |reference: &str| {
        locate_with(reference, settings(&hub, home.path(), &[]))
            .0
            .unwrap_err()
            .to_string()
    };
    let text = message("hf-hub:org/other");
    assert!(
        text.starts_with("org/other: the repository does not exist on 127.0.0.1"),
        "{text}"
    );
    let text = message("hf-hub:org/model@v9");
    assert!(text.starts_with("org/model@v9: the revision does not exist"), "{text}");
    hub.answer(|request| request.path.contains("/resolve/").then(|| Reply::new(404, "")));
    let text = message("hf-hub:org/model");
    assert!(
        text.starts_with("model.safetensors of org/model: the file does not exist"),
        "{text}"
    );
}

#[test]
fn busy_servers_are_asked_again_after_the_pause_that_they_name() {
    for (status, seconds, pause) in [(429, "1000", "40ms"), (503, "0", "2ms"), (500, "soon", "2ms")] {
        let home = tempfile::tempdir().unwrap();
        let hub = Hub::start(&[("model.safetensors", b"weights")]);
        let count = AtomicUsize::new(0);
        hub.answer(move |_| {
            let is_busy = count.fetch_add(1, Ordering::SeqCst).is_multiple_of(3);
            is_busy.then(|| Reply::new(status, "").with("Retry-After", seconds))
        });
        let (path, events) = locate_with(&format!("hf-hub:{NAME}"), settings(&hub, home.path(), &[]));
        assert!(path.unwrap().join("model.safetensors").is_file());
        assert!(
            events[0].contains(&format!("status {status} for org/model")),
            "{events:?}"
        );
        assert!(events[0].contains(&format!("pause: {pause}")), "{events:?}");
    }
}

#[test]
fn a_server_that_stays_busy_is_an_error() {
    let text = message(Reply::new(502, "x"));
    assert!(text.ends_with("cannot be used: status 502 for org/model"), "{text}");
}

#[test]
fn answers_of_unlimited_size_are_errors() {
    let mut reply = Reply::new(200, vec![b' '; 1 << 16]);
    reply.is_endless = true;
    assert!(message(reply).contains("more than 32 MiB, for org/model"));
    let reply = Reply::new(200, "").with("X-Long", "x".repeat(1 << 20));
    let text = message(reply);
    assert!(
        text.contains("unexpected answer") || text.contains("cannot be used"),
        "{text}"
    );
}

#[test]
fn answers_that_are_no_list_of_files_are_errors() {
    for body in [
        "",
        "<html>",
        "[]",
        "{\"sha\": 3}",
        "{\"sha\": \"main\", \"siblings\": []}",
        "{\"sha\": \"../../x\", \"siblings\": []}",
    ] {
        assert!(
            message(Reply::new(200, body)).contains("unexpected answer of 127.0.0.1"),
            "{body}"
        );
    }
    let deep = format!("{{\"x\": {}", "[".repeat(1 << 20));
    assert!(message(Reply::new(200, deep)).contains("unexpected answer"));
}

#[test]
fn names_that_leave_the_directory_are_not_used() {
    let names = [
        "../evil.ckpt",
        "/tmp/evil.ckpt",
        "a/../../evil.pth",
        "..\\evil.ckpt",
        "C:evil.ckpt",
    ];
    let siblings: Vec<_> = names
        .iter()
        .map(|name| serde_json::json!({ "rfilename": name }))
        .collect();
    let list = serde_json::json!({"sha": COMMIT, "siblings": siblings}).to_string();
    assert!(message(Reply::new(200, list)).contains("the repository has no weights: neither model.safetensors"));

    let home = tempfile::tempdir().unwrap();
    let index = br#"{"weight_map": {"a": "../../../../evil.safetensors"}}"#;
    let hub = Hub::start(&[("model.safetensors.index.json", index)]);
    let text = error(&hub, home.path());
    assert!(
        text.contains("the index names the file \"../../../../evil.safetensors\""),
        "{text}"
    );
}

#[test]
fn tags_that_leave_the_directory_are_errors() {
    let home = tempfile::tempdir().unwrap();
    let hub = Hub::start(&[("model.safetensors", b"weights")]);
    for tag in ["\"../../evil\"", "\"\"", "\"a/b\""] {
        hub.answer(move |request| {
            let reply = || {
                Reply::new(200, "weights")
                    .with("X-Repo-Commit", COMMIT)
                    .with("ETag", tag)
            };
            request.path.contains("/resolve/").then(reply)
        });
        assert!(error(&hub, home.path()).contains("has no tag (ETag)"), "{tag}");
    }
}

#[test]
fn redirects_are_limited() {
    for (location, expected) in [
        ("/again", "more than 10 redirects"),
        ("ftp://127.0.0.1/x", "no http address"),
        ("file:///etc/passwd", "no http address"),
    ] {
        let home = tempfile::tempdir().unwrap();
        let hub = Hub::start(&[("model.safetensors", b"weights")]);
        hub.answer(move |_| Some(Reply::new(302, "").with("Location", location)));
        assert!(error(&hub, home.path()).contains(expected), "{location}");
    }
}

#[test]
fn encoded_content_is_an_error() {
    let home = tempfile::tempdir().unwrap();
    let hub = Hub::start(&[("model.safetensors", b"weights")]);
    hub.answer(|request| {
        request
            .is_cdn
            .then(|| Reply::new(200, "weights").with("Content-Encoding", "gzip"))
    });
    assert!(error(&hub, home.path()).contains("model.safetensors of org/model is encoded"));
}

#[test]
fn a_server_that_does_not_answer_is_an_error() {
    let home = tempfile::tempdir().unwrap();
    let hub = Hub::start(&[]);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let timeouts = [
        ("HF_ENDPOINT", &*address),
        ("HF_HUB_ETAG_TIMEOUT", "1"),
        ("HF_HUB_DOWNLOAD_TIMEOUT", "1"),
    ];
    let settings = settings(&hub, home.path(), &timeouts).with_tries(1, Duration::ZERO, Duration::ZERO);
    let message = locate_with(&format!("hf-hub:{NAME}"), settings)
        .0
        .unwrap_err()
        .to_string();
    assert!(message.ends_with("no answer in time"), "{message}");
}
