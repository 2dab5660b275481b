//! End-to-end tests of directories for Hugging Face's transformers, and of files of ViLT.

mod support;

use std::path::{Path, PathBuf};

use serde_json::Value;
use support::{
    assert_one_line_error, assert_success, run_directory, run_with, stderr_of, stdout_of, tiny_model_arguments,
    vlct_in, write_synthetic,
};
use tempfile::TempDir;
use vlct_golden::Tensors;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden_vilt")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Returns the scores of the most probable words in place of `[MASK]`, or the message of the error.
fn predicted(directory: &Path, weights: &str, task: &[&str]) -> Result<Value, String> {
    let words = [
        &["predict", task[0], "--load", weights, "--json", "--precision", "f32"],
        &task[1..],
    ]
    .concat();
    let output = vlct_in(directory, &words);
    match output.status.success() {
        true => Ok(serde_json::from_str(&stdout_of(&output)).expect("JSON")),
        false => Err(stderr_of(&output)),
    }
}

#[test]
fn a_run_becomes_a_directory_that_predicts_the_same_words() {
    let directory = TempDir::new().expect("a temporary directory");
    let directory = directory.path();
    write_synthetic(&directory.join("data"), 24);
    let more = [
        "max_steps=2",
        "val_check_interval=2",
        "limit_val_batches=1",
        "log_dir=runs",
    ];
    assert_success(&run_with(directory, &tiny_model_arguments("data", &more)));
    let run = run_directory(directory, "runs");
    let output = vlct_in(directory, &["convert", text(&run), "model", "--style", "hf"]);
    assert_success(&output);
    let out = stdout_of(&output);
    for part in [
        "wrote model of ",
        "checkpoint.safetensors: ViltForMaskedLM",
        "left out",
        "license is unknown",
    ] {
        assert!(out.contains(part), "{part:?} is not in {out}");
    }
    let config = vlct_golden::json(directory.join("model/config.json"));
    assert_eq!(config["architectures"], serde_json::json!(["ViltForMaskedLM"]));
    assert_eq!(
        (&config["image_size"], &config["num_attention_heads"]),
        (&32.into(), &2.into())
    );
    let images = vlct_golden::json(directory.join("model/preprocessor_config.json"));
    assert_eq!(images["size"], serde_json::json!({"height": 32, "width": 32}));
    let card = std::fs::read_to_string(directory.join("model/README.md")).expect("a card");
    for part in [
        "license: other",
        "datasets:\n- \"coco\"",
        "Optimiser steps: 1",
        "best value in validation",
    ] {
        assert!(card.contains(part), "{part:?} is not in {card}");
    }

    // Files of this program and of ViLT, made of the directory and of the run, predict the same.
    for (from, to) in [
        ("model", "back.safetensors"),
        ("model", "vilt.ckpt"),
        (text(&run), "vlc.ckpt"),
    ] {
        assert_success(&vlct_in(directory, &["convert", from, to, "--style", "vilt"]));
    }
    let table = vlct_data::arrow::ArrowTable::open(directory.join("data/coco_caption_karpathy_val.arrow"));
    let table = table.expect("an Arrow file");
    std::fs::write(directory.join("image.png"), table.image(0, "image").expect("an image")).expect("written");
    let of =
        |weights: &str| predicted(directory, weights, &["fill", "image.png", "a [MASK] circle"]).expect("predicted");
    let of_run = of(text(&run));
    assert_eq!(of("vlc.ckpt"), of_run);
    let of_directory = of("model");
    for weights in ["back.safetensors", "vilt.ckpt"] {
        assert_eq!(of(weights), of_directory, "{weights}");
    }
}

#[test]
fn a_published_file_becomes_the_recorded_directory_and_a_file_of_vilt_again() {
    let temporary = TempDir::new().expect("a temporary directory");
    let (directory, root) = (temporary.path(), golden());
    let [input, vocabulary, answers] =
        ["export/vlc_vqa.ckpt", "vocab.txt", "export/hf/config.json"].map(|name| root.join(name));
    let words = [
        "convert",
        text(&input),
        "model",
        "--style",
        "hf",
        "--license",
        "cc-by-4.0",
    ];
    let names = [
        "--tokenizer",
        text(&vocabulary),
        "--answers",
        text(&answers),
        "--head",
        "vqa",
    ];
    let output = vlct_in(directory, &[&words[..], &names].concat());
    assert_success(&output);
    assert!(stderr_of(&output).contains("ε"), "{}", stderr_of(&output));
    let (got, want) = (
        Tensors::open(directory.join("model/model.safetensors")),
        Tensors::open(root.join("export/hf/model.safetensors")),
    );
    assert_eq!(got.names(), want.names());
    for name in want.names() {
        assert!(got.f32(&name) == want.f32(&name), "{name}");
    }
    let image = root.join("images/wide.png");
    let task = ["vqa", text(&image), "what is this ?"];
    let recorded = predicted(directory, text(&root.join("export/hf")), &task).expect("predicted");
    assert_eq!(predicted(directory, "model", &task), Ok(recorded.clone()));
    assert_success(&vlct_in(
        directory,
        &["convert", "model", "vilt.ckpt", "--style", "vilt"],
    ));
    assert_eq!(predicted(directory, "vilt.ckpt", &task), Ok(recorded));
    // The result is not overwritten, and options are of one style.
    let again = vlct_in(directory, &[&words[..], &names].concat());
    assert_one_line_error(
        "again",
        &again,
        &["model: exists and is not an empty directory", "name another directory"],
    );
    let output = vlct_in(directory, &["convert", text(&input), "a.ckpt", "--license", "mit"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr_of(&output).contains("add --style hf"), "{}", stderr_of(&output));
    let output = vlct_in(
        directory,
        &["convert", text(&input), "b", "--style", "hf", "--license", "a b"],
    );
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn errors_say_which_option_helps() {
    let temporary = TempDir::new().expect("a temporary directory");
    let (directory, root) = (temporary.path(), golden());
    let export = |input: &str, more: &[&str]| {
        let input = root.join(input);
        vlct_in(
            directory,
            &[&["convert", text(&input), "model", "--style", "hf"], more].concat(),
        )
    };
    assert_one_line_error(
        "vocabulary",
        &export("native/vqa.ckpt", &[]),
        &["vqa.ckpt", "30522 tokens", "--tokenizer takes the vocab.txt"],
    );
    assert_one_line_error(
        "head",
        &export("hf/vqa", &["--head", "nlvr2"]),
        &[
            "no head for statements about two images",
            "it has: visual question answering",
        ],
    );
    assert_one_line_error("classifier", &export("vit", &[]), &["model.safetensors"]);
    assert_one_line_error(
        "heads",
        &vlct_in(
            directory,
            &["convert", text(&root.join("mae")), "a.ckpt", "--style", "vilt"],
        ),
        &["model.safetensors", "no tensor"],
    );
    assert!(!directory.join("model").exists());
}
