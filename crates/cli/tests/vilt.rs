//! End-to-end tests of ViLT: predictions with recorded models, and fine-tuning with its recipes on images of different proportions.

mod support;

use std::path::{Path, PathBuf};

use serde_json::Value;
use support::{assert_one_line_error, assert_same_checkpoint, assert_success, run_with, stderr_of, vlct_in};
use tempfile::TempDir;
use vlct_checkpoint as checkpoint;
use vlct_image::{RgbImage, encode_png};
use vlct_model::config::Positions;
use vlct_tasks::Description;

/// Sides of the images, in pixels.
const SIZES: [(u32, u32); 4] = [(96, 40), (40, 96), (50, 50), (120, 37)];

fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden_vilt");
    root.canonicalize().expect("golden data")
}

/// Writes questions about images of different proportions as the datasets `colours` (training) and `colours` (validation).
fn write_questions(directory: &Path) {
    std::fs::create_dir_all(directory.join("photos/train")).expect("a directory");
    std::fs::create_dir_all(directory.join("photos/val")).expect("a directory");
    std::fs::create_dir_all(directory.join("photos/test")).expect("a directory");
    let mut table = String::from("image,question,answer,split\n");
    for (split, count) in [("train", 16), ("val", 6), ("test", 6)] {
        for i in 0..count {
            let (width, height) = SIZES[i % SIZES.len()];
            let (colour, name) = [([210, 20, 20], "red"), ([20, 20, 210], "blue")][i % 2];
            let image = encode_png(&RgbImage::from_pixel(width, height, colour.into())).expect("a PNG");
            let file = format!("{split}/{i}.png");
            std::fs::write(directory.join("photos").join(&file), image).expect("written");
            table.push_str(&format!("{file},what colour is it?,{name},{split}\n"));
        }
    }
    std::fs::write(directory.join("questions.csv"), table).expect("written");
    let words = "prepare csv --root photos --annotations questions.csv --name colours --out data";
    assert_success(&vlct_in(directory, &words.split(' ').collect::<Vec<_>>()));
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Returns the directory of the only run in `log_dir`.
fn only_run(directory: &Path, log_dir: &str) -> PathBuf {
    let experiments: Vec<_> = std::fs::read_dir(directory.join(log_dir)).expect("runs").collect();
    assert_eq!(experiments.len(), 1);
    experiments[0].as_ref().expect("an entry").path().join("version_0")
}

#[test]
fn models_of_hugging_face_answer_without_further_options() {
    let root = root();
    let image = root.join("images/panorama.png");
    let image = image.to_str().expect("a path");
    let config: Value = vlct_golden::json(root.join("hf/vqa/config.json"));
    let answers: Vec<&Value> = config["id2label"].as_object().expect("names").values().collect();
    let mut outputs = Vec::new();
    for (reference, options) in [
        ("hf/vqa", &["--image", image, "--question", "What is it?"][..]),
        ("hf/vqa_bin", &[image, "What is it?"]),
    ] {
        let load = format!("local-dir:{}", root.join(reference).display());
        let arguments = [
            &["predict", "vqa", "--json", "--precision", "f32", "--load", &load],
            options,
        ]
        .concat();
        let output = vlct_in(&root, &arguments);
        assert_success(&output);
        let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert!(answers.contains(&&found[0]["answer"]), "{found}");
        outputs.push(found);
    }
    assert_eq!(outputs[0], outputs[1]);
    let inspected = vlct_in(&root, &["inspect", "hf/vqa"]);
    assert_success(&inspected);
    let text = String::from_utf8_lossy(&inspected.stdout).into_owned();
    for part in ["ViLT, heads: visual question answering", "a shorter side of 64 pixels"] {
        assert!(text.contains(part), "{text}");
    }
    let output = vlct_in(&root, &["predict", "vqa", "--load", "hf/vqa", "--image", image]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn contradictions_and_unsupported_settings_are_one_line() {
    let directory = TempDir::new().expect("a directory");
    let root = root();
    for file in [
        "model.safetensors",
        "config.json",
        "preprocessor_config.json",
        "vocab.txt",
    ] {
        std::fs::copy(root.join("hf/vqa").join(file), directory.path().join(file)).expect("copied");
    }
    let image = root.join("images/wide.png").display().to_string();
    for (file, key, value, parts) in [
        (
            "config.json",
            "patch_size",
            Value::from(16),
            &["config.json has patch_size = 16", "the tensors have 8"][..],
        ),
        (
            "preprocessor_config.json",
            "resample",
            Value::from(2),
            &["preprocessor_config.json", "resample is 2"],
        ),
        (
            "preprocessor_config.json",
            "size_divisor",
            Value::from(12),
            &["multiples of 12 pixels", "patches of 8"],
        ),
        (
            "preprocessor_config.json",
            "image_std",
            serde_json::json!([0.5, 0.0, 0.5]),
            &["cannot be normalised"],
        ),
    ] {
        let path = directory.path().join(file);
        let right = std::fs::read(&path).expect("a file");
        let mut changed: Value = serde_json::from_slice(&right).expect("JSON");
        changed[key] = value;
        std::fs::write(&path, changed.to_string()).expect("written");
        let output = vlct_in(directory.path(), &["predict", "vqa", "--load", ".", &image, "what?"]);
        assert_one_line_error(key, &output, parts);
        std::fs::write(&path, right).expect("written");
    }
    let output = vlct_in(directory.path(), &["predict", "vqa", "--load", ".", &image, "what?"]);
    assert_success(&output);
}

#[test]
fn weights_of_hugging_face_are_fine_tuned_on_images_of_any_proportions() {
    let directory = TempDir::new().expect("a directory");
    let directory = directory.path();
    write_questions(directory);
    let load_path = format!("load_path={}", root().join("hf/mlm").display());
    let output = run_with(
        directory,
        &words(&[
            "task_finetune_vqa_randaug",
            "data_root=data",
            "datasets=colours",
            &load_path,
            "max_steps=12",
            "batch_size=4",
            "per_gpu_batchsize=2",
            "learning_rate=3e-3",
            "val_check_interval=1.0",
            "checkpoint_every=1",
            "f32_products=fma",
            "precision=32",
            "log_dir=whole",
        ]),
    );
    assert_success(&output);
    assert!(
        stderr_of(&output).contains("as in the model of load_path"),
        "{}",
        stderr_of(&output)
    );
    let printed = vlct_in(
        directory,
        &[
            "run",
            "print_config",
            "with",
            "task_finetune_vqa",
            &load_path,
            "depth=1",
        ],
    );
    assert_success(&printed);
    let message = stderr_of(&printed);
    assert!(
        message.contains("no others are taken from load_path") && message.contains("hidden_size=24"),
        "{message}"
    );
    let run = only_run(directory, "whole");
    let config = std::fs::read_to_string(run.join("config.toml")).expect("a configuration");
    for line in [
        "hidden_size = 24\n",
        "position_size = 64\n",
        "layer_norm_eps = 0.000000000001\n",
        "vit = \"vit_base_patch32_384\"\n",
    ] {
        assert!(config.contains(line), "{line} is not in {config}");
    }
    let description = Description::of_file(&checkpoint::last_path(&run))
        .expect("readable")
        .expect("a description");
    let variant = description.model.vlc().variant;
    assert_eq!((variant.positions, variant.layer_norm_eps), (Positions::Learned, 1e-12));
    assert!(description.inputs.eval_transform.keeps_proportions());
    assert_eq!(description.inputs.mean, [0.5; 3]);
    // The position table has learned.
    let last = checkpoint::load(&checkpoint::last_path(&run)).expect("a checkpoint");
    let mut table = vec![0.0; 65 * 24];
    last.copy_to("transformer.pos_embed", &[1, 65, 24], &mut table)
        .expect("a table");
    let initial = vlct_model::files::read(&root().join("hf/mlm")).expect("weights").state;
    let initial = initial
        .get("transformer.pos_embed")
        .cloned()
        .and_then(|tensor| tensor.into_f32())
        .expect("a table");
    let moved = table
        .iter()
        .zip(&initial)
        .filter(|(new, old)| (*new - *old).abs() > 1e-4)
        .count();
    assert!(moved > table.len() / 2, "{moved} of {}", table.len());

    let run_path = run.display().to_string();
    let output = vlct_in(
        directory,
        &[
            "predict",
            "vqa",
            "--json",
            "--load",
            &run_path,
            "photos/val/0.png",
            "what colour is it?",
        ],
    );
    assert_success(&output);
    let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(
        ["red", "blue"].map(Value::from).contains(&answer[0]["answer"]),
        "{answer}"
    );

    // A PyTorch file determines the sizes, too.
    let load_path = format!("load_path={}", root().join("native/mlm_itm.ckpt").display());
    let tokenizer = format!("tokenizer={}", root().join("vocab.txt").display());
    let native = [
        "task_finetune_vqa",
        "data_root=data",
        "datasets=colours",
        &load_path,
        &tokenizer,
        "max_steps=1",
        "batch_size=4",
        "per_gpu_batchsize=4",
        "threads=1",
        "log_dir=native",
    ];
    assert_success(&run_with(directory, &words(&native)));

    // A test with squares is an error that names the keys.
    let test = |more: &[&str]| {
        let load_path = format!("load_path={run_path}");
        let all = [
            &[
                "task_finetune_vqa",
                "data_root=data",
                "datasets=colours",
                "test_only=True",
                "per_gpu_batchsize=2",
                "log_dir=test",
            ][..],
            &[&load_path],
            more,
        ];
        run_with(directory, &words(&all.concat()))
    };
    let squares = ["train_transform_keys=mae", "val_transform_keys=mae_test"];
    assert_one_line_error(
        "squares",
        &test(&squares),
        &["keep their proportions", "val_transform_keys=pixelbert"],
    );
}

#[test]
fn killed_runs_of_vilt_resume_with_the_same_weights() {
    let directory = TempDir::new().expect("a directory");
    let directory = directory.path();
    write_questions(directory);
    let load_path = format!("load_path={}", root().join("hf/mlm").display());
    let arguments = |log_dir: &str| {
        let log_dir = format!("log_dir={log_dir}");
        support::kills::run_words(words(&[
            "task_finetune_vqa_randaug",
            "data_root=data",
            "datasets=colours",
            &load_path,
            "exp_name=vilt",
            "max_steps=40",
            "max_image_len=20",
            "batch_size=4",
            "per_gpu_batchsize=2",
            "val_check_interval=1.0",
            "checkpoint_every=2",
            "f32_products=fma",
            &log_dir,
        ]))
    };
    let killed_run = support::kills::KilledRun {
        directory,
        arguments: &arguments,
        resume: &support::kills::resume_words,
        run_directory: &|log_dir| directory.join(format!("{log_dir}/vilt_seed0_from_mlm/version_0")),
        milliseconds: 50..400,
    };
    let random = &mut vlct_data::random::stream(12, vlct_data::random::Purpose::Synthetic, 0, 0);
    let runs = killed_run.assert_same_weights("vilt", 6, random);
    assert_same_checkpoint(&checkpoint::last_path(&runs[0]), &checkpoint::last_path(&runs[1]));
}
