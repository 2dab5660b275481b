//! End-to-end tests of retrieval: interrupted scoring of a test split, two-stage retrieval, recalls of validations.

mod support;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use support::{
    assert_success, last_checkpoint, run_directory, run_with, stderr_of, tiny_model_arguments, vlct, write_synthetic,
};
use tempfile::TempDir;
use vlct_synthetic::{self as synthetic, SyntheticConfig};

/// Writes a dataset whose test split has `test` images with five captions each, and trains a model with the settings `more`.
fn prepare(directory: &Path, test: usize, more: &[&str]) {
    let config = SyntheticConfig {
        side: 32,
        train: 40,
        restval: 4,
        val: 4,
        test,
        vqa_train: 0,
        nlvr2_train: 0,
        labels_train: 0,
        class_train: 0,
        ..SyntheticConfig::default()
    };
    synthetic::write(&directory.join("data"), &config, &mut |_, _| ()).expect("a synthetic dataset");
    let fixed = ["log_dir=trained", "max_steps=4", "limit_val_batches=1"];
    let arguments = tiny_model_arguments("data", &[&fixed[..], more].concat());
    assert_success(&run_with(directory, &arguments));
}

/// Returns the arguments of a test run that computes recalls and writes to `log_dir`.
fn test_arguments(directory: &Path, log_dir: &str, more: &[&str]) -> Vec<String> {
    let log_dir = format!("log_dir={log_dir}");
    let load_path = format!("load_path={}", last_checkpoint(directory, "trained").display());
    let fixed = ["test_only=True", "get_recall_metric=True", &log_dir, &load_path];
    tiny_model_arguments("data", &[&fixed[..], more].concat())
}

/// Returns the directory of the experiment in `log_dir`.
fn experiment(directory: &Path, log_dir: &str) -> PathBuf {
    let mut entries = std::fs::read_dir(directory.join(log_dir)).expect("a directory");
    entries.next().expect("an experiment").expect("an entry").path()
}

/// Returns the directories of stored scores of the experiment in `log_dir`.
fn score_directories(directory: &Path, log_dir: &str) -> Vec<PathBuf> {
    let Ok(mut experiments) = std::fs::read_dir(directory.join(log_dir)) else {
        return Vec::new();
    };
    let Some(Ok(experiment)) = experiments.next() else {
        return Vec::new();
    };
    let entries = std::fs::read_dir(experiment.path()).expect("an experiment");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("scores_"))
        })
        .collect()
}

/// Returns the number of entries of the journal of the scores in `log_dir`.
fn journal_entries(directory: &Path, log_dir: &str) -> usize {
    let directories = score_directories(directory, log_dir);
    let journal = directories.first().map(|scores| scores.join("journal.jsonl"));
    let text = journal.and_then(|journal| std::fs::read_to_string(journal).ok());
    text.map_or(0, |text| text.lines().count().saturating_sub(1))
}

fn metrics(directory: &Path, log_dir: &str) -> serde_json::Value {
    let path = experiment(directory, log_dir).join("version_0/metrics.json");
    serde_json::from_str(&std::fs::read_to_string(path).expect("metrics")).expect("JSON")
}

/// Starts a test run and waits until it has stored `entries` parts of the scores. Returns `None` if it ends before.
fn start_and_wait(directory: &Path, log_dir: &str, arguments: &[String], entries: usize) -> Option<Child> {
    let mut child = vlct()
        .current_dir(directory)
        .args(["run", "with"])
        .args(arguments)
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let start = Instant::now();
    while journal_entries(directory, log_dir) < entries {
        if child.try_wait().expect("waiting").is_some() {
            return None;
        }
        assert!(start.elapsed() < Duration::from_secs(300), "no scores are stored");
        std::thread::sleep(Duration::from_millis(5));
    }
    Some(child)
}

#[test]
fn killed_scoring_continues_to_the_same_scores() {
    let directory = TempDir::new().expect("temporary directory");
    let directory = directory.path();
    // With this depth and a single thread, scoring takes several seconds on a fast machine.
    let slow = ["depth=6", "threads=1"];
    prepare(directory, 150, &slow);
    let scores_of = |log_dir: &str| {
        let scores = score_directories(directory, log_dir);
        assert_eq!(scores.len(), 1, "{scores:?}");
        scores[0].join("scores.f32")
    };
    let start = |log_dir: &str, entries: usize| {
        let arguments = test_arguments(directory, log_dir, &slow);
        start_and_wait(directory, log_dir, &arguments, entries).expect("scoring takes some seconds")
    };
    for (log_dir, entries) in [("once", 2), ("often", 1)] {
        let mut child = start(log_dir, entries);
        child.kill().expect("SIGKILL");
        child.wait().expect("waiting");
    }
    // SIGTERM stores the scores too.
    let before = journal_entries(directory, "often");
    let child = start("often", before + 1);
    let killed = Command::new("kill").arg(child.id().to_string()).status();
    assert!(killed.expect("kill").success());
    let output = child.wait_with_output().expect("waiting");
    assert_eq!(output.status.code(), Some(143), "{}", stderr_of(&output));
    let log = stderr_of(&output);
    assert!(
        log.contains("continuing after") && log.contains("the same command continues"),
        "{log}"
    );

    let [once, mut often] = ["once", "often"].map(|log_dir| std::fs::read(scores_of(log_dir)).expect("scores"));
    let common = once.len().min(often.len()) / 4 * 4;
    assert!(common > 0 && once[..common] == often[..common]);
    // Damage is detected and repaired.
    often[common / 2] ^= 1;
    std::fs::write(scores_of("often"), often).expect("a file");
    let finish = |log_dir: &str, text: &str| {
        let output = run_with(directory, &test_arguments(directory, log_dir, &slow));
        assert_success(&output);
        let log = stderr_of(&output);
        assert!(log.contains(text), "{log}");
        // The scores are removed when the metrics are written.
        assert_eq!(score_directories(directory, log_dir), Vec::<PathBuf>::new());
        metrics(directory, log_dir)
    };
    let want = finish(
        "whole",
        "retrieval: scoring 112500 pairs of 150 images and 750 captions",
    );
    assert!(want["recalls/ir_r1"].is_f64(), "{want}");
    assert_eq!(finish("once", "continuing after"), want);
    assert_eq!(finish("often", "the stored scores are damaged"), want);
}

#[test]
fn two_stage_recalls_have_their_own_names() {
    let directory = TempDir::new().expect("temporary directory");
    let directory = directory.path();
    prepare(directory, 30, &[]);
    let run = |log_dir: &str, more: &[&str]| {
        let output = run_with(directory, &test_arguments(directory, log_dir, more));
        assert_success(&output);
        (metrics(directory, log_dir), stderr_of(&output))
    };
    let (exact, log) = run("exact", &[]);
    assert!(!log.contains("two-stage"), "{log}");
    // With all images as candidates, both ways give the same recalls.
    let (all, log) = run("all", &["recall_rerank=200"]);
    assert!(
        log.contains("two-stage retrieval: selecting candidates from 4500 pairs of 30 images and 150 captions"),
        "{log}"
    );
    assert!(
        log.contains("two-stage retrieval: scoring candidates from 4500 pairs"),
        "{log}"
    );
    let (few, log) = run("few", &["recall_rerank=10"]);
    assert!(log.contains("scoring candidates from"), "{log}");
    for name in ["ir_r1", "ir_r5", "ir_r10", "tr_r1", "tr_r5", "tr_r10"] {
        let (exact_name, two_stage_name) = (format!("recalls/{name}"), format!("recalls_two_stage/{name}"));
        assert_eq!(all[&two_stage_name], exact[&exact_name], "{name}");
        assert!(few[&two_stage_name].is_f64() && exact[&exact_name].is_f64(), "{name}");
        assert!(
            few.get(&exact_name).is_none() && exact.get(&two_stage_name).is_none(),
            "{name}"
        );
    }
    // A limit scores the first images only.
    let (_, log) = run("limited", &["recall_limit=12"]);
    assert!(
        log.contains("retrieval: scoring 720 pairs of 12 images and 60 captions"),
        "{log}"
    );
}

#[test]
fn validations_restrict_recalls_and_leave_no_scores() {
    let directory = TempDir::new().expect("temporary directory");
    let directory = directory.path();
    write_synthetic(&directory.join("data"), 40);
    // In the published splits, validation uses the 12 images of the test split.
    let arguments = |more: &[&str]| {
        let fixed = [
            "log_dir=runs",
            "max_steps=4",
            "limit_val_batches=1",
            "val_check_interval=4",
            "get_recall_metric=True",
        ];
        tiny_model_arguments("data", &[&fixed[..], more].concat())
    };
    let output = run_with(directory, &arguments(&["recall_limit=10"]));
    assert_success(&output);
    let log = stderr_of(&output);
    assert!(
        log.contains("retrieval: scoring 500 pairs of 10 images and 50 captions"),
        "{log}"
    );
    assert!(log.contains("recalls/ir_r1"), "{log}");
    let names: Vec<String> = std::fs::read_dir(run_directory(directory, "runs"))
        .expect("a run")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    assert!(!names.iter().any(|name| name.contains("scores")), "{names:?}");
    let output = run_with(directory, &arguments(&["recall_limit=5"]));
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr_of(&output).contains("recall_limit=5 is less than the 10 candidates"),
        "{}",
        stderr_of(&output)
    );
}
