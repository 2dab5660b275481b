//! Number formats, end to end: the format that a run reports, the keys that a resumed run may change, and the losses after training.

mod support;

use std::path::Path;
use support::{
    assert_same_checkpoint, assert_success, last_checkpoint, run_directory, run_with, stderr_of, tiny_model_arguments,
    vlct, write_synthetic,
};
use tempfile::TempDir;
use vlct_bench::Device;
use vlct_checkpoint as checkpoint;

#[test]
fn reports_the_number_format_and_resumes_with_equivalent_keys() {
    let directory = TempDir::new().expect("temporary directory");
    let directory = directory.path();
    write_synthetic(&directory.join("data"), 12);
    let fast = Device::default().bf16_is_fast();
    let default_format = if fast { "bfloat16" } else { "float32 by FMA" };
    let arguments = |log_dir: &str, more: &[&str]| {
        let log_dir = format!("log_dir={log_dir}");
        tiny_model_arguments("data", &[&[log_dir.as_str(), "max_steps=4"], more].concat())
    };
    for (log_dir, more, format) in [
        ("a", &["threads=1"][..], default_format),
        ("b", &["threads=1", "precision=32"], "float32 by FMA"),
        ("c", &["threads=1", "precision=bf16"], default_format),
    ] {
        let output = run_with(directory, &arguments(log_dir, more));
        assert_success(&output);
        let text = stderr_of(&output);
        assert!(text.contains(&format!(", 1 threads, {format}\n")), "{text}");
        let has_warning = text.contains("warning: precision='bf16' is computed in f32");
        assert_eq!(has_warning, more.contains(&"precision=bf16") && !fast, "{text}");
    }
    assert_same_checkpoint(&last_checkpoint(directory, "a"), &last_checkpoint(directory, "c"));
    if fast {
        let values = |log_dir| {
            let file = checkpoint::load(&last_checkpoint(directory, log_dir)).expect("a valid checkpoint");
            file.values("pooler.dense.weight").expect("listed").to_vec()
        };
        assert_ne!(
            values("a"),
            values("b"),
            "bfloat16 must give other weights than float32"
        );
    }

    // Run `a` is resumed with its own number format given explicitly and with recomputed activations. It must give the weights of
    // run `c`, without a warning.
    let resume = |log_dir: &str, more: &[&str]| {
        let resume = format!("resume_from={}", run_directory(directory, log_dir).display());
        run_with(
            directory,
            &arguments(log_dir, &[&["max_steps=8", &resume], more].concat()),
        )
    };
    assert_success(&resume("c", &["precision=bf16"]));
    let precision_argument = if fast { "precision=bf16" } else { "precision=32" };
    let output = resume("a", &[precision_argument, "activation_recompute=True"]);
    assert_success(&output);
    let text = stderr_of(&output);
    assert!(text.contains("activations recomputed"), "{text}");
    assert!(
        !text.contains("warning: precision") && !text.contains("warning: activation"),
        "{text}"
    );
    assert_same_checkpoint(&last_checkpoint(directory, "a"), &last_checkpoint(directory, "c"));

    let load = format!("load_path={}", last_checkpoint(directory, "a").display());
    let output = run_with(directory, &arguments("none", &[&load, "test_only=True"]));
    assert_success(&output);
    let text = stderr_of(&output);
    assert!(
        text.contains("evaluating ") && text.contains(&format!("threads, {default_format}\n")),
        "{text}"
    );
}

/// Trains 200 steps. Returns the losses of masked words, masked patches and image-text matching, averaged over the last 50 steps.
fn final_losses(directory: &Path, precision: &str) -> [f64; 3] {
    let log_dir = format!("trained{precision}");
    let arguments = tiny_model_arguments(
        "data",
        &[
            &format!("log_dir={log_dir}"),
            &format!("precision={precision}"),
            "hidden_size=64",
            "depth=2",
            "batch_size=32",
            "per_gpu_batchsize=32",
            "learning_rate=3e-3",
            "max_steps=200",
            "limit_val_batches=1",
            "log_every=1",
        ],
    );
    let mut program = vlct();
    if precision == "bf16" && !Device::default().bf16_is_fast() {
        // Selects the engine in plain Rust, which only test builds of `vlct` contain.
        program.env("VLCT_TEST_LEVEL", "portable");
    }
    let output = program
        .current_dir(directory)
        .args(["run", "with"])
        .args(&arguments)
        .output();
    assert_success(&output.expect("the program starts"));
    let metrics = run_directory(directory, &log_dir).join("metrics.jsonl");
    let metrics = std::fs::read_to_string(metrics).expect("metrics");
    let lines: Vec<serde_json::Value> = metrics
        .lines()
        .map(|l| serde_json::from_str(l).expect("JSON"))
        .collect();
    ["mlm/train/loss", "mae/train/loss", "itm/train/loss"].map(|name| {
        let is_counted = |line: &&serde_json::Value| line["step"].as_u64() > Some(150);
        let values: Vec<f64> = lines
            .iter()
            .filter(is_counted)
            .filter_map(|l| l[name].as_f64())
            .collect();
        assert_eq!(values.len(), 50, "{name}");
        values.iter().sum::<f64>() / 50.0
    })
}

/// In a measurement with five seeds, the losses of the two formats differed by at most 0.06 %.
#[test]
fn both_formats_reach_the_same_losses() {
    let directory = TempDir::new().expect("temporary directory");
    let directory = directory.path();
    write_synthetic(&directory.join("data"), 600);
    let (f32, bf16) = (final_losses(directory, "32"), final_losses(directory, "bf16"));
    assert!(f32[0] < 3.8 && f32[1] < 0.7, "losses begin at 4.9 and 1.1: {f32:?}");
    assert_ne!(f32, bf16);
    for (f32, bf16) in f32.iter().zip(&bf16) {
        assert!((bf16 / f32 - 1.0).abs() < 0.002, "{bf16} against {f32}");
    }
}
