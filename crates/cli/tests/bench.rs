//! End-to-end tests of `vlct bench`.

mod support;

use std::path::Path;
use std::process::Command;
use support::{assert_one_line_error, assert_success, stderr_of, vlct, write_synthetic};
use vlct_image::{RgbImage, encode_jpeg};

/// Runs a measurement and returns the object that it prints.
fn measure(task: &str, options: &str) -> serde_json::Map<String, serde_json::Value> {
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

/// Panics unless the command fails with this status, and prints one line with this beginning to standard error.
fn assert_fails(command: &mut Command, status: i32, beginning: &str) {
    let output = command.output().expect("the program starts");
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{message}");
    assert!(
        message.starts_with(beginning) && message.lines().count() == 1,
        "{message}"
    );
}

#[test]
fn rejects_options_of_other_tasks() {
    for words in [
        "gemm --batch 2",
        "gemm --profile",
        "pretrain --transform mae",
        "loader --batch 2 x.jpg",
    ] {
        let output = vlct()
            .arg("bench")
            .args(words.split(' '))
            .output()
            .expect("the program starts");
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{words}: {message}");
        assert!(message.starts_with("error: unexpected argument"), "{words}: {message}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn out_of_memory_is_a_one_line_error() {
    // An address space of 1,500 MiB suffices for the weights, not for a training step.
    let script = "ulimit -v 1536000; exec \"$0\" bench vqa --threads 1 --steps 1";
    let mut bash = Command::new("bash");
    assert_fails(
        bash.args(["-c", script, env!("CARGO_BIN_EXE_vlct")]),
        1,
        "error: out of memory",
    );
}

#[cfg(target_os = "linux")]
#[test]
fn rejects_pinning_more_threads_than_cpus() {
    measure("gemm", "--precision f32 --steps 1 --threads 1 --pin-threads");
    let mut command = vlct();
    command.args(["bench", "gemm", "--threads", "4096", "--pin-threads"]);
    assert_fails(
        &mut command,
        1,
        "error: pin_threads: 4096 threads, but this process may use ",
    );
}

#[test]
fn every_task_prints_one_line_with_the_documented_keys() {
    for task in ["pretrain", "vqa", "infer", "imagenet"] {
        let options = "--precision f32 --image-size 32 --batch 2 --steps 1 --threads 1";
        let line = measure(task, options);
        let keys: Vec<&str> = line.keys().map(String::as_str).collect();
        let expected = [
            "task",
            "style",
            "device",
            "precision",
            "image_size",
            "batch",
            "seconds_per_step",
            "samples_per_second",
            "peak_mib",
        ];
        assert_eq!(keys, expected);
        let values = (&line["task"], &line["style"], &line["precision"]);
        assert_eq!(values, (&task.into(), &"vlct".into(), &"f32".into()));
        assert_eq!((&line["image_size"], &line["batch"]), (&32.into(), &2.into()));
        assert!(line["seconds_per_step"].as_f64() > Some(0.0) && line["samples_per_second"].as_f64() > Some(0.0));
    }
}

#[test]
fn scoring_is_compared_with_the_naive_loop() {
    let options = "--model quickstart --image-size 32 --images 2 --texts 9 --rounds 1 --precision f32 --threads 1";
    let line = measure("score", options);
    let keys: Vec<&str> = line.keys().map(String::as_str).collect();
    let expected = [
        "task",
        "style",
        "device",
        "precision",
        "model",
        "image_size",
        "images",
        "texts",
        "pairs_per_second",
        "naive_pairs_per_second",
        "ratio",
        "arithmetic_bound",
        "fraction_of_bound",
        "peak_mib",
    ];
    assert_eq!(keys, expected);
    assert_eq!((&line["model"], &line["texts"]), (&"quickstart".into(), &9.into()));
    assert!(line["pairs_per_second"].as_f64() > Some(0.0) && line["naive_pairs_per_second"].as_f64() > Some(0.0));
    assert!(line["arithmetic_bound"].as_f64() > Some(1.2), "{line:?}");
}

#[test]
fn measures_products_in_both_formats() {
    let mut formats = vec!["f32"];
    if vlct_bench::Device::default().bf16_is_fast() {
        formats.push("bf16");
    } else {
        assert_fails(
            vlct().args(["bench", "gemm", "--precision", "bf16"]),
            1,
            "error: this machine has no fast bfloat16",
        );
    }
    for format in formats {
        let line = measure("gemm", &format!("--steps 1 --precision {format}"));
        let rates = ["forward_tflops", "input_gradient_tflops", "weight_gradient_tflops"];
        let keys: Vec<&str> = line.keys().map(String::as_str).collect();
        let expected = ["task", "style", "device", "precision", "rows", "inner", "columns"];
        assert_eq!(keys, [&expected[..], &rates].concat());
        assert_eq!((&line["task"], &line["precision"]), (&"gemm".into(), &format.into()));
        assert!(rates.iter().all(|rate| line[*rate].as_f64() > Some(0.0)), "{line:?}");
    }
}

/// Writes two images and a text file.
fn write_files(directory: &Path) {
    for (name, side) in [("a.jpg", 40), ("b.JPEG", 90)] {
        let image = RgbImage::from_fn(side, 50, |x, y| [x as u8, y as u8, 7].into());
        std::fs::write(directory.join(name), encode_jpeg(&image, 90).expect("a JPEG")).expect("a file");
    }
    std::fs::write(directory.join("notes.txt"), "not an image").expect("a file");
}

fn run_loader(words: &[&str], data: &[&Path]) -> std::process::Output {
    let mut command = vlct();
    command.args(["bench", "loader", "--seconds", "0", "--image-size", "24"]);
    command.args(words).args(data).output().expect("the program starts")
}

#[test]
fn measures_the_loader_with_every_transform_and_kind_of_data() {
    let directory = tempfile::tempdir().expect("a directory");
    write_files(directory.path());
    let arrow = directory.path().join("arrow");
    std::fs::create_dir(&arrow).expect("a directory");
    write_synthetic(&arrow, 4);
    let (file, table) = (
        directory.path().join("a.jpg"),
        arrow.join("coco_caption_karpathy_train.arrow"),
    );
    let data: [(&str, &str, &[&Path]); 6] = [
        ("mae", "1", &[directory.path()]),
        ("mae_randaug", "2", &[&file, &table]),
        ("mae_test", "1", &[&arrow]),
        ("mae", "3", &[&table]),
        ("classification_train", "1", &[&file]),
        ("classification_eval", "1", &[&file]),
    ];
    for (transform, threads, data) in data {
        let output = run_loader(&["--transform", transform, "--threads", threads], data);
        assert_success(&output);
        assert!(stderr_of(&output).is_empty(), "{}", stderr_of(&output));
        let text = String::from_utf8(output.stdout).expect("text");
        assert_eq!(text.lines().count(), 1, "{text}");
        let line: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).expect("JSON");
        let keys: Vec<&str> = line.keys().map(String::as_str).collect();
        assert_eq!(keys, ["transform", "image_size", "pictures_per_second", "cores"]);
        assert_eq!(
            (&line["transform"], &line["image_size"]),
            (&transform.into(), &24.into())
        );
        assert_eq!(line["cores"].to_string(), threads);
        assert!(line["pictures_per_second"].as_f64() > Some(0.0));
    }
}

#[test]
fn loader_profile_lists_the_stages() {
    let directory = tempfile::tempdir().expect("a directory");
    write_files(directory.path());
    let output = run_loader(&["--profile"], &[directory.path()]);
    assert_success(&output);
    let profile = stderr_of(&output);
    for part in ["decode", "augment", "crop, resize, normalise", "image"] {
        assert!(profile.lines().any(|line| line.starts_with(part)), "{part}: {profile}");
    }
}

#[test]
fn loader_errors_are_one_line() {
    let directory = tempfile::tempdir().expect("a directory");
    let (missing, empty) = (
        directory.path().join("no such directory"),
        directory.path().join("empty"),
    );
    let (broken, table) = (
        directory.path().join("broken.jpg"),
        directory.path().join("broken.arrow"),
    );
    std::fs::create_dir(&empty).expect("a directory");
    let jpeg = encode_jpeg(&RgbImage::new(64, 64), 90).expect("a JPEG");
    std::fs::write(&broken, &jpeg[..jpeg.len() / 2]).expect("a file");
    std::fs::write(&table, "ARROW1").expect("a file");
    for (what, path, reason) in [
        ("missing", &missing, "No such file"),
        ("empty", &empty, "no images in"),
        ("truncated", &broken, "damaged Jpeg data"),
        ("no table", &table, "broken.arrow"),
    ] {
        let name = path.file_name().and_then(|n| n.to_str()).expect("a name");
        assert_one_line_error(what, &run_loader(&[], &[path]), &[name, reason]);
    }
}
