//! Functions of the end-to-end tests: running the program, a small synthetic dataset, a small model.

#![allow(dead_code, reason = "each test file uses some of these functions")]

pub mod imagenet;
pub mod kills;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use vlct_checkpoint as checkpoint;
use vlct_synthetic::{self as synthetic, SyntheticConfig};

/// Returns the command that starts the program, without arguments.
pub fn vlct() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vlct"));
    command.env_remove("RUST_BACKTRACE");
    // Tests compare bits and messages of the CPU, also on a machine with a GPU.
    command.env("CUDA_VISIBLE_DEVICES", "");
    command
}

/// Runs the program with these arguments. Returns exit status, standard output and standard error.
pub fn run(arguments: &[&str]) -> (i32, String, String) {
    let output = vlct().args(arguments).output().expect("the program starts");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    let status = output.status.code().expect("an exit status");
    (status, text(output.stdout), text(output.stderr))
}

/// Runs `vlct run with ARGUMENTS` in `directory`.
pub fn run_with(directory: &Path, arguments: &[String]) -> Output {
    vlct()
        .current_dir(directory)
        .arg("run")
        .arg("with")
        .args(arguments)
        .output()
        .expect("the program starts")
}

/// Runs `vlct WORDS` in `directory`.
pub fn vlct_in(directory: &Path, words: &[&str]) -> Output {
    vlct()
        .current_dir(directory)
        .args(words)
        .output()
        .expect("the program starts")
}

/// Returns standard output as text.
pub fn stdout_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Returns standard error as text.
pub fn stderr_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Panics unless the program succeeded.
pub fn assert_success(output: &Output) {
    assert!(output.status.success(), "{}: {}", output.status, stderr_of(output));
}

/// Panics unless the program failed with exit status 1 and one line `error: …` that contains all `parts`. `case`
/// begins the panic message.
pub fn assert_one_line_error(case: &str, output: &Output, parts: &[&str]) {
    let text = stderr_of(output);
    assert_eq!(output.status.code(), Some(1), "{case}: {text}");
    let errors: Vec<&str> = text.lines().filter(|l| l.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{case}: {text}");
    assert!(!text.contains("panicked"), "{case}: {text}");
    for part in parts {
        assert!(errors[0].contains(part), "{case}: {part:?} is not in {}", errors[0]);
    }
}

/// Writes a synthetic caption dataset with images of 32 × 32 pixels, and a vocabulary, to `directory`. The splits `train`, `restval`,
/// `val` and `test` have `train_images`, 4, 4 and 12 images.
pub fn write_synthetic(directory: &Path, train_images: usize) {
    let config = SyntheticConfig {
        side: 32,
        train: train_images,
        restval: 4,
        val: 4,
        test: 12,
        vqa_train: 0,
        nlvr2_train: 0,
        labels_train: 0,
        class_train: 0,
        ..SyntheticConfig::default()
    };
    synthetic::write(directory, &config, &mut |_, _| ()).expect("a synthetic dataset");
}

/// Keys of a model that trains in milliseconds.
pub const TINY_SIZES: [&str; 8] = [
    "image_size=32",
    "patch_size=8",
    "hidden_size=32",
    "depth=1",
    "heads=2",
    "decoder_width=16",
    "decoder_depth=1",
    "decoder_heads=2",
];

/// Returns the arguments of `vlct run with` for a tiny model and the dataset at `data` (relative to the working directory), followed by
/// `more`.
pub fn tiny_model_arguments(data: &str, more: &[&str]) -> Vec<String> {
    let data_root = format!("data_root={data}");
    let tokenizer = format!("tokenizer={data}/vocab.txt");
    let fixed = [
        "quickstart",
        &data_root,
        &tokenizer,
        "vocab_size=128",
        "batch_size=8",
        "per_gpu_batchsize=4",
        "sanity_steps=0",
        "f32_products=fma",
    ];
    let words = fixed.iter().chain(&TINY_SIZES).chain(more);
    words.map(|w| w.to_string()).collect()
}

/// Returns the path of the last checkpoint of the first run with [`tiny_model_arguments`] and this `log_dir`.
pub fn last_checkpoint(directory: &Path, log_dir: &str) -> PathBuf {
    checkpoint::last_path(&run_directory(directory, log_dir))
}

/// Returns the directory of the first run with [`tiny_model_arguments`] and this `log_dir`.
pub fn run_directory(directory: &Path, log_dir: &str) -> PathBuf {
    directory.join(log_dir).join("quickstart_seed0_from_/version_0")
}

/// Panics unless both checkpoints have the same step and the same bits in every tensor.
pub fn assert_same_checkpoint(a: &Path, b: &Path) {
    let (a, b) = (
        checkpoint::load(a).expect("a valid checkpoint"),
        checkpoint::load(b).expect("a valid checkpoint"),
    );
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
