//! Fine-tuning on the downstream tasks: from the pre-trained weights, and from scratch with equally many steps.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use log::info;
use vlct_checkpoint::last_path;
use vlct_config::{Config, LossNames};
use vlct_data::datasets::Split;
use vlct_tasks::text_baseline::{BaselineScores, baseline_scores};
use vlct_train::spec::RunSpec;
use vlct_train::trainer::{self, Control};
use vlct_train::{TrainError, data};

use super::error::{QuickstartError, Result};
use super::{RunLength, evaluation, load_last};
use crate::{Metric, NumberFormat};
use vlct_util::text::counted;

/// Number of false captions per image when fine-tuning for retrieval.
const FALSE_CAPTIONS: u64 = 7;

/// A downstream task.
#[derive(Clone, Copy)]
pub(super) struct Downstream {
    /// The name in directories and keys of metrics.
    pub name: &'static str,
    /// The name on the page.
    title: &'static str,
    /// The dataset.
    dataset: &'static str,
    /// Name of the metric of the test; `None` for retrieval, which is evaluated as it is after pre-training.
    metric: Option<&'static str>,
    /// What the metric means.
    explanation: &'static str,
    /// Samples per optimiser step.
    batch_size: u64,
    /// Fraction of the quickstart's time for each of the two runs.
    pub share: f64,
    /// Number of steps as a multiple of that of pre-training, if the user gives the latter.
    pub steps: f64,
}

/// All downstream tasks.
pub(super) const TASKS: [Downstream; 4] = [
    Downstream {
        name: "vqa",
        title: "Questions (VQA)",
        dataset: "vqa",
        metric: Some("vqa/val/score_epoch"),
        explanation: "Score of the answers to held-out questions. Chance is always giving the most frequent answer; the baseline answers from \
                      the question alone.",
        batch_size: 64,
        share: 0.09,
        steps: 0.5,
    },
    Downstream {
        name: "nlvr2",
        title: "Statements about two images (NLVR2)",
        dataset: "nlvr2",
        metric: Some("nlvr2/test/accuracy_epoch"),
        explanation: "Accuracy of classifying held-out statements about two images as true or false. Chance is always giving the more \
                      frequent class; the baseline classifies the statement alone.",
        batch_size: 32,
        share: 0.12,
        steps: 0.75,
    },
    Downstream {
        name: "retrieval",
        title: "Text-to-image retrieval after fine-tuning, recall at 1",
        dataset: "coco",
        metric: None,
        explanation: "How often the image of a caption ranks first among the same held-out images as above, after fine-tuning for ranking.",
        batch_size: 16,
        share: 0.022,
        steps: 0.06,
    },
    Downstream {
        name: "labels",
        title: "Labels, macro F1",
        dataset: "colors",
        metric: Some("labels/val/macro_f1_epoch"),
        explanation: "Macro F1 of the labels of held-out images with texts: the colour of the objects, which the text does not name. Chance is \
                      always giving the most frequent label; the baseline classifies the text alone.",
        batch_size: 64,
        share: 0.018,
        steps: 0.1,
    },
];

/// A fine-tuned run and its twin from scratch.
pub(super) struct FineTuned {
    /// The task.
    pub task: Downstream,
    /// Number of optimiser steps of each run.
    pub steps: u64,
    /// Directory of the run from the pre-trained weights.
    pub run: PathBuf,
    /// Configuration of this run.
    pub config: Config,
    /// The value of the metric.
    pub value: f64,
    /// The value of the twin.
    pub from_scratch: f64,
    /// Baselines without the image; `None` for retrieval.
    pub baselines: Option<BaselineScores>,
}

impl FineTuned {
    /// Returns the metric for the page.
    pub fn metric(&self) -> Metric {
        let chance = self.baselines.map(|b| b.most_frequent);
        Metric {
            key: format!("fine_tuning/{}", self.task.name),
            name: self.task.title.into(),
            value: self.value,
            format: NumberFormat::Percent,
            chance: chance.or(Some(1.0 / evaluation::CANDIDATES as f64)),
            baseline: self.baselines.map(|b| b.text_only),
            from_scratch: Some(self.from_scratch),
            explanation: format!(
                "{} {} each.",
                self.task.explanation,
                counted(self.steps, "optimiser step")
            ),
        }
    }
}

impl Downstream {
    /// Returns the configuration of a run that starts from `load_path`; from scratch if it is empty. The sizes of the model are those of the
    /// pre-training run with the configuration `pretrain`.
    fn config(self, pretrain: &Config, load_path: &Path) -> Config {
        let mut loss_names = LossNames::default();
        match self.name {
            "vqa" => loss_names.vqa = 1.0,
            "nlvr2" => loss_names.nlvr2 = 1.0,
            "labels" => loss_names.labels = 1.0,
            // The ranking head is made from the matching head.
            _ => (loss_names.itm, loss_names.irtr) = (0.5, 1.0),
        }
        // Crops could remove the objects that a question is about.
        let transform = vec!["mae_test".to_string()];
        Config {
            exp_name: self.name.into(),
            datasets: vec![self.dataset.into()],
            loss_names,
            use_mae: false,
            is_pretrain: false,
            train_transform_keys: transform.clone(),
            val_transform_keys: transform,
            draw_false_image: 0,
            draw_false_text: if self.name == "retrieval" { FALSE_CAPTIONS } else { 0 },
            vqav2_label_size: vlct_synthetic::answers().len(),
            batch_size: self.batch_size,
            per_gpu_batchsize: self.batch_size,
            learning_rate: LEARNING_RATE * pretrain.learning_rate,
            layer_decay: LAYER_DECAY,
            drop_rate: 0.0,
            // Validation is not needed: the last weights are tested.
            limit_val_batches: 1,
            sanity_steps: 0,
            load_path: load_path.display().to_string(),
            ..pretrain.clone()
        }
    }

    /// Fine-tunes from the last checkpoint of the run `pretrained`, and from scratch, for `length` each, and tests both. The runs are in
    /// `directory` and `{directory}-scratch`.
    ///
    /// # Errors
    /// Returns [`QuickstartError::Stopped`] if `control.stop` is set, and the errors of the runs.
    pub fn run(
        self,
        pretrain: &Config,
        pretrained: &Path,
        directory: PathBuf,
        length: RunLength,
        control: &Control,
    ) -> Result<FineTuned> {
        let from_pretrained = self.config(pretrain, &last_path(pretrained));
        let from_pretrained = length.plan(from_pretrained, MIN_STEPS, control.stop)?;
        let from_scratch = Config {
            load_path: String::new(),
            ..from_pretrained.clone()
        };
        let mut scratch_directory = directory.clone().into_os_string();
        scratch_directory.push("-scratch");
        info!(
            "     {}: {} from the pre-trained weights",
            self.title,
            counted(steps(&from_pretrained), "step")
        );
        let value = self.train_and_test(&from_pretrained, &directory, control)?;
        info!(
            "     {}: {} from scratch",
            self.title,
            counted(steps(&from_scratch), "step")
        );
        let scratch_value = self.train_and_test(&from_scratch, Path::new(&scratch_directory), control)?;
        Ok(FineTuned {
            task: self,
            steps: steps(&from_pretrained),
            value,
            from_scratch: scratch_value,
            baselines: self.baselines(&self.tested(&from_pretrained, &directory))?,
            config: from_pretrained,
            run: directory,
        })
    }

    /// Trains in `directory`, tests the last weights in `directory/test` and returns the value of the metric.
    fn train_and_test(self, config: &Config, directory: &Path, control: &Control) -> Result<f64> {
        let train = Control {
            run_directory: Some(directory.to_path_buf()),
            device: None,
            ..*control
        };
        if trainer::run(config, &train)?.interrupted {
            return Err(QuickstartError::Stopped);
        }
        let Some(metric) = self.metric else {
            let spec = RunSpec::resolve(config)?;
            let (recalls, _) = evaluation::retrieval(&load_last(directory, &spec)?, &spec)?;
            return Ok(recalls.ir_r1);
        };
        let config = self.tested(config, directory);
        let test = Control {
            run_directory: Some(directory.join("test")),
            device: None,
            ..*control
        };
        let finished = trainer::run(&config, &test)?;
        if control.stop.load(Ordering::Relaxed) {
            return Err(QuickstartError::Stopped);
        }
        let value = finished.metrics.iter().find(|(name, _)| name == metric);
        Ok(value.map_or(f64::NAN, |(_, value)| *value))
    }

    /// Returns the configuration of the test of the last weights in `directory`.
    fn tested(self, config: &Config, directory: &Path) -> Config {
        Config {
            test_only: true,
            load_path: last_path(directory).display().to_string(),
            // The other splits of the test images have no answers.
            vqa_test_split: if self.name == "vqa" { "rest_val" } else { "test" }.into(),
            ..config.clone()
        }
    }

    fn baselines(self, config: &Config) -> Result<Option<BaselineScores>> {
        let mut spec = RunSpec::resolve(config)?;
        spec.resolve_names()?;
        let (train, held_out) = (data::open(&spec, Split::Train)?, data::open(&spec, Split::Test)?);
        Ok(baseline_scores(&spec.task, &*train, &*held_out).map_err(TrainError::from)?)
    }
}

fn steps(config: &Config) -> u64 {
    config.max_steps.unwrap_or_default()
}

/// Minimum number of optimiser steps of a fine-tuning run.
const MIN_STEPS: u64 = 20;

/// Learning rate as a multiple of that of pre-training. With the full rate, some runs give the same output for all inputs.
const LEARNING_RATE: f64 = 0.5;

/// Learning-rate factor from each layer to the layer below.
const LAYER_DECAY: f64 = 0.8;
