//! Downloads that are interrupted: cut connections, servers without ranges, damaged content.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::support::{NAME, Reply, noise, part, sha256};
use super::*;

/// Starts a server with one weight file, whose content the second server sends as `reply` says. It gets the request, the content and the
/// number of requests before.
fn start(
    content: &[u8],
    reply: impl Fn(&super::support::Request, &[u8], usize) -> Option<Reply> + Send + Sync + 'static,
) -> Arc<Hub> {
    let hub = Hub::start(&[("model.safetensors", content)]);
    let (content, count) = (content.to_vec(), AtomicUsize::new(0));
    hub.answer(move |request| match request.is_cdn {
        true => reply(request, &content, count.fetch_add(1, Ordering::SeqCst)),
        false => None,
    });
    hub
}

/// Returns the weights of the repository.
fn weights(hub: &Hub, home: &Path) -> Vec<u8> {
    std::fs::read(fetch(hub, home).unwrap().join("model.safetensors")).unwrap()
}

/// Returns the position from which each request for content since the last call began; `None` for the beginning of a file.
fn starts(hub: &Hub) -> Vec<Option<usize>> {
    let requests = hub.requests();
    requests
        .iter()
        .filter(|request| request.is_cdn)
        .map(|request| request.start())
        .collect()
}

#[test]
fn connections_that_are_cut_at_random_places_are_continued() {
    for seed in 0..20 {
        let home = tempfile::tempdir().unwrap();
        let content = noise(100_000 + seed as usize, seed);
        let cuts = noise(3, seed + 100);
        let hub = start(&content, move |request, content, count| {
            let mut reply = part(request, content);
            reply.cut = cuts.get(count).map(|cut| reply.body.len() * usize::from(*cut) / 256);
            Some(reply)
        });
        assert_eq!(weights(&hub, home.path()), content, "seed {seed}");
        let starts = starts(&hub);
        assert_eq!(starts.len(), 4);
        assert!(starts.is_sorted(), "{starts:?}");
        assert_eq!(blobs(home.path()), [sha256(&content)]);
    }
}

#[test]
fn failures_do_not_count_after_progress() {
    let home = tempfile::tempdir().unwrap();
    let content = noise(9 << 20, 3);
    let hub = start(&content, |request, content, _| {
        let mut reply = part(request, content);
        reply.cut = Some(reply.body.len().min((1 << 20) + 7));
        Some(reply)
    });
    assert!(weights(&hub, home.path()) == content);
}

#[test]
fn a_later_call_continues() {
    let home = tempfile::tempdir().unwrap();
    let content = noise(50_000, 4);
    let hub = start(&content, |request, content, _| {
        let mut reply = part(request, content);
        reply.cut = Some(if request.start().is_none() { 20_000 } else { 0 });
        Some(reply)
    });
    let message = error(&hub, home.path());
    assert!(
        message.contains("cannot be used: model.safetensors of org/model: the connection"),
        "{message}"
    );
    assert_eq!(blobs(home.path()), [format!("{}.incomplete", sha256(&content))]);
    hub.answer(|_| None);
    hub.requests();
    let (_, events) = locate_with(&format!("hf-hub:{NAME}"), settings(&hub, home.path(), &[]));
    assert!(events[0].contains("bytes: 50000, present: 20000"), "{events:?}");
    assert_eq!(weights(&hub, home.path()), content);
    let starts = starts(&hub);
    assert_eq!(starts, [Some(20_000)]);
}

#[test]
fn a_server_without_ranges_starts_again() {
    let home = tempfile::tempdir().unwrap();
    let content = noise(40_000, 5);
    let hub = start(&content, |_, content, count| {
        let mut reply = Reply::new(200, content);
        reply.cut = (count < 2).then_some(30_000);
        Some(reply)
    });
    assert_eq!(weights(&hub, home.path()), content);
}

#[test]
fn a_range_that_is_not_the_requested_one_starts_again() {
    for status in [206, 416] {
        let home = tempfile::tempdir().unwrap();
        let content = noise(40_000, 6);
        let hub = start(&content, move |request, content, count| {
            match (request.start(), status) {
                (None, _) => {
                    let mut reply = Reply::new(200, content);
                    reply.cut = (count == 0).then_some(10_000);
                    Some(reply)
                }
                (Some(_), 416) => Some(Reply::new(416, "")),
                (Some(_), _) => Some(Reply::new(206, &content[5..]).with("Content-Range", "bytes 5-39999/40000")),
            }
        });
        assert_eq!(weights(&hub, home.path()), content, "{status}");
    }
}

#[test]
fn damaged_content_is_downloaded_once_more() {
    let home = tempfile::tempdir().unwrap();
    let content = noise(40_000, 7);
    let damage = |content: &[u8]| {
        let mut damaged = content.to_vec();
        damaged[20_000] ^= 1;
        damaged
    };
    let hub = start(&content, move |request, content, count| {
        (count == 0).then(|| part(request, &damage(content)))
    });
    let (path, events) = locate_with(&format!("hf-hub:{NAME}"), settings(&hub, home.path(), &[]));
    assert_eq!(std::fs::read(path.unwrap().join("model.safetensors")).unwrap(), content);
    assert!(events.iter().any(|event| event.starts_with("Again")), "{events:?}");

    let home = tempfile::tempdir().unwrap();
    let hub = start(&content, move |request, content, _| {
        Some(part(request, &damage(content)))
    });
    let message = error(&hub, home.path());
    assert!(
        message.contains("model.safetensors of org/model: its SHA-256 is"),
        "{message}"
    );
    assert!(blobs(home.path()).is_empty());
}

#[test]
fn a_damaged_beginning_of_an_earlier_download_is_replaced() {
    let home = tempfile::tempdir().unwrap();
    let content = noise(40_000, 8);
    let hub = start(&content, |_, _, _| None);
    let directory = repository(home.path()).join("blobs");
    std::fs::create_dir_all(&directory).unwrap();
    for length in [10_000, 40_000, 50_000] {
        std::fs::write(
            directory.join(format!("{}.incomplete", sha256(&content))),
            vec![7; length],
        )
        .unwrap();
        assert_eq!(weights(&hub, home.path()), content);
        std::fs::remove_dir_all(repository(home.path()).join("snapshots")).unwrap();
        std::fs::remove_file(directory.join(sha256(&content))).unwrap();
    }
    // Content of another size than the server states is not used.
    std::fs::write(directory.join(sha256(&content)), "short").unwrap();
    assert_eq!(weights(&hub, home.path()), content);
}

#[test]
fn content_that_is_too_long_is_damaged() {
    let home = tempfile::tempdir().unwrap();
    let content = noise(1000, 9);
    let hub = start(&content, |_, content, _| {
        let mut reply = Reply::new(200, content);
        reply.is_endless = true;
        Some(reply)
    });
    let message = error(&hub, home.path());
    assert!(message.contains("it has more than its 1000 bytes"), "{message}");
    assert!(blobs(home.path()).is_empty());
}

#[test]
fn two_callers_download_once() {
    let home = tempfile::tempdir().unwrap();
    let content = noise(1 << 20, 10);
    let hub = start(&content, |request, content, _| {
        let mut reply = part(request, content);
        reply.pace = Some(Duration::from_millis(10));
        Some(reply)
    });
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| weights(&hub, home.path()))).collect();
        for thread in threads {
            assert!(thread.join().unwrap() == content);
        }
    });
    assert_eq!(hub.requests().iter().filter(|request| request.is_cdn).count(), 1);
}
