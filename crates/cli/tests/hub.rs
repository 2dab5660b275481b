//! References `hf-hub:` and `local-dir:` on the command line, with a server on this computer.

#[path = "../../hub/tests/support/mod.rs"]
mod hub_support;
mod support;

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hub_support::{COMMIT, Hub, NAME, Reply, noise, part, sha256};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use support::{
    assert_one_line_error, assert_success, last_checkpoint, run_directory, stderr_of, stdout_of, tiny_model_arguments,
    vlct, write_synthetic,
};
use tempfile::TempDir;

const REFERENCE: &str = "hf-hub:org/model";

/// Returns the command that starts the program in a directory, with a cache in its directory `home` and this server.
fn with_hub(directory: &Path, hub: &Hub, words: &[&str]) -> Command {
    let mut command = vlct();
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("HF_")) {
        command.env_remove(name);
    }
    for name in [
        "TRANSFORMERS_OFFLINE",
        "HUGGINGFACE_HUB_CACHE",
        "HUGGING_FACE_HUB_TOKEN",
    ] {
        command.env_remove(name);
    }
    command
        .env("HF_HOME", directory.join("home"))
        .env("HF_ENDPOINT", hub.endpoint());
    command.current_dir(directory).args(words);
    command
}

fn output(directory: &Path, hub: &Hub, words: &[&str]) -> Output {
    with_hub(directory, hub, words).output().expect("the program starts")
}

/// Writes weights of this many values, and starts a server that has them.
fn weights(directory: &Path, values: usize) -> (Vec<u8>, Arc<Hub>) {
    use vlct_model::files::{StateDict, StoredTensor, Style, write};
    let values: Vec<f32> = noise(values, 5).iter().map(|byte| f32::from(*byte)).collect();
    let tensor = StoredTensor::f32([values.len()], values);
    let state: StateDict = [("cls_token".to_owned(), tensor)].into_iter().collect();
    let path = directory.join("weights.safetensors");
    write(&path, &state, &Style::Mae.into()).expect("weights");
    let content = std::fs::read(&path).expect("weights");
    let hub = Hub::start(&[("config.json", b"{}"), ("model.safetensors", &content)]);
    (content, hub)
}

#[test]
fn commands_take_references() {
    let directory = TempDir::new().expect("a directory");
    let directory = directory.path();
    let (_, hub) = weights(directory, 1000);
    let first = output(directory, &hub, &["inspect", "--tensors", REFERENCE]);
    assert_success(&first);
    let snapshot = directory.join("home/hub/models--org--model/snapshots").join(COMMIT);
    let message = stderr_of(&first);
    let expected = format!(
        "downloading org/model at 0123456789: 2 files, 4.05 KiB, to {}\n",
        snapshot.display()
    );
    assert!(message.starts_with(&expected), "{message}");
    assert_eq!(message.matches("4.05 KiB of 4.05 KiB").count(), 1, "{message}");
    assert!(stdout_of(&first).contains("cls_token"));

    let local = format!("local-dir:{}", snapshot.display());
    let commit = format!("{REFERENCE}@{COMMIT}");
    for words in [
        ["inspect", &local, "--tensors"].as_slice(),
        &["convert", REFERENCE, "a.ckpt"],
        &["convert", &local, "b.ckpt"],
        &["average", &commit, &local, "--out", "c.safetensors"],
    ] {
        let output = output(directory, &hub, words);
        assert_success(&output);
        assert_eq!(stderr_of(&output), "", "{words:?}");
    }
    let same = |file: &str| std::fs::read(directory.join(file)).expect("a file");
    assert_eq!(same("a.ckpt"), same("b.ckpt"));
}

#[test]
fn a_run_begins_with_weights_of_the_hub() {
    let directory = TempDir::new().expect("a directory");
    let directory = directory.path();
    write_synthetic(&directory.join("data"), 16);
    let arguments = |more: &[&str]| {
        [
            vec!["run".to_owned(), "with".to_owned()],
            tiny_model_arguments("data", more),
        ]
        .concat()
    };
    let run = |hub: &Hub, more: &[&str]| {
        let arguments = arguments(more);
        output(
            directory,
            hub,
            &arguments.iter().map(String::as_str).collect::<Vec<_>>(),
        )
    };
    let none = Hub::start(&[]);
    assert_success(&run(&none, &["max_steps=1", "log_dir=first"]));
    let checkpoint = std::fs::read(last_checkpoint(directory, "first")).expect("a checkpoint");
    let hub = Hub::start(&[("vlc.safetensors", &checkpoint)]);

    let load = format!("load_path={REFERENCE}");
    assert_success(&run(&hub, &["max_steps=1", "log_dir=second", &load]));
    let snapshot = format!("models--org--model/snapshots/{COMMIT}/vlc.safetensors");
    let second = directory.join("second");
    let experiment = std::fs::read_dir(&second)
        .expect("a directory")
        .next()
        .expect("a run")
        .expect("an entry");
    assert!(
        experiment.file_name().to_string_lossy().ends_with("_from_vlc"),
        "{experiment:?}"
    );
    let config = std::fs::read_to_string(experiment.path().join("version_0/config.toml")).expect("a configuration");
    assert!(config.contains(&snapshot), "{config}");

    let printed = output(directory, &hub, &["run", "print_config", "with", "quickstart", &load]);
    assert!(
        stdout_of(&printed).contains("'hf-hub:org/model'"),
        "{}",
        stdout_of(&printed)
    );

    let image = directory.join("image.png");
    let pixels = vlct_image::RgbImage::new(32, 32);
    std::fs::write(&image, vlct_image::encode_png(&pixels).expect("PNG")).expect("an image");
    let words = ["predict", "match", "--load", REFERENCE, "image.png", "a red circle"];
    assert_success(&output(directory, &hub, &words));
    let resumed = run(
        &hub,
        &["max_steps=2", "log_dir=third", &format!("resume_from={REFERENCE}")],
    );
    assert_success(&resumed);
    assert!(run_directory(directory, "third").join("config.toml").is_file());
}

#[test]
fn failures_are_one_line() {
    let directory = TempDir::new().expect("a directory");
    let directory = directory.path();
    let (_, hub) = weights(directory, 10);
    let error = |words: &[&str], part: &str| {
        assert_one_line_error(part, &output(directory, &hub, words), &[part]);
    };
    error(&["inspect", "hf-hub:a/b/c"], "\"hf-hub:a/b/c\" is not a reference");
    error(
        &["inspect", "local-dir:missing"],
        "local-dir:missing: it is not a directory",
    );
    error(
        &["convert", "hf-hub:org/other", "x.ckpt"],
        "org/other: the repository does not exist on 127.0.0.1",
    );
    error(
        &["run", "with", "load_path=hf-hub:org/model@v9"],
        "org/model@v9: the revision does not exist",
    );
    error(
        &["train", "photos", "pretrain_path=hf-hub:org/none"],
        "org/none: the repository does not exist",
    );
    error(
        &["imagenet", "--data_path", ".", "--finetune", "hf-hub:org/none"],
        "org/none: the repository does not exist",
    );
    error(
        &["predict", "match", "--load", "hf-hub:org/none", "a", "b"],
        "org/none: the repository does not exist",
    );
    let offline = with_hub(directory, &hub, &["inspect", REFERENCE])
        .env("HF_HUB_OFFLINE", "1")
        .output();
    assert_one_line_error(
        "offline",
        &offline.expect("the program starts"),
        &["org/model: not in the cache"],
    );
    hub.answer(|_| Some(Reply::new(401, "")));
    error(&["inspect", REFERENCE], "set HF_TOKEN");
}

/// Slows the content of weights down, so that a process can be killed meanwhile.
fn slow(hub: &Hub, content: &[u8], pause: Duration) {
    let content = content.to_vec();
    hub.answer(move |request| {
        request.is_cdn.then(|| {
            let mut reply = part(request, &content);
            reply.pace = Some(pause);
            reply
        })
    });
}

#[test]
fn a_download_that_is_killed_ten_times_ends_with_the_same_content() {
    let directory = TempDir::new().expect("a directory");
    let directory = directory.path();
    let (content, hub) = weights(directory, 3 << 20);
    slow(&hub, &content, Duration::from_millis(8));
    let blobs = directory.join("home/hub/models--org--model/blobs");
    let blob = blobs.join(sha256(&content));
    let incomplete = blobs.join(format!("{}.incomplete", sha256(&content)));
    let length = || std::fs::metadata(&incomplete).map_or(0, |metadata| metadata.len());
    let mut random = ChaCha8Rng::seed_from_u64(3);
    for _ in 0..10 {
        let until = length() + random.random_range(1..600 << 10);
        let mut child = with_hub(directory, &hub, &["inspect", REFERENCE])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        while length() < until {
            assert!(child.try_wait().expect("waiting").is_none(), "the program ended");
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().expect("SIGKILL");
        child.wait().expect("waiting");
        assert!(!blob.exists());
    }
    let starts: Vec<usize> = hub
        .requests()
        .iter()
        .filter(|request| request.is_cdn)
        .filter_map(|request| request.start())
        .collect();
    assert!(starts.len() == 9 && starts.is_sorted(), "{starts:?}");
    hub.answer(|_| None);
    let last = output(directory, &hub, &["inspect", REFERENCE]);
    assert_success(&last);
    assert!(stderr_of(&last).contains("are there already"), "{}", stderr_of(&last));
    assert!(std::fs::read(&blob).expect("the content") == content);
    let names = std::fs::read_dir(&blobs)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").file_name());
    assert!(
        names
            .into_iter()
            .all(|name| !name.to_string_lossy().ends_with("incomplete"))
    );
}

#[test]
fn two_processes_download_once() {
    let directory = TempDir::new().expect("a directory");
    let directory = directory.path();
    let (content, hub) = weights(directory, 1 << 19);
    let headers = AtomicUsize::new(0);
    let weights = content.clone();
    hub.answer(move |request| {
        if request.method == "HEAD" && request.path.ends_with("/model.safetensors") {
            headers.fetch_add(1, Ordering::SeqCst);
        }
        request.is_cdn.then(|| {
            let begin = Instant::now();
            // The content comes when both processes have asked for it.
            while headers.load(Ordering::SeqCst) < 2 && begin.elapsed() < Duration::from_secs(60) {
                std::thread::sleep(Duration::from_millis(1));
            }
            let mut reply = part(request, &weights);
            reply.pace = Some(Duration::from_millis(20));
            reply
        })
    });
    let start = || {
        with_hub(directory, &hub, &["inspect", REFERENCE])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts")
    };
    let children = [start(), start()];
    let outputs = children.map(|child| child.wait_with_output().expect("the program ends"));
    outputs.iter().for_each(assert_success);
    assert_eq!(hub.requests().iter().filter(|request| request.is_cdn).count(), 1);
    assert!(
        outputs
            .iter()
            .any(|output| stderr_of(output).contains("waiting for another process"))
    );
    let blob = directory
        .join("home/hub/models--org--model/blobs")
        .join(sha256(&content));
    assert!(std::fs::read(blob).expect("the content") == content);
    assert_eq!(NAME, &REFERENCE["hf-hub:".len()..]);
}
