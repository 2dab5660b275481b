//! End-to-end tests of runs on several ranks, as processes of this machine.

mod support;

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::imagenet::{log, words, write_classes};
use support::{
    assert_one_line_error, assert_success, last_checkpoint, run_directory, run_with, stderr_of, stdout_of,
    tiny_model_arguments, vlct, vlct_in, write_synthetic,
};
use tempfile::TempDir;
use vlct_checkpoint as checkpoint;

/// Largest relative difference of losses between numbers of ranks, which add gradients in another order.
const TOLERANCE: f64 = 1e-5;

/// Time within which all ranks must end after one has ended.
const SECONDS: Duration = Duration::from_secs(20);

/// Returns the words of a run of four steps of four micro-batches of two samples, in f32.
fn arguments(log_dir: &str, more: &[&str]) -> Vec<String> {
    let log_dir = format!("log_dir={log_dir}");
    let fixed = [
        log_dir.as_str(),
        "device=cpu",
        "precision=32",
        "per_gpu_batchsize=2",
        "max_steps=4",
        "log_every=1",
        "limit_val_batches=2",
    ];
    tiny_model_arguments("data", &[&fixed[..], more].concat())
}

/// Returns the records of the metrics of a run.
fn metrics(directory: &Path, log_dir: &str) -> Vec<Value> {
    let path = run_directory(directory, log_dir).join("metrics.jsonl");
    let text = fs::read_to_string(path).expect("metrics");
    text.lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

/// Panics unless the records have the same names, and losses that differ by at most [`TOLERANCE`].
fn assert_same_losses(got: &[Value], want: &[Value]) {
    assert_eq!(got.len(), want.len());
    let mut compared = 0;
    for (got, want) in got.iter().zip(want) {
        for (name, want) in want.as_object().expect("an object") {
            let got = &got[name];
            let (Some(a), Some(b)) = (got.as_f64(), want.as_f64()) else {
                continue;
            };
            if name.contains("loss") {
                assert!((a - b).abs() <= TOLERANCE * b.abs(), "{name}: {a}, not {b}");
                compared += 1;
            }
        }
    }
    assert!(compared >= 4, "{compared} losses");
}

fn directory_with_data() -> TempDir {
    let directory = TempDir::new().expect("temporary directory");
    write_synthetic(&directory.path().join("data"), 40);
    directory
}

/// Starts a long run on two ranks and waits until it trains. Returns its process and that of rank 1.
fn start_long_run(directory: &Path, log_dir: &str) -> (Child, u32) {
    let child = vlct()
        .current_dir(directory)
        .args(["run", "with"])
        .args(arguments(
            log_dir,
            &["num_gpus=2", "max_steps=1000000", "checkpoint_every=5"],
        ))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let checkpoint = last_checkpoint(directory, log_dir);
    let start = Instant::now();
    while !checkpoint.is_file() {
        assert!(start.elapsed() < Duration::from_secs(60), "no checkpoint");
        std::thread::sleep(Duration::from_millis(20));
    }
    let id = child.id();
    let children = fs::read_dir(format!("/proc/{id}/task")).expect("threads");
    let children: Vec<u32> = children
        .flat_map(|thread| {
            let path = thread.expect("a thread").path().join("children");
            let text = fs::read_to_string(path).unwrap_or_default();
            text.split_whitespace()
                .map(|id| id.parse().expect("a number"))
                .collect::<Vec<u32>>()
        })
        .collect();
    assert_eq!(children.len(), 1, "one other rank");
    (child, children[0])
}

fn send(signal: &str, id: u32) {
    let status = Command::new("kill").args([signal, &id.to_string()]).status();
    assert!(status.expect("kill").success());
}

/// Waits for a process, and panics if it does not end in time.
fn wait(mut child: Child) -> Output {
    let start = Instant::now();
    while child.try_wait().expect("waiting").is_none() {
        if start.elapsed() > SECONDS {
            let _ = child.kill();
            panic!("the process does not end");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().expect("waiting")
}

/// Panics unless a process that this one has not started ends in time.
fn assert_ends(id: u32) {
    let start = Instant::now();
    let is_running = || {
        let status = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        // A process whose parent does not wait for it stays as a zombie.
        status.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
    };
    while is_running() {
        assert!(start.elapsed() < SECONDS, "the process {id} goes on");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn two_ranks_compute_the_losses_of_one_and_one_continues_their_run() {
    let directory = directory_with_data();
    let directory = directory.path();
    assert_success(&run_with(directory, &arguments("one", &[])));
    let output = run_with(directory, &arguments("two", &["num_gpus=2"]));
    assert_success(&output);
    let text = stderr_of(&output);
    assert!(text.contains("2 ranks, 2 on this machine"), "{text}");
    // Only rank 0 prints.
    assert_eq!(text.matches("parameters").count(), {
        let alone = run_with(directory, &arguments("again", &[]));
        stderr_of(&alone).matches("parameters").count()
    });
    let one = metrics(directory, "one");
    assert_same_losses(&metrics(directory, "two"), &one);

    // The run records that it had two ranks, and continues with one.
    let run = run_directory(directory, "two");
    let config = fs::read_to_string(run.join("config.toml")).expect("a configuration");
    assert!(
        config.contains("num_gpus = 2") && config.contains("device = \"cpu\""),
        "{config}"
    );
    let longer = |log_dir: &str, more: &[&str]| {
        let words = [&["max_steps=6"], more].concat();
        let output = run_with(directory, &arguments(log_dir, &words));
        assert_success(&output);
        stderr_of(&output)
    };
    let resume = format!("resume_from={}", run.display());
    let text = longer("two", &[&resume, "num_gpus=1"]);
    assert!(!text.contains("num_gpus"), "{text}");
    longer(
        "one",
        &[&format!("resume_from={}", run_directory(directory, "one").display())],
    );
    assert_same_losses(&metrics(directory, "two"), &metrics(directory, "one"));

    // An evaluation prints its results once.
    let load = format!("load_path={}", run.display());
    let test = |more: &[&str]| {
        let words = [&["test_only=True", &load], more].concat();
        let output = run_with(directory, &arguments("test", &words));
        assert_success(&output);
        stdout_of(&output)
    };
    assert_eq!(test(&[]).lines().count(), test(&["num_gpus=2"]).lines().count());
}

#[test]
fn ranks_that_another_program_starts_compute_the_same() {
    let directory = directory_with_data();
    let directory = directory.path();
    // The agent of torchrun listens at the port, so the ranks use the next one.
    let (agent, port) = loop {
        let agent = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = agent.local_addr().expect("an address").port();
        if port < u16::MAX && TcpListener::bind(("127.0.0.1", port + 1)).is_ok() {
            break (agent, port);
        }
    };
    let ranks: Vec<Child> = (0..2)
        .map(|rank| {
            vlct()
                .current_dir(directory)
                .args(["run", "with"])
                .args(arguments("torchrun", &[]))
                .envs([("RANK", rank.to_string()), ("LOCAL_RANK", rank.to_string())])
                .envs([
                    ("WORLD_SIZE", "2"),
                    ("LOCAL_WORLD_SIZE", "2"),
                    ("MASTER_ADDR", "127.0.0.1"),
                ])
                .env("MASTER_PORT", port.to_string())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .expect("the program starts")
        })
        .collect();
    let outputs: Vec<Output> = ranks
        .into_iter()
        .map(|rank| rank.wait_with_output().expect("waiting"))
        .collect();
    drop(agent);
    outputs.iter().for_each(assert_success);
    assert_eq!(stderr_of(&outputs[1]), "", "rank 1 has nothing to say");
    assert_success(&run_with(directory, &arguments("one", &[])));
    assert_same_losses(&metrics(directory, "torchrun"), &metrics(directory, "one"));
}

#[test]
fn a_killed_rank_ends_the_run_with_a_message() {
    let directory = directory_with_data();
    let directory = directory.path();
    let (first, second) = start_long_run(directory, "killed");
    send("-KILL", second);
    let output = wait(first);
    assert_one_line_error(
        "kill -9 of rank 1",
        &output,
        &["rank 1 has ended before the others", "signal 9"],
    );

    let (first, second) = start_long_run(directory, "first");
    send("-KILL", first.id());
    assert_ends(second);
    let output = wait(first);
    let text = stderr_of(&output);
    assert!(
        text.contains("rank 1: error: rank 0 has ended before the others"),
        "{text}"
    );

    // The checkpoint of two ranks that were killed is complete.
    let checkpoint = last_checkpoint(directory, "first");
    checkpoint::load(&checkpoint).expect("a complete checkpoint");
}

#[test]
fn a_signal_to_any_rank_stops_all_with_a_checkpoint() {
    let directory = directory_with_data();
    let directory = directory.path();
    let (first, second) = start_long_run(directory, "first");
    send("-TERM", first.id());
    let output = wait(first);
    assert_eq!(output.status.code(), Some(143), "{}", stderr_of(&output));
    assert_ends(second);

    let (first, second) = start_long_run(directory, "second");
    send("-TERM", second);
    let output = wait(first);
    assert_one_line_error("SIGTERM of rank 1", &output, &["a signal to another rank"]);
    for log_dir in ["first", "second"] {
        let steps = metrics(directory, log_dir).len();
        let saved = checkpoint::load(&last_checkpoint(directory, log_dir)).expect("a checkpoint");
        let step = saved.state()[checkpoint::STEP_KEY].as_u64().expect("a step");
        assert!(step >= 5 && step as usize <= steps, "{log_dir}: step {step} of {steps}");
    }
}

#[test]
fn failures_of_ranks_and_of_their_start_are_one_line() {
    let directory = directory_with_data();
    let directory = directory.path();
    let case = |words: &[&str], variables: &[(&str, &str)]| {
        vlct()
            .current_dir(directory)
            .args(["run", "with"])
            .args(arguments("failed", words))
            .envs(variables.iter().copied())
            .output()
            .expect("the program starts")
    };
    let devices = case(&["num_gpus=4", "device=auto"], &[]);
    assert_one_line_error(
        "GPUs",
        &devices,
        &["num_gpus=4 needs 4 CUDA devices, but this machine has", "device=cpu"],
    );
    let batch = case(&["num_gpus=8"], &[]);
    assert_one_line_error("batch", &batch, &["batch_size=8 is smaller than one micro-batch of 16"]);
    let machines = case(&["num_nodes=2"], &[]);
    assert_one_line_error("machines", &machines, &["set the environment variable NODE_RANK"]);

    let other = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = other.local_addr().expect("an address").port().to_string();
    let used = case(&["num_gpus=2"], &[("MASTER_PORT", &port)]);
    assert_one_line_error("port", &used, &[&format!("127.0.0.1:{port}"), "MASTER_PORT"]);

    // An error of all ranks is printed by rank 0 alone.
    let missing = case(&["num_gpus=2", "load_path=missing.safetensors"], &[]);
    assert_one_line_error("weights", &missing, &["missing.safetensors"]);
    assert!(
        !stderr_of(&missing).contains("rank 1: error"),
        "{}",
        stderr_of(&missing)
    );
}

#[test]
fn vlct_train_chooses_once_for_all_ranks() {
    let directory = directory_with_data();
    let directory = directory.path();
    let mut words = vec![
        "train",
        "synthetic",
        "--data-root",
        "data",
        "num_gpus=2",
        "device=cpu",
        "max_steps=2",
    ];
    words.extend([
        "tokenizer=data/vocab.txt",
        "vocab_size=128",
        "batch_size=8",
        "per_gpu_batchsize=2",
    ]);
    words.extend(support::TINY_SIZES);
    let names = fs::read_dir(directory.join("data")).expect("data");
    let names: Vec<String> = names
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    let dataset = names
        .iter()
        .find_map(|name| name.strip_suffix("_train.arrow"))
        .unwrap_or_else(|| panic!("no dataset in {names:?}"));
    words[1] = dataset;
    let output = vlct_in(directory, &words);
    assert_success(&output);
    let text = stderr_of(&output);
    assert_eq!(text.matches("chosen:").count(), 1, "{text}");
    assert!(stdout_of(&output).contains("run: "), "{}", stdout_of(&output));
}

#[test]
fn classifiers_train_and_are_evaluated_on_two_ranks() {
    let directory = TempDir::new().expect("temporary directory");
    let directory = directory.path();
    write_classes(directory, 60);
    let imagenet = |out: &str, more: &[&str]| {
        let words = words(out, more);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let output = vlct_in(directory, &words);
        assert_success(&output);
        output
    };
    // The effective batch, and with it the learning rate, is that of all ranks.
    imagenet("one", &["--device", "cpu", "--epochs", "2", "--accum_iter", "2"]);
    imagenet("two", &["--device", "cpu", "--epochs", "2", "--num_gpus", "2"]);
    let (one, two) = (log(&directory.join("one")), log(&directory.join("two")));
    assert_same_losses(&two, &one);
    assert_eq!(two[1]["train_lr"], one[1]["train_lr"]);

    // One rank continues with as many samples in a step.
    let words = ["imagenet", "--resume", "two", "--epochs", "3", "--device", "cpu"];
    let output = vlct_in(directory, &words);
    assert_success(&output);
    imagenet("three", &["--device", "cpu", "--epochs", "2", "--accum_iter", "2"]);
    assert_eq!(log(&directory.join("two")).len(), 3);

    let evaluate = |more: &[&str]| {
        let mut words = vec!["imagenet", "--eval", "--finetune", "two", "--data_path", "data/classes"];
        words.extend(["--device", "cpu"]);
        words.extend(more);
        let output = vlct_in(directory, &words);
        assert_success(&output);
        stdout_of(&output)
    };
    assert_eq!(
        evaluate(&["--num_gpus", "2", "--output_dir", "predictions"]),
        evaluate(&[])
    );
    assert!(directory.join("predictions/predictions.csv").is_file());
    let knn = vlct_in(
        directory,
        &[
            "imagenet",
            "--knn",
            "--data_path",
            "data/classes",
            "--device",
            "cpu",
            "--num_gpus",
            "2",
        ],
    );
    assert_eq!(knn.status.code(), Some(2));
    assert!(
        stderr_of(&knn).contains("--knn computes in one process"),
        "{}",
        stderr_of(&knn)
    );
}
