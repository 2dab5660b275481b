//! `vlct bench` through the program itself.

mod support;

use std::process::Command;
use support::{assert_success, vlct};

/// The one line that a measurement prints.
fn measured(task: &str, options: &str) -> serde_json::Map<String, serde_json::Value> {
    let output = vlct()
        .args(["bench", task])
        .args(options.split(' '))
        .output()
        .expect("the program starts");
    assert_success(&output);
    let text = String::from_utf8(output.stdout).expect("text");
    assert_eq!(text.lines().count(), 1, "{text}");
    serde_json::from_str(&text).expect("JSON")
}

/// Runs something that fails with this status and one line that begins like this.
fn fails(command: &mut Command, status: i32, beginning: &str) {
    let output = command.output().expect("the program starts");
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{message}");
    assert!(
        message.starts_with(beginning) && message.lines().count() == 1,
        "{message}"
    );
}

#[test]
fn products_take_no_sizes() {
    let beginning = "error: --batch is not for gemm";
    fails(vlct().args(["bench", "gemm", "--batch", "2"]), 2, beginning);
}

#[cfg(target_os = "linux")]
#[test]
fn memory_that_runs_out_is_one_line() {
    // 1,500 MiB of addresses: enough for the weights, not for a training step.
    let limited = "ulimit -v 1536000; exec \"$0\" bench vqa --threads 1 --steps 1";
    let mut bash = Command::new("bash");
    fails(
        bash.args(["-c", limited, env!("CARGO_BIN_EXE_vlct")]),
        1,
        "error: out of memory",
    );
}

#[test]
fn every_task_prints_one_line_with_the_known_keys() {
    for task in ["pretrain", "vqa", "infer"] {
        let options = "--precision f32 --image-size 32 --batch 2 --steps 1 --threads 1";
        let line = measured(task, options);
        let keys: Vec<&str> = line.keys().map(String::as_str).collect();
        let known = [
            "task",
            "style",
            "precision",
            "image_size",
            "batch",
            "seconds_per_step",
            "samples_per_second",
            "peak_mib",
        ];
        assert_eq!(keys, known);
        let described = (&line["task"], &line["style"], &line["precision"]);
        assert_eq!(described, (&task.into(), &"vlct".into(), &"f32".into()));
        assert_eq!((&line["image_size"], &line["batch"]), (&32.into(), &2.into()));
        assert!(line["seconds_per_step"].as_f64() > Some(0.0) && line["samples_per_second"].as_f64() > Some(0.0));
    }
}

#[test]
fn products_are_measured_in_both_formats() {
    let formats: &[&str] = match vlct_train::bench::Precision::bf16_is_fast() {
        true => &["f32", "bf16"],
        false => &["f32"],
    };
    for format in formats {
        let line = measured("gemm", &format!("--steps 1 --precision {format}"));
        let rates = ["forward_tflops", "input_gradient_tflops", "weight_gradient_tflops"];
        let keys: Vec<&str> = line.keys().map(String::as_str).collect();
        let known = ["task", "style", "precision", "rows", "inner", "columns"];
        assert_eq!(keys, [&known[..], &rates].concat());
        assert_eq!((&line["task"], &line["precision"]), (&"gemm".into(), &(*format).into()));
        assert!(rates.iter().all(|rate| line[*rate].as_f64() > Some(0.0)), "{line:?}");
    }
}
