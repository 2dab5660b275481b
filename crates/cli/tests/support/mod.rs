//! A small world and a small model, and how to run the program on them.

#![allow(dead_code, reason = "each test file uses a part")]

use std::path::Path;
use std::process::{Command, Output};
use vlct_data::world::{self, WorldConfig};

/// The program.
pub fn vlct() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vlct"));
    command.env_remove("RUST_BACKTRACE");
    command
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
pub fn write_world(folder: &Path, pictures: usize) {
    let config = WorldConfig {
        side: 32,
        train: pictures,
        restval: 4,
        val: 4,
        test: 12,
        vqa_train: 0,
        nlvr2_train: 0,
        class_train: 0,
        ..WorldConfig::default()
    };
    world::write(folder, &config, &mut |_, _| ()).expect("a small world");
}

/// The words of a run of a tiny model on the world in `data`, relative to the working folder.
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
    ];
    fixed.iter().chain(more).map(|w| w.to_string()).collect()
}
