//! End-to-end tests of `vlct self-test` on the CPU.

mod support;

use serde_json::Value;
use std::path::Path;
use std::process::Output;
use support::{assert_one_line_error, assert_success, stderr_of, stdout_of, vlct};

fn self_test(words: &[&str]) -> Output {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    vlct()
        .current_dir(root)
        .env_remove("VLC_GOLDEN")
        .args(["self-test", "--device", "cpu"])
        .args(words)
        .output()
        .expect("the program starts")
}

/// The JSON objects of the checks, and the last one.
fn objects(output: &Output) -> (Vec<Value>, Value) {
    let lines = stdout_of(output);
    let mut objects: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let summary = objects.pop().expect("a summary");
    (objects, summary)
}

fn with_status<'a>(rows: &'a [Value], status: &str) -> Vec<&'a Value> {
    rows.iter().filter(|row| row["status"] == status).collect()
}

#[test]
fn the_cpu_computes_what_the_original_computes() {
    let output = self_test(&["--json"]);
    assert_success(&output);
    let (rows, summary) = objects(&output);
    assert_eq!(summary["device"], "cpu");
    assert_eq!(summary["failed"], 0);
    let passed = with_status(&rows, "passed");
    assert_eq!(summary["passed"], passed.len());
    assert!(passed.len() >= 9, "{rows:?}");
    for row in &passed {
        assert_eq!(row["kind"], "step", "{row}");
        assert!(row["reason"].is_null(), "{row}");
        let worst = row["worst"].as_f64().expect("a ratio");
        assert!((0.0..=1.0).contains(&worst), "{row}");
        // Values that were recorded elsewhere are never all equal.
        let is_of_equal_bits = row["name"].as_str().is_some_and(|name| name.contains("bit"));
        assert_eq!(worst == 0.0, is_of_equal_bits, "{row}");
    }
    // Without fast bfloat16, only its checks are skipped.
    for row in with_status(&rows, "skipped") {
        assert_eq!(row["reason"], "the device has no fast bfloat16", "{row}");
    }
}

/// Returns the index of the last byte of a tensor, which has the sign of its last number.
fn last_byte(file: &[u8], tensor: &str) -> usize {
    let length = u64::from_le_bytes(*file.first_chunk().expect("a length")) as usize;
    let header: Value = serde_json::from_slice(&file[8..8 + length]).expect("a header");
    let end = header[tensor]["data_offsets"][1].as_u64().expect("an end") as usize;
    8 + length + end - 1
}

/// A recorded value that is changed fails its check, the other checks run, and the exit status is 1. Golden data that are damaged or
/// absent are a reason.
#[test]
fn a_wrong_value_fails_its_check_only() {
    let golden = tempfile::tempdir().expect("a directory");
    let model = golden.path().join("model");
    std::fs::create_dir(&model).expect("a directory");
    let recorded = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/model");
    for file in std::fs::read_dir(recorded).expect("golden data").flatten() {
        std::fs::copy(file.path(), model.join(file.file_name())).expect("a copy");
    }
    let step = model.join("vqa_step.safetensors");
    let mut bytes = std::fs::read(&step).expect("a file");
    let last = last_byte(&bytes, "vqa_loss");
    bytes[last] ^= 0x80;
    std::fs::write(&step, bytes).expect("written");
    std::fs::write(model.join("nlvr2_step.safetensors"), "x").expect("written");

    let golden = golden.path().to_str().expect("a path");
    let output = self_test(&["--json", "--golden", golden, "--only", "equal"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr_of(&output));
    let (rows, summary) = objects(&output);
    let reason = |part: &str| {
        let row = rows
            .iter()
            .find(|row| row["name"].as_str().is_some_and(|name| name.starts_with(part)));
        row.expect("a row")["reason"].as_str().map(str::to_owned)
    };
    assert!(
        reason("vqa::").is_some_and(|reason| reason.contains("instead of")),
        "{rows:?}"
    );
    assert!(
        reason("nlvr2::").is_some_and(|reason| reason.contains("nlvr2_step.safetensors")),
        "{rows:?}"
    );
    assert!(
        reason("images::").is_some_and(|reason| reason.contains("--golden")),
        "{rows:?}"
    );
    assert_eq!(reason("scoring::"), None);
    assert_eq!(
        (summary["failed"].as_u64(), with_status(&rows, "failed").len()),
        (Some(2), 2)
    );
    let message = stderr_of(&output);
    assert!(message == "error: 2 checks failed\n", "{message}");
}

#[test]
fn without_golden_data_generated_steps_are_checked() {
    let directory = tempfile::tempdir().expect("a directory");
    let output = vlct()
        .current_dir(directory.path())
        .env_remove("VLC_GOLDEN")
        .args(["self-test", "--device", "cpu"])
        .output()
        .expect("the program starts");
    assert_success(&output);
    let text = stdout_of(&output);
    assert!(text.starts_with("self-test of cpu (CPU)\nresult"), "{text}");
    let line = |name: &str| {
        text.lines()
            .find(|line| line.contains(name))
            .expect("a line")
            .to_owned()
    };
    assert!(line("generated::equal_steps").starts_with("passed   0.00"), "{text}");
    assert!(line("vqa::").starts_with("skipped"), "{text}");
    assert!(line("vqa::").ends_with("with --golden"), "{text}");
    assert!(
        text.lines().last().is_some_and(|line| line.contains("0 failed")),
        "{text}"
    );
}

#[test]
fn wrong_options_are_one_line_errors() {
    let output = self_test(&["--golden", "no/such/directory"]);
    assert_one_line_error("golden", &output, &["no/such/directory: not a directory", "--golden"]);
    let output = self_test(&["--only", "no such check"]);
    assert_one_line_error("only", &output, &["no check has \"no such check\" in its name"]);
    let output = vlct()
        .args(["self-test", "--device", "gpu"])
        .output()
        .expect("the program starts");
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr_of(&output).contains("expected auto, cpu, cuda or cuda:N"));
}
