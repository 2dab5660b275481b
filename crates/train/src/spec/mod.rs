//! The typed description of a run, made from the configuration.
//!
//! [`validate`] checks whether the values of a [`Config`] agree. [`RunSpec::resolve`] then turns names into types, missing values
//! into defaults and task switches into a task.

mod data;
mod device;
mod optimisation;
pub(crate) mod size;
mod validate;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use vlct_model::config::Heads;
use vlct_model::{ModelConfig, VlcConfig};
use vlct_tasks::labels::LabelsSpec;
use vlct_tasks::nlvr2::Nlvr2Spec;
use vlct_tasks::pretrain::PretrainSpec;
use vlct_tasks::retrieval::RetrievalSpec;
use vlct_tasks::scoring::RecallSpec;
use vlct_tasks::vqa::VqaSpec;
use vlct_tasks::{Subset, TaskSpec};
use vlct_tensor::{Compute, Device, DeviceName, F32Products, Precision};
use vlct_text::MaskingConfig;

use crate::error::{Result, TrainError};
use crate::paths;
use crate::plan::Length;
use vlct_config::{Config, ConfigError};

pub use data::DataSpec;
pub use device::{describe_device, device, device_of_rank, devices_per_machine, ranks_of};
pub use optimisation::{EmaSpec, FreezeSpec, GroupRule, HalfCosine, OptimizerSpec};
pub use size::model_size;
pub use validate::{validate, validate_of_ranks};

/// The settings of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunSpec {
    /// Seed of all random decisions.
    pub seed: u64,
    /// Whether to evaluate the test split instead of training.
    pub test_only: bool,
    /// Number of micro-batches of a trial run, which writes no files; `None` for a normal run.
    pub trial: Option<u64>,
    /// Directory of all runs of this experiment: `{log_dir}/{exp_name}_seed{seed}_from_{tag}`.
    pub experiment: PathBuf,
    /// Short name of the weights `load_path`; see [`tag`].
    pub tag: String,
    /// Device, threads and number formats.
    pub compute: ComputeSpec,
    /// Sizes of the model.
    pub model: ModelConfig,
    /// Files of initial weights.
    pub weights: WeightsSpec,
    /// The task.
    pub task: TaskSpec,
    /// Datasets and their preparation.
    pub data: DataSpec,
    /// Update rule, learning rates and weight decay.
    pub optimizer: OptimizerSpec,
    /// The exponential moving average of the weights; `None` means that the run computes none.
    pub ema: Option<EmaSpec>,
    /// The parts of the model that are not trained.
    pub freeze: FreezeSpec,
    /// Length of the run, and interval between validations.
    pub length: Length,
    /// Extent of validations.
    pub validation: ValidationSpec,
    /// File with the answer of each id, for weights without answers.
    pub answers: Option<PathBuf>,
    /// Optimiser steps between saves of the last checkpoint; 0 means only after validations.
    pub checkpoint_every: u64,
    /// Number of checkpoints of the latest validations that are kept.
    pub keep_checkpoints: u64,
    /// The files `checkpoint-{epoch}.pth` and `log.txt` of ImageNet fine-tuning; `None` if the run writes none.
    #[serde(default)]
    pub published: Option<PublishedSpec>,
    /// The first epoch, from 0, of a run that does not continue another one whose epoch is known.
    pub start_epoch: u64,
    /// Optimiser steps between log entries.
    pub log_every: u64,
    /// All keys but `resume_from` as TOML: the text of `config.toml`.
    pub config: String,
}

/// The files of MAE's fine-tuning script.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedSpec {
    /// Number of files `checkpoint-{epoch}.pth` that are kept; `None` means all.
    pub keep: Option<u64>,
}

/// Device, threads and number formats of the computation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComputeSpec {
    /// The device.
    pub device: Device,
    /// Number of threads; 0 means one per CPU.
    pub threads: usize,
    /// Whether each thread is bound to one CPU.
    pub pin_threads: bool,
    /// Number format of matrix products and saved activations on this machine.
    pub precision: Precision,
    /// Method of f32 matrix products.
    pub f32_products: F32Products,
    /// Whether layers recompute their activations for the backward pass.
    pub recompute: bool,
}

/// Files of initial weights.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightsSpec {
    /// Weights of the image backbone.
    pub pretrain_path: Option<PathBuf>,
    /// Weights of a whole model, loaded after `pretrain_path`.
    pub load_path: Option<PathBuf>,
    /// The checkpoint whose vocabulary is used if the file of the tokenizer does not exist: `load_path`.
    #[serde(default)]
    pub vocabulary: Option<PathBuf>,
    /// Whether to load the averages of the checkpoint `load_path` instead of its weights.
    pub averages: bool,
    /// Whether to ignore the VQA, NLVR2 and retrieval heads of `load_path`.
    pub skip_heads: bool,
    /// Whether to accept files that have only a part of the tensors that the model needs.
    pub partial: bool,
    /// Run directory or checkpoint from which training continues. The weights of the checkpoint replace those of `pretrain_path` and
    /// `load_path`.
    pub resume_from: Option<String>,
}

/// Extent of validations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ValidationSpec {
    /// Maximum number of batches of a validation; 0 means all.
    pub batches: u64,
    /// Number of batches evaluated before training, as a check.
    pub sanity_batches: u64,
    /// Number of successive validations without a new best value after which the run ends; `None` means that it does not end early.
    pub patience: Option<u64>,
    /// The retrieval recalls that each validation and test computes.
    pub recalls: Option<RecallSpec>,
    /// The annotators' answers of VQA, for the official accuracy.
    pub annotations: Option<PathBuf>,
}

impl RunSpec {
    /// Resolves a configuration that [`validate`] has accepted.
    ///
    /// # Errors
    /// Returns an error if no task is active, the active tasks cannot be trained together, a transform is unknown, or sizes contradict
    /// each other.
    pub fn resolve(config: &Config) -> Result<Self> {
        Ok(Self {
            seed: config.seed,
            test_only: config.test_only,
            trial: (config.fast_dev_run.0 > 0).then_some(config.fast_dev_run.0),
            experiment: experiment(config),
            tag: tag(&config.load_path),
            compute: compute(config)?,
            model: ModelConfig::Vlc(model(config)?),
            weights: weights(config),
            task: task(config)?,
            data: DataSpec::resolve(config)?,
            optimizer: OptimizerSpec::resolve(config),
            ema: EmaSpec::resolve(config),
            freeze: FreezeSpec::resolve(config),
            length: length(config),
            validation: ValidationSpec {
                batches: config.limit_val_batches,
                sanity_batches: config.sanity_steps,
                patience: (config.patience > 0).then_some(config.patience),
                recalls: config.get_recall_metric.then_some(RecallSpec {
                    limit: config.recall_limit,
                    rerank: (config.recall_rerank > 0).then_some(config.recall_rerank),
                }),
                annotations: path(&config.vqa_annotations),
            },
            answers: path(&config.vqa_answers),
            checkpoint_every: config.checkpoint_every,
            keep_checkpoints: config.keep_checkpoints,
            published: None,
            start_epoch: 0,
            log_every: config.log_every,
            config: recorded(config),
        })
    }
}

/// Returns the text of a configuration for the run directory.
pub fn recorded(config: &Config) -> String {
    // `resume_from` is left out, because a new run with this configuration must not continue the resumed run.
    let config = Config {
        resume_from: None,
        ..config.clone()
    };
    config.to_toml()
}

/// Returns the model of a run.
///
/// # Errors
/// Returns an error if sizes contradict each other.
pub fn model(config: &Config) -> Result<VlcConfig> {
    let switches = &config.loss_names;
    Ok(VlcConfig {
        image_size: size::position_size(config).unwrap_or(config.image_size),
        backbone: model_size(config)?,
        vocab_size: config.vocab_size,
        max_text_len: config.max_text_len,
        // NLVR2 has a token type for each of its two images.
        token_types: if switches.nlvr2 > 0.0 { 3 } else { 2 },
        variant: size::variant(config),
        drop_rate: config.drop_rate as f32,
        heads: Heads {
            mlm: switches.mlm > 0.0,
            itm: switches.itm > 0.0,
            vqa: (switches.vqa > 0.0).then_some(config.vqav2_label_size),
            nlvr2: switches.nlvr2 > 0.0,
            // The number of labels follows from the data.
            labels: (switches.labels > 0.0).then_some(0),
            rank: switches.irtr > 0.0,
        },
    })
}

/// Returns the path in a key, `None` if the key is empty.
fn path(text: &str) -> Option<PathBuf> {
    (!text.is_empty()).then(|| PathBuf::from(text))
}

fn weights(config: &Config) -> WeightsSpec {
    WeightsSpec {
        pretrain_path: path(&config.pretrain_path),
        load_path: path(&config.load_path),
        vocabulary: path(&config.load_path),
        averages: config.load_ema,
        skip_heads: !config.test_only && !config.load_heads,
        partial: config.load_partial,
        resume_from: config.resume_from.clone(),
    }
}

/// Returns the task of the active switches. The names of answers and labels are empty until the data are read.
fn task(config: &Config) -> Result<TaskSpec> {
    let active: Vec<&'static str> = config.loss_names.active().collect();
    let is_pretraining = |task: &&'static str| matches!(*task, "itm" | "mlm" | "mae");
    match active.as_slice() {
        [] => Err(TrainError::NoTask),
        tasks if tasks.iter().all(is_pretraining) => Ok(TaskSpec::Pretrain(pretrain(config))),
        ["vqa"] => Ok(TaskSpec::Vqa(VqaSpec::default())),
        ["nlvr2"] => Ok(TaskSpec::Nlvr2(Nlvr2Spec {
            // The validation split of a custom dataset has no statements of a test split.
            selection: match config.datasets.iter().any(|name| name == "nlvr2") && !config.honest_validation {
                true => Subset::Test,
                false => Subset::Dev,
            },
        })),
        ["irtr"] => Ok(TaskSpec::Retrieval(RetrievalSpec {
            false_texts: config.draw_false_text as usize,
        })),
        ["labels"] => Ok(TaskSpec::Labels(LabelsSpec::default())),
        _ => Err(TrainError::SeveralTasks {
            tasks: active.join(", "),
        }),
    }
}

fn pretrain(config: &Config) -> PretrainSpec {
    let switches = &config.loss_names;
    PretrainSpec {
        mlm: switches.mlm >= 1.0,
        mae: (config.use_mae && switches.mlm >= 1.0).then_some(config.mae_weight as f32),
        itm: switches.itm >= 1.0,
        masking: MaskingConfig {
            whole_word: config.whole_word_masking,
            probability: config.mlm_prob,
            max_text_len: config.max_text_len,
        },
        // As in the original, patches are masked in training and in validation.
        mask_ratio: config.is_pretrain.then_some(config.mask_ratio),
    }
}

fn length(config: &Config) -> Length {
    Length {
        batch_size: config.batch_size,
        micro_batch: config.per_gpu_batchsize,
        max_steps: config.max_steps,
        max_epoch: config.max_epoch,
        warmup: config.warmup_steps,
        validation: config.val_check_interval,
        validation_epochs: config.check_val_every_n_epoch,
        whole_windows: false,
    }
}

impl ComputeSpec {
    /// Returns the settings in the type that models and tapes take.
    pub fn compute(&self) -> Compute {
        Compute {
            device: self.device,
            precision: self.precision,
            recompute: self.recompute,
            f32_products: self.f32_products,
        }
    }

    /// Describes device, threads and number format, for the log.
    pub fn describe(&self) -> String {
        let format = match self.precision {
            Precision::F32 => format!("float32 by {}", self.f32_products),
            Precision::Bf16 => "bfloat16".into(),
        };
        let threads = rayon::current_num_threads();
        let recompute = if self.recompute {
            ", activations recomputed in the backward pass"
        } else {
            ""
        };
        let device = match self.device.name() {
            DeviceName::Cuda(_) => format!("{}, ", describe_device(self.device)),
            _ => String::new(),
        };
        format!("{device}{threads} threads, {format}{recompute}")
    }
}

/// Resolves device, threads and number formats for this machine. The format is bfloat16 only if bfloat16 is fast on the device, else f32.
/// The method of f32 products is bf16x3 only if the device is a CPU with AMX, else FMA.
///
/// # Errors
/// Returns the errors of [`device`](device()).
pub fn compute(config: &Config) -> std::result::Result<ComputeSpec, ConfigError> {
    let device = device(config)?;
    let precision = match config.precision {
        None | Some(Precision::Bf16) if device.bf16_is_fast() => Precision::Bf16,
        _ => Precision::F32,
    };
    Ok(ComputeSpec {
        device,
        threads: config.threads,
        pin_threads: config.pin_threads,
        precision,
        f32_products: f32_products(config, device),
        recompute: config.activation_recompute,
    })
}

/// Returns the method that the key `f32_products` names if the device supports it, else FMA. `auto` gives FMA, so
/// [`trainer::run`](crate::trainer::run) replaces `auto` by a measured method first.
fn f32_products(config: &Config, device: Device) -> F32Products {
    F32Products::ALL
        .into_iter()
        .find(|products| products.name() == config.f32_products && device.supports_f32_products(*products))
        .unwrap_or_default()
}

/// Extensions of weight files. [`file_tag`] removes no other extensions, because the name of a directory may contain a dot.
const WEIGHT_EXTENSIONS: [&str; 5] = [".ckpt", ".pth", ".pt", ".bin", ".safetensors"];

/// Returns the short name of the weights `load_path`, which is part of the names of experiment directories and submissions: the name of
/// the experiment for a run directory or a checkpoint in it, else the last component of the path without the extension of a weight
/// file. A directory of the cache of the Hugging Face Hub has the name of the model. An empty path gives an empty name.
pub fn tag(load_path: &str) -> String {
    match paths::experiment_of(Path::new(load_path)) {
        Some(name) if !load_path.is_empty() => name,
        _ => file_tag(load_path).to_owned(),
    }
}

/// Returns the last component of a path without the extension of a weight file.
fn file_tag(load_path: &str) -> &str {
    let component = |i| {
        let path = Path::new(load_path).ancestors().nth(i)?;
        path.file_name().and_then(|name| name.to_str())
    };
    // models--ORG--NAME/snapshots/COMMIT
    if component(1) == Some("snapshots")
        && let Some(repository) = component(2).and_then(|name| name.strip_prefix("models--"))
    {
        return repository.rsplit("--").next().unwrap_or(repository);
    }
    let name = component(0).unwrap_or_default();
    WEIGHT_EXTENSIONS
        .iter()
        .find_map(|extension| name.strip_suffix(extension))
        .unwrap_or(name)
}

fn experiment(config: &Config) -> PathBuf {
    Path::new(&config.log_dir).join(format!(
        "{}_seed{}_from_{}",
        config.exp_name,
        config.seed,
        tag(&config.load_path)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use vlct_config::{NAMED_CONFIGS, resolve};

    #[test]
    fn specs_do_not_change_when_written_and_read_as_json() {
        for named_config in NAMED_CONFIGS {
            let config = resolve(&[named_config.name, "data_root=/d", "load_path=/w/a.ckpt"])
                .unwrap()
                .config;
            let spec = RunSpec::resolve(&config).unwrap();
            let text = serde_json::to_string(&spec).unwrap();
            assert_eq!(
                serde_json::from_str::<RunSpec>(&text).unwrap(),
                spec,
                "{}",
                named_config.name
            );
        }
    }

    #[test]
    fn resolve_turns_switches_and_missing_values_into_settings() {
        let words = [
            "data_root=/d",
            "loss_names={'mae': 1}",
            "use_mae=True",
            "is_pretrain=False",
            "num_workers=0",
        ];
        let spec = RunSpec::resolve(&resolve(&words).unwrap().config).unwrap();
        let TaskSpec::Pretrain(pretrain) = &spec.task else {
            panic!("{:?}", spec.task);
        };
        assert_eq!((pretrain.mask_ratio, pretrain.mae), (None, Some(1.0)));
        assert_eq!(spec.optimizer.groups, GroupRule::Layers { layer_decay: 0.5 });
        assert_eq!(spec.optimizer.name(), "AdamW");
        assert_eq!(
            (spec.weights.load_path.as_ref(), spec.trial, spec.data.workers),
            (None, None, 1)
        );
        assert_eq!(spec.experiment, Path::new("result/vlc_seed0_from_"));
    }

    #[test]
    fn the_recorded_configuration_omits_resume_from() {
        let config = resolve(&["data_root=/d", "resume_from=runs/version_0", "seed=5"])
            .unwrap()
            .config;
        let spec = RunSpec::resolve(&config).unwrap();
        assert_eq!(spec.weights.resume_from.as_deref(), Some("runs/version_0"));
        let recorded = Config::from_toml(&spec.config).unwrap();
        assert_eq!((recorded.resume_from, recorded.seed), (None, 5));
    }

    #[test]
    fn rejects_tasks_that_are_not_trained_together() {
        let error = |words: &[&str]| {
            RunSpec::resolve(&resolve(words).unwrap().config)
                .unwrap_err()
                .to_string()
        };
        let two = error(&["task_finetune_vqa_mae_randaug", "loss_names.mlm=1"]);
        assert!(two.contains("mlm, vqa"), "{two}");
        assert!(error(&["loss_names={'itm': 0, 'mlm': 0}"]).contains("no task is active"));
    }

    #[test]
    fn published_tasks_have_their_heads_and_token_types() {
        let spec = |name: &str| RunSpec::resolve(&resolve(&[name, "data_root=/d"]).unwrap().config).unwrap();
        let nlvr2 = spec("task_finetune_nlvr2_mae_randaug");
        assert_eq!(
            (nlvr2.model.vlc().token_types, nlvr2.model.vlc().heads.nlvr2),
            (3, true)
        );
        assert_eq!(
            nlvr2.task,
            TaskSpec::Nlvr2(Nlvr2Spec {
                selection: Subset::Test
            })
        );
        for more in ["honest_validation=True", "datasets=['mine']"] {
            let words = ["task_finetune_nlvr2_mae_randaug", "data_root=/d", more];
            let spec = RunSpec::resolve(&resolve(&words).unwrap().config).unwrap();
            let selection = Subset::Dev;
            assert_eq!(spec.task, TaskSpec::Nlvr2(Nlvr2Spec { selection }), "{more}");
        }
        let retrieval = spec("task_finetune_irtr_coco_mae_randaug");
        assert!(retrieval.model.vlc().heads.itm && retrieval.model.vlc().heads.rank);
        assert_eq!(retrieval.task, TaskSpec::Retrieval(RetrievalSpec { false_texts: 15 }));
        assert_eq!(spec("task_finetune_vqa_mae_randaug").model.vlc().heads.vqa, Some(3129));
    }

    #[test]
    fn tag_removes_only_extensions_of_weight_files() {
        for (path, expected) in [
            ("", ""),
            ("/w/vlc_baseset.ckpt", "vlc_baseset"),
            ("epoch=3-step=99.ckpt", "epoch=3-step=99"),
            ("/w/checkpoint-200.pth", "checkpoint-200"),
            ("model.safetensors", "model"),
            ("result/run/version_0/best/", "best"),
            ("weights.v2", "weights.v2"),
            ("/", ""),
            ("/c/models--org--vit-mae/snapshots/0123456789", "vit-mae"),
            ("/c/models--org--vit-mae/snapshots/0123456789/a.ckpt", "a"),
        ] {
            assert_eq!(file_tag(path), expected, "{path}");
        }
    }
}
