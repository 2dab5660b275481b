//! Files for tests of `vlct predict`, and the program and the library with equal settings.

#![allow(dead_code, reason = "each test file uses some of these functions")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::{assert_success, vlct};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use tempfile::TempDir;
use vlct_checkpoint::{self as checkpoint, TensorRef};
use vlct_image::{RgbImage, TransformKind, TransformSpec, encode_png};
use vlct_model::config::{Backbone, Heads};
use vlct_model::initialise::initialise;
use vlct_model::{ModelConfig, Vlc, VlcConfig};
use vlct_predict::{Head, Item, OpenOptions, Predictor};
use vlct_tasks::description::WeightsKind;
use vlct_tasks::labels::LabelsSpec;
use vlct_tasks::{Description, InputSpec, TaskSpec};
use vlct_tensor::Precision;
use vlct_text::Tokenizer;

/// A directory with images, a vocabulary and answers that fit the golden checkpoints, which are in `golden`.
pub struct Files {
    directory: TempDir,
    golden: PathBuf,
}

impl Files {
    /// Writes the files.
    pub fn new() -> Self {
        let golden = vlct_golden::directories("model")[0].clone();
        let sizes = vlct_golden::json(golden.join("config.json"));
        let size = |key: &str| sizes[key].as_u64().expect("a size") as usize;
        let directory = TempDir::new().expect("a directory");
        let files = Self { directory, golden };
        let words = "a b c red blue circle square is the".split(' ').map(str::to_owned);
        let tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
            .map(str::to_owned)
            .into_iter();
        let tokens: Vec<String> = tokens
            .chain(words)
            .chain((0..).map(|i| format!("w{i}")))
            .take(size("vocab_size"))
            .collect();
        files.write("vocab.txt", tokens.join("\n").as_bytes());
        let answers: Vec<String> = (0..size("vqa_labels")).map(|i| format!("answer {i}")).collect();
        files.write("answers.json", json!(answers).to_string().as_bytes());
        for (name, shift) in [
            ("one.png", 0),
            ("two.png", 90),
            ("photos/b.png", 10),
            ("photos/a.png", 50),
        ] {
            files.write(name, &image(shift));
        }
        files
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        std::fs::write(path, bytes).expect("written");
    }

    /// Returns the command `vlct predict TASK` with a golden checkpoint, in f32.
    pub fn command(&self, task: &str, checkpoint: &str) -> Command {
        let mut command = vlct();
        command.current_dir(self.directory.path());
        command.args([
            "predict",
            task,
            "--tokenizer",
            "vocab.txt",
            "--precision",
            "f32",
            "--load",
        ]);
        command.arg(self.golden.join(checkpoint));
        command
    }

    pub fn run(&self, task: &str, checkpoint: &str, arguments: &[&str]) -> Output {
        self.command(task, checkpoint)
            .args(arguments)
            .output()
            .expect("the program starts")
    }

    /// Runs a command that must succeed and returns the JSON documents that it prints.
    pub fn documents(&self, task: &str, checkpoint: &str, arguments: &[&str]) -> Vec<Value> {
        let output = self
            .command(task, checkpoint)
            .arg("--json")
            .args(arguments)
            .output()
            .expect("the program starts");
        assert_success(&output);
        documents(&output)
    }

    /// Opens a golden checkpoint with the settings of [`Self::command`].
    pub fn open(&self, checkpoint: &str, heads: &[Head]) -> Predictor {
        let options = OpenOptions {
            tokenizer: Some(Tokenizer::from_file(self.path("vocab.txt"), true).expect("a vocabulary")),
            precision: Some(Precision::F32),
            ..OpenOptions::default()
        };
        Predictor::open(&self.golden.join(checkpoint), heads, &options).expect("a predictor")
    }

    pub fn item(&self, predictor: &Predictor, image: &str, text: &str) -> Item {
        Item {
            image: Some(
                predictor
                    .preparation()
                    .image(&self.path(image))
                    .expect("an image")
                    .values,
            ),
            text: predictor.preparation().text(text).expect("a text"),
        }
    }
}

/// Returns an image file, larger than the model's images, with a pattern.
pub fn image(shift: u8) -> Vec<u8> {
    let image = RgbImage::from_fn(90, 70, |x, y| {
        let (x, y) = (x as u8, y as u8);
        vlct_image::Rgb([
            x.wrapping_mul(2).wrapping_add(shift),
            y.wrapping_mul(3),
            (x ^ y).wrapping_add(shift),
        ])
    });
    encode_png(&image).expect("encoded")
}

pub fn documents(output: &Output) -> Vec<Value> {
    let text = String::from_utf8(output.stdout.clone()).expect("UTF-8");
    text.lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

/// Names of the labels of [`write_label_checkpoint`].
pub const LABELS: [&str; 3] = ["news", "sport", "weather"];

/// Writes the best checkpoint of a run with a small random model for labels. With `several`, an item may have several labels.
pub fn write_label_checkpoint(run: &Path, vocabulary: &Path, several: bool) {
    let tokenizer = Tokenizer::from_file(vocabulary, true).expect("a vocabulary");
    let config = VlcConfig {
        image_size: 32,
        backbone: Backbone {
            patch_size: 16,
            width: 32,
            depth: 1,
            heads: 2,
            decoder_width: 16,
            decoder_depth: 1,
            decoder_heads: 2,
        },
        vocab_size: tokenizer.len(),
        max_text_len: 16,
        token_types: 2,
        variant: vlct_model::config::Variant::VLC,
        drop_rate: 0.0,
        heads: Heads {
            labels: Some(LABELS.len()),
            ..Heads::default()
        },
    };
    let mut model = Vlc::new(config);
    initialise(&mut model, ChaCha8Rng::seed_from_u64);
    let inputs = InputSpec {
        format: TransformSpec::Named(TransformKind::MaeTest).published_format(32),
        train_transform: TransformKind::MaeRandaug.into(),
        eval_transform: TransformKind::MaeTest.into(),
        tokenizer,
        max_patches: None,
        max_text_len: 16,
    };
    let task = TaskSpec::Labels(LabelsSpec {
        names: LABELS.map(str::to_owned).into(),
        several,
    });
    let description = Description::new(
        &ModelConfig::Vlc(model.config().clone()),
        &task,
        &inputs,
        None,
        WeightsKind::Raw,
    );
    let tensors: Vec<TensorRef> = TensorRef::of_parameters(model.parameters()).collect();
    let path = checkpoint::best_path(run);
    std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
    let description = serde_json::to_value(&description).expect("JSON");
    checkpoint::save(&path, &tensors, &Value::Null, &description).expect("saved");
}
