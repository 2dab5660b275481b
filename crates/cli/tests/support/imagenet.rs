//! Functions of the tests of `vlct imagenet`: a small dataset of classes, a tiny classifier, and its outputs.

use std::path::Path;
use std::process::Output;

use serde_json::Value;
use vlct_synthetic::{self as synthetic, SyntheticConfig};

use super::vlct_in;

/// Writes images of 32 × 32 pixels of one shape each to `data/classes/train/SHAPE` and `data/classes/val/SHAPE`.
pub fn write_classes(directory: &Path, train: usize) {
    let config = SyntheticConfig {
        side: 32,
        train: 1,
        restval: 1,
        val: 1,
        test: 1,
        vqa_train: 0,
        nlvr2_train: 0,
        labels_train: 0,
        class_train: train,
        class_val: 20,
        ..SyntheticConfig::default()
    };
    synthetic::write(&directory.join("data"), &config, &mut |_, _| ()).expect("a synthetic dataset");
}

/// Returns the words of a run of a tiny classifier that writes to `out`.
pub fn words(out: &str, more: &[&str]) -> Vec<String> {
    let fixed = [
        "imagenet",
        "--data_path",
        "data/classes",
        "--output_dir",
        out,
        "--model",
        "vit_base_patch16",
        "--patch_size",
        "8",
        "--width",
        "16",
        "--depth",
        "2",
        "--heads",
        "2",
        "--input_size",
        "32",
        "--batch_size",
        "4",
        "--warmup_epochs",
        "1",
        "--num_workers",
        "2",
    ];
    fixed.iter().chain(more).map(|word| word.to_string()).collect()
}

pub fn imagenet(directory: &Path, out: &str, more: &[&str]) -> Output {
    let words = words(out, more);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    vlct_in(directory, &words)
}

/// Returns the objects in `log.txt`.
pub fn log(out: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(out.join("log.txt")).expect("a log");
    text.lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

/// Returns the rows of a table whose cells have no commas, without its header.
pub fn csv_rows(path: &Path) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(path).expect("a table");
    let cells = |line: &str| line.split(',').map(str::to_owned).collect();
    text.lines().skip(1).map(cells).collect()
}
