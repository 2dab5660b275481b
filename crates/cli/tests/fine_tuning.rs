//! End-to-end tests of fine-tuning and of the evaluation of the test split, for each task.

mod support;

use std::path::{Path, PathBuf};
#[cfg(unix)]
use std::process::Command;

use serde_json::Value;
use support::kills::{KilledRun, resume_words, run_words};
use support::{assert_one_line_error, assert_success, run_with, stderr_of, vlct};
use tempfile::TempDir;
use vlct_checkpoint as checkpoint;
use vlct_data::arrow::{LabelKind, LabelRow, LabelWriter};
use vlct_data::random::{Purpose, stream};
use vlct_image::{RgbImage, encode_png};
use vlct_model::files;
use vlct_synthetic::{self as synthetic, SyntheticConfig};

/// Keys of a tiny model whose images have 32 × 32 pixels.
const TINY: [&str; 15] = [
    "tokenizer=data/vocab.txt",
    "vocab_size=128",
    "max_text_len=24",
    "image_size=32",
    "patch_size=8",
    "hidden_size=32",
    "depth=2",
    "heads=2",
    "decoder_width=16",
    "decoder_depth=1",
    "decoder_heads=2",
    "batch_size=8",
    "per_gpu_batchsize=4",
    "sanity_steps=0",
    "f32_products=fma",
];

/// Writes synthetic datasets of captions, questions and pairs to `directory/data`, and a dataset of labels `shapes`.
fn write_data(directory: &Path) {
    let config = SyntheticConfig {
        side: 32,
        train: 24,
        restval: 4,
        val: 12,
        test: 12,
        vqa_train: 16,
        vqa_val: 8,
        vqa_test: 5,
        nlvr2_train: 16,
        nlvr2_dev: 6,
        labels_train: 0,
        class_train: 0,
        ..SyntheticConfig::default()
    };
    synthetic::write(&directory.join("data"), &config, &mut |_, _| ()).expect("synthetic datasets");
    for (split, rows) in [("train", 20), ("val", 6), ("test", 6)] {
        let path = directory.join(format!("data/colours_{split}_0.arrow"));
        let mut writer = LabelWriter::create(path, LabelKind::Single).expect("a writer");
        for row in 0..rows {
            let red = row % 2 == 0;
            let colour = if red { [200, 20, 20] } else { [20, 20, 200] };
            let image = encode_png(&RgbImage::from_fn(32, 32, |_, _| colour.into())).expect("a PNG");
            let labels = [if red { "red" } else { "blue" }.to_string()];
            // Some rows have no text, and some only a text.
            let (image, text) = match row % 5 {
                0 => (Some(&image[..]), None),
                1 => (None, Some("a small circle")),
                _ => (Some(&image[..]), Some("a square")),
            };
            writer
                .push(LabelRow {
                    image,
                    text,
                    labels: Some(&labels),
                    image_id: None,
                    split,
                })
                .expect("a row");
        }
        writer.finish().expect("a file");
    }
}

/// Returns the arguments of a run of `named_config` with the tiny model.
fn arguments(named_config: &str, more: &[&str]) -> Vec<String> {
    // ViLT has no decoder, and a position table of its own.
    let is_vilt = !named_config.contains("mae") && named_config != "task_finetune_labels";
    let sizes = TINY.into_iter().filter(|word| !is_vilt || !word.starts_with("decoder"));
    let words = [named_config, "data_root=data"].into_iter().chain(sizes);
    let words = words.chain(is_vilt.then_some("position_size=48"));
    words.chain(more.iter().copied()).map(str::to_owned).collect()
}

/// Returns the directory of the only run in `log_dir`.
fn only_run(directory: &Path, log_dir: &str) -> PathBuf {
    let experiments: Vec<_> = std::fs::read_dir(directory.join(log_dir)).expect("runs").collect();
    assert_eq!(experiments.len(), 1);
    experiments[0].as_ref().expect("an entry").path().join("version_0")
}

/// Returns the record of `metrics.jsonl` that has the value `name`, and this value.
fn metric(run: &Path, name: &str) -> f64 {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).expect("metrics");
    let records = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let values: Vec<f64> = records.filter_map(|record| record[name].as_f64()).collect();
    *values.last().unwrap_or_else(|| panic!("no value of {name} in {text}"))
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))).expect("JSON")
}

/// `vlct train` names the command for a dataset without captions. It trains on data in a directory whose name has a space, with a model
/// that is smaller than the published one.
#[cfg(unix)]
#[test]
fn the_suggested_command_fine_tunes_a_small_run_as_printed() {
    let directory = TempDir::new().expect("temporary directory");
    let directory = directory.path();
    write_data(directory);
    std::fs::rename(directory.join("data"), directory.join("my data")).expect("renamed");
    let words = [
        &["quickstart", "data_root=my data", "max_steps=2", "log_dir=runs"][..],
        &TINY,
        &["tokenizer=my data/vocab.txt"],
    ];
    assert_success(&run_with(
        directory,
        &words.concat().iter().map(|word| word.to_string()).collect::<Vec<_>>(),
    ));
    let run = only_run(directory, "runs");

    let output = vlct()
        .current_dir(directory)
        .args(["train", "colours", "--data-root", "my data"])
        .output();
    let message = stderr_of(&output.expect("the program starts"));
    let command = message
        .split_once("with vlct ")
        .and_then(|(_, rest)| rest.split_once(" (docs/"));
    let (command, _) = command.unwrap_or_else(|| panic!("no command in {message}"));
    let command = command.replace("load_path=RUN", &format!("load_path={}", run.display()));
    let shell = |more: &str| {
        let line = format!(
            "'{}' {command} max_steps=2 log_dir=tuned sanity_steps=0 {more}",
            env!("CARGO_BIN_EXE_vlct")
        );
        let output = Command::new("sh").current_dir(directory).args(["-c", &line]).output();
        output.expect("a shell")
    };
    let output = shell("");
    assert_success(&output);
    let messages = stderr_of(&output);
    assert!(
        messages.contains("as in the model of load_path: ") && messages.contains("hidden_size=32"),
        "{messages}"
    );
    let config = std::fs::read_to_string(only_run(directory, "tuned").join("config.toml")).expect("a configuration");
    for line in [
        "image_size = 32\n",
        "heads = 2\n",
        "max_text_len = 24\n",
        "tokenizer = \"my data/vocab.txt\"\n",
    ] {
        assert!(config.contains(line), "{line} is not in {config}");
    }
    let output = shell("hidden_size=64");
    assert_one_line_error("a given size stays", &output, &["hidden_size=64 contradicts"]);
}

#[test]
fn killed_and_resumed_runs_have_the_weights_of_an_uninterrupted_run() {
    let directory = TempDir::new().expect("a directory");
    let directory = directory.path();
    write_data(directory);
    let random = &mut stream(11, Purpose::Synthetic, 0, 0);
    for (named_config, exp_name, more) in [
        ("task_finetune_vqa_mae_randaug", "vqa", &["val_check_interval=5"][..]),
        ("task_finetune_nlvr2_mae_randaug", "nlvr2", &["val_check_interval=5"]),
        (
            "task_finetune_irtr_f30k_mae_randaug",
            "irtr",
            &["datasets=[\"coco\"]", "draw_false_text=2", "val_check_interval=11"],
        ),
        (
            "task_finetune_labels",
            "labels",
            &["datasets=[\"colours\"]", "val_check_interval=3"],
        ),
    ] {
        let exp_name_argument = format!("exp_name={exp_name}");
        let arguments = |log_dir: &str| {
            let log_dir = format!("log_dir={log_dir}");
            let mut all = vec![
                &log_dir[..],
                &exp_name_argument,
                "max_steps=60",
                "checkpoint_every=3",
                "limit_val_batches=1",
                "clip_grad_norm=0.5",
                "ema_decay=0.9",
                "ema_evaluation=True",
                "freeze_text_embedding=True",
                "freeze_image_embedding=True",
                "freeze_blocks=1",
            ];
            all.extend(more);
            arguments(named_config, &all)
        };
        let killed_run = KilledRun {
            directory,
            arguments: &|log_dir| run_words(arguments(log_dir)),
            resume: &resume_words,
            run_directory: &|log_dir| directory.join(format!("{log_dir}/{exp_name}_seed0_from_/version_0")),
            milliseconds: 50..450,
        };
        killed_run.assert_same_weights(exp_name, 20, random);
    }
}

#[test]
fn every_task_trains_validates_and_is_tested() {
    let directory = TempDir::new().expect("a directory");
    let directory = directory.path();
    write_data(directory);
    for (named_config, more, train_metric, test_metric) in [
        (
            "task_finetune_vqa_mae_randaug",
            &["val_check_interval=1.0"][..],
            "vqa/train/loss",
            None,
        ),
        (
            "task_finetune_vqa_randaug",
            &["val_check_interval=1.0"],
            "vqa/train/loss",
            None,
        ),
        (
            "task_finetune_nlvr2",
            &[],
            "nlvr2/train/accuracy_epoch",
            Some("nlvr2/test/accuracy_epoch"),
        ),
        (
            "task_finetune_irtr_coco_randaug",
            &["draw_false_text=3"],
            "irtr/train/irtr_loss",
            Some("recalls/ir_r1"),
        ),
        (
            "task_finetune_nlvr2_mae_randaug",
            &[],
            "nlvr2/train/accuracy_epoch",
            Some("nlvr2/test/accuracy_epoch"),
        ),
        (
            "task_finetune_irtr_f30k_mae_randaug",
            &["datasets=[\"coco\"]", "draw_false_text=3"],
            "irtr/train/irtr_loss",
            Some("recalls/ir_r1"),
        ),
        (
            "task_finetune_labels",
            &["datasets=[\"colours\"]", "learning_rate=1e-2"],
            "labels/train/loss",
            Some("labels/val/macro_f1_epoch"),
        ),
    ] {
        let log_dir = format!("log_dir=log-{named_config}");
        let mut training = vec![&log_dir[..], "max_epoch=2", "log_every=1", "f32_products=fma"];
        training.extend(more);
        assert_success(&run_with(directory, &arguments(named_config, &training)));
        let run = only_run(directory, &log_dir["log_dir=".len()..]);
        assert!(metric(&run, train_metric).is_finite());
        metric(&run, "val/the_metric");
        assert!(checkpoint::best_path(&run).is_file());

        let load_path = format!("load_path={}", run.display());
        let test_log = format!("log_dir=test-{named_config}");
        let mut testing = vec![&test_log[..], "test_only=True", &load_path];
        testing.extend(more);
        let output = run_with(directory, &arguments(named_config, &testing));
        assert_success(&output);
        let test_run = only_run(directory, &test_log["log_dir=".len()..]);
        let metrics = json(&test_run.join("metrics.json"));
        if let Some(name) = test_metric {
            assert!(metrics[name].as_f64().is_some(), "{name} in {metrics}");
            let printed = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(printed.contains(name), "{printed}");
        }
        metric(&test_run, "val/the_metric");

        let run = run.display().to_string();
        let output = vlct()
            .current_dir(directory)
            .args(["report", &run])
            .output()
            .expect("the program starts");
        assert_success(&output);
        let page = std::fs::read_to_string(Path::new(&run).join("report.html")).expect("a page");
        let section = if named_config.contains("irtr") {
            "id=\"retrieval\""
        } else {
            "id=\"answers\""
        };
        assert!(
            page.contains(section) && page.contains("id=\"curves\""),
            "{}",
            stderr_of(&output)
        );
        let values = json(&Path::new(&run).join("report.json"));
        assert!(
            values["metrics"].as_object().is_some_and(|metrics| !metrics.is_empty()),
            "{values}"
        );
    }
}

#[test]
fn answers_to_the_test_questions_are_written_once_each() {
    let directory = TempDir::new().expect("a directory");
    let directory = directory.path();
    write_data(directory);
    let train = arguments(
        "task_finetune_vqa_mae_randaug",
        &["max_epoch=1", "val_check_interval=1.0", "log_dir=log", "exp_name=mine"],
    );
    assert_success(&run_with(directory, &train));
    let run = only_run(directory, "log");
    // The weights have the answers, so the training questions are not needed.
    std::fs::remove_file(directory.join("data/vqav2_train.arrow")).expect("removed");
    let load_path = format!("load_path={}", run.display());
    for split in ["test", "test-dev"] {
        let split_key = format!("vqa_test_split={split}");
        let test = arguments(
            "task_finetune_vqa_mae_randaug",
            &["test_only=True", &load_path, "log_dir=test", &split_key],
        );
        assert_success(&run_with(directory, &test));
        let submission = json(&directory.join("result/vqa_submit_mine.json"));
        let answers = submission.as_array().expect("an array");
        assert_eq!(answers.len(), 5 * synthetic::QUESTIONS_PER_IMAGE);
        let mut ids: Vec<i64> = answers
            .iter()
            .map(|a| a["question_id"].as_i64().expect("an id"))
            .collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), answers.len());
        assert!(
            answers
                .iter()
                .all(|a| a["answer"].as_str().is_some_and(|text| !text.is_empty()))
        );
    }
    let output = run_with(
        directory,
        &arguments(
            "task_finetune_vqa_mae_randaug",
            &["test_only=True", "load_path=missing.ckpt"],
        ),
    );
    assert_one_line_error("missing weights", &output, &["missing.ckpt"]);

    // A list of answers of another length is an error, and the submission remains.
    let before = json(&directory.join("result/vqa_submit_mine.json"));
    let state = files::read(&checkpoint::last_path(&run)).expect("weights").state;
    let without_answers = directory.join("mine.pth");
    files::write(&without_answers, &state, &files::Style::Vlc.into()).expect("written");
    std::fs::write(directory.join("short.json"), "[\"yes\", \"no\"]").expect("written");
    let keys = ["test_only=True", "load_path=mine.pth", "vqa_answers=short.json"];
    let output = run_with(directory, &arguments("task_finetune_vqa_mae_randaug", &keys));
    assert_one_line_error("short list", &output, &["short.json: 2 answers"]);
    assert_eq!(json(&directory.join("result/vqa_submit_mine.json")), before);
}

#[test]
fn annotations_give_the_official_accuracy() {
    let directory = TempDir::new().expect("a directory");
    let directory = directory.path();
    write_data(directory);
    let questions = vlct_data::arrow::ArrowTable::open(directory.join("data/vqav2_rest_val.arrow")).expect("a table");
    let mut annotations = Vec::new();
    for row in 0..questions.rows() {
        for question in questions.questions(row).expect("questions") {
            let answers = vec![serde_json::json!({"answer": question.answers[0].0}); 10];
            annotations.push(serde_json::json!({"question_id": question.question_id, "answers": answers}));
        }
    }
    let write = |name: &str, annotations: &[Value]| {
        let content = serde_json::json!({"annotations": annotations}).to_string();
        std::fs::write(directory.join(name), content).expect("a file");
    };
    write("annotations.json", &annotations);
    write("other.json", &[serde_json::json!({"question_id": -1, "answers": []})]);
    let train = |annotations: &str| {
        let annotations = format!("vqa_annotations={annotations}");
        let more = ["max_epoch=1", "val_check_interval=1.0", "log_dir=log", &annotations];
        run_with(directory, &arguments("task_finetune_vqa_mae_randaug", &more))
    };
    let output = train("other.json");
    assert_one_line_error(
        "annotations of other questions",
        &output,
        &["other.json", "none of its question ids"],
    );
    assert_success(&train("annotations.json"));
    let run = only_run(directory, "log");
    // Every question has one answer with the score 1, which all annotators gave.
    assert_eq!(
        metric(&run, "vqa/val/accuracy_epoch"),
        metric(&run, "vqa/val/score_epoch")
    );
}

#[test]
fn contradictions_of_data_and_weights_are_one_line() {
    let directory = TempDir::new().expect("a directory");
    let directory = directory.path();
    write_data(directory);
    let labels = arguments(
        "task_finetune_labels",
        &["datasets=[\"colours\"]", "max_epoch=1", "log_dir=log"],
    );
    assert_success(&run_with(directory, &labels));
    let run = only_run(directory, "log");

    let vqa = |more: &[&str]| run_with(directory, &arguments("task_finetune_vqa_mae_randaug", more));
    let output = vqa(&["vqav2_label_size=3", "max_epoch=1"]);
    assert_one_line_error(
        "too few answers",
        &output,
        &["vqav2_label_size=3", "set vqav2_label_size="],
    );
    let output = vqa(&["datasets=[\"colours\"]", "max_epoch=1"]);
    assert_one_line_error("other contents", &output, &["colours"]);

    // A label that only validation has.
    let mut writer =
        LabelWriter::create(directory.join("data/colours_val_0.arrow"), LabelKind::Single).expect("a writer");
    let row = LabelRow {
        image: None,
        text: Some("a square"),
        labels: Some(&["green".to_string()]),
        image_id: None,
        split: "val",
    };
    writer.push(row).expect("a row");
    writer.finish().expect("a file");
    let output = run_with(directory, &labels);
    assert_one_line_error("a new label", &output, &["\"green\"", "val split", "training split"]);

    let load_path = format!("load_path={}", run.display());
    let test = ["test_only=True", &load_path, "resume_from=x"];
    let output = vqa(&test);
    // The checkpoint of labels has no question-answering head.
    assert!(stderr_of(&output).contains("vqa_classifier"), "{}", stderr_of(&output));
    let output = vqa(&["test_only=True", &load_path]);
    assert_one_line_error(
        "no head",
        &output,
        &["vqa_classifier", "weights that were trained for this task"],
    );
    assert!(!directory.join("result").exists(), "a random head must not answer");
}
