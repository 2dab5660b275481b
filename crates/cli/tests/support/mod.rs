//! A small synthetic dataset and a small model, and how to run the program on them.

#![allow(dead_code, reason = "each test file uses a part")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use vlct_synthetic::{self as synthetic, SyntheticConfig};
use vlct_train::checkpoint;

/// The program.
pub fn vlct() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vlct"));
    command.env_remove("RUST_BACKTRACE");
    command
}

/// Runs the program with these arguments: exit status, standard output and standard error.
pub fn run(arguments: &[&str]) -> (i32, String, String) {
    let output = vlct().args(arguments).output().expect("the program starts");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    let status = output.status.code().expect("an exit status");
    (status, text(output.stdout), text(output.stderr))
}

/// Runs the program in `folder` with words after `run with`.
pub fn run_with(folder: &Path, words: &[String]) -> Output {
    vlct()
        .current_dir(folder)
        .arg("run")
        .arg("with")
        .args(words)
        .output()
        .expect("the program starts")
}

/// Standard error as text.
pub fn complaints(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Panics unless the program succeeded.
pub fn assert_success(output: &Output) {
    assert!(output.status.success(), "{}: {}", output.status, complaints(output));
}

/// Panics unless the program failed with exit status 1 and one line `error: …` that has all the parts; no panic.
pub fn assert_refused(what: &str, output: &Output, parts: &[&str]) {
    let text = complaints(output);
    assert_eq!(output.status.code(), Some(1), "{what}: {text}");
    let errors: Vec<&str> = text.lines().filter(|l| l.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{what}: {text}");
    assert!(!text.contains("panicked"), "{what}: {text}");
    for part in parts {
        assert!(errors[0].contains(part), "{what}: {part:?} is not in {}", errors[0]);
    }
}

/// Writes pictures of 32 pixels with captions, and a vocabulary, to `folder`.
pub fn write_synthetic(folder: &Path, pictures: usize) {
    let config = SyntheticConfig {
        side: 32,
        train: pictures,
        restval: 4,
        val: 4,
        test: 12,
        vqa_train: 0,
        nlvr2_train: 0,
        class_train: 0,
        ..SyntheticConfig::default()
    };
    synthetic::write(folder, &config, &mut |_, _| ()).expect("a small world");
}

/// Arguments after `run with` that train a tiny model on the dataset in `data`, relative to the working directory.
pub fn tiny(data: &str, more: &[&str]) -> Vec<String> {
    let data_root = format!("data_root={data}");
    let tokenizer = format!("tokenizer={data}/vocab.txt");
    let fixed = [
        "quickstart",
        &data_root,
        &tokenizer,
        "vocab_size=128",
        "image_size=32",
        "hidden_size=32",
        "depth=1",
        "heads=2",
        "decoder_width=16",
        "decoder_depth=1",
        "decoder_heads=2",
        "batch_size=8",
        "per_gpu_batchsize=4",
        "sanity_steps=0",
        "f32_products=fma",
    ];
    fixed.iter().chain(more).map(|w| w.to_string()).collect()
}

/// The last checkpoint of the first run of [`tiny`] with that `log_dir`.
pub fn last(folder: &Path, log_dir: &str) -> PathBuf {
    checkpoint::last_path(&run_directory(folder, log_dir))
}

/// The directory of that run.
pub fn run_directory(folder: &Path, log_dir: &str) -> PathBuf {
    folder.join(log_dir).join("quickstart_seed0_from_/version_0")
}

/// Panics unless both checkpoints hold the same bits in every tensor, and were taken at the same step.
pub fn assert_same_weights(a: &Path, b: &Path) {
    let (a, b) = (checkpoint::load(a).expect("whole"), checkpoint::load(b).expect("whole"));
    let names: Vec<&str> = a.names().collect();
    assert_eq!(names, b.names().collect::<Vec<_>>());
    assert!(names.iter().any(|n| n.starts_with("optimizer.")));
    for name in names {
        let bits = |c: &checkpoint::Checkpoint| -> Vec<u32> {
            c.values(name).expect("listed").iter().map(|v| v.to_bits()).collect()
        };
        assert_eq!(bits(&a), bits(&b), "{name}");
    }
    assert_eq!(a.state()[checkpoint::STEP_KEY], b.state()[checkpoint::STEP_KEY]);
}
