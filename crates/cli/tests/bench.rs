//! `vlct bench` through the program itself.

mod support;

use support::{assert_success, vlct};

#[test]
fn every_task_prints_one_line_with_the_known_keys() {
    for task in ["pretrain", "vqa", "infer"] {
        let sizes = ["--image-size", "32", "--batch", "2", "--steps", "1", "--threads", "1"];
        let output = vlct()
            .args(["bench", task])
            .args(sizes)
            .output()
            .expect("the program starts");
        assert_success(&output);
        let text = String::from_utf8(output.stdout).expect("text");
        assert_eq!(text.lines().count(), 1, "{text}");
        let line: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).expect("JSON");
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
        let output = vlct()
            .args(["bench", "gemm", "--steps", "1", "--precision", format])
            .output()
            .expect("the program starts");
        assert_success(&output);
        let text = String::from_utf8(output.stdout).expect("text");
        assert_eq!(text.lines().count(), 1, "{text}");
        let line: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).expect("JSON");
        let rates = ["forward_tflops", "input_gradient_tflops", "weight_gradient_tflops"];
        let keys: Vec<&str> = line.keys().map(String::as_str).collect();
        let known = ["task", "style", "precision", "rows", "inner", "columns"];
        assert_eq!(keys, [&known[..], &rates].concat());
        assert_eq!((&line["task"], &line["precision"]), (&"gemm".into(), &(*format).into()));
        assert!(rates.iter().all(|rate| line[*rate].as_f64() > Some(0.0)), "{text}");
    }
}
