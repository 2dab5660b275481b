//! What a run does, as plain data: the configuration with every key resolved to what it means.
//!
//! [`validate`] checks whether the values of a [`Config`] agree; [`RunSpec::resolve`] then turns names into types, absent
//! values into defaults and switches into choices. Nothing behind it reads the key table.

mod size;
mod validate;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use vlct_data::text::MaskingConfig;
use vlct_image::TransformKind;
use vlct_model::VlcConfig;
use vlct_model::config::Heads;
use vlct_tasks::TaskSpec;
use vlct_tasks::pretrain::PretrainSpec;
use vlct_tensor::optimizer::Rule;
use vlct_tensor::{Compute, Device, F32Products, Precision};

use crate::config::{Config, DecayPower};
use crate::error::{Result, TrainError};
use crate::plan::Length;

pub use size::model_size;
pub use validate::validate;

/// Everything that decides a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunSpec {
    /// Seed of every random decision.
    pub seed: u64,
    /// Evaluates the test split once instead of training.
    pub test_only: bool,
    /// Trial run of so many micro-batches, which writes nothing.
    pub trial: Option<u64>,
    /// Directory of all versions of this experiment: `{log_dir}/{exp_name}_seed{seed}_from_{tag}`.
    pub experiment: PathBuf,
    /// Threads and number formats.
    pub compute: ComputeSpec,
    /// Sizes of the model.
    pub model: VlcConfig,
    /// Where weights come from.
    pub weights: WeightsSpec,
    /// What is trained.
    pub task: TaskSpec,
    /// Files and how they become batches.
    pub data: DataSpec,
    /// Update rule, learning rates and weight decay.
    pub optimizer: OptimizerSpec,
    /// Length of the run, and the distances of validations.
    pub length: Length,
    /// On what the model is validated.
    pub validation: ValidationSpec,
    /// Optimiser steps between saves of the last state; 0: saves at validations only.
    pub checkpoint_every: u64,
    /// Optimiser steps between log entries.
    pub log_every: u64,
    /// All keys as TOML: the text of `config.toml`.
    pub config: String,
}

/// Threads and number formats of the arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComputeSpec {
    /// Number of threads; 0: one per CPU.
    pub threads: usize,
    /// Whether each thread is bound to one CPU.
    pub pin_threads: bool,
    /// Number format of products and of kept activations, as this machine computes it.
    pub precision: Precision,
    /// How f32 products are computed.
    pub f32_products: F32Products,
    /// Whether layers compute their activations again for the backward pass.
    pub recompute: bool,
}

/// Where weights come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightsSpec {
    /// Weights of the image backbone.
    pub pretrain_path: Option<PathBuf>,
    /// Weights of a whole model, loaded after those of the backbone.
    pub load_path: Option<PathBuf>,
    /// Whether the VQA, NLVR2 and retrieval heads of `load_path` are left out.
    pub skip_heads: bool,
    /// Run directory or checkpoint to continue. Replaces all weights.
    pub resume_from: Option<String>,
}

/// Files and how they become batches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataSpec {
    /// Directory of the Arrow files.
    pub root: PathBuf,
    /// Names of the datasets, concatenated in this order.
    pub datasets: Vec<String>,
    /// Whether fewer of the numbered files of a published dataset than published may be there.
    pub fewer_shards: bool,
    /// `bert-base-uncased`, or the path of a vocabulary.
    pub tokenizer: String,
    /// Longest token sequence, `[CLS]` and `[SEP]` included.
    pub max_text_len: usize,
    /// Side of the square images, in pixels.
    pub image_size: usize,
    /// Image transform of training.
    pub train_transform: TransformKind,
    /// Image transform of validation and test.
    pub val_transform: TransformKind,
    /// Threads that prepare batches, at least 1.
    pub workers: usize,
}

/// Update rule, learning rates and weight decay.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct OptimizerSpec {
    /// Update rule.
    pub rule: Rule,
    /// Weight decay of the parameters that decay.
    pub weight_decay: f64,
    /// Learning-rate factors of the parameters.
    pub groups: GroupRule,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Learning rate at the end of a polynomial decay.
    pub end_lr: f64,
    /// Decay after the warm-up.
    pub decay: DecayPower,
}

/// How parameters are grouped.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupRule {
    /// Body and task heads; the factor is that of the heads.
    Heads {
        /// Learning-rate factor of the task heads.
        lr_mult: f64,
    },
    /// One group per layer.
    Layers {
        /// Learning-rate factor from each layer to the one below.
        layer_decay: f64,
    },
}

/// On what the model is validated.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ValidationSpec {
    /// Batches of a validation; 0: all.
    pub batches: u64,
    /// Batches tried before training.
    pub sanity_batches: u64,
    /// Whether each validation and test measures retrieval recalls.
    pub recalls: bool,
}

impl RunSpec {
    /// Resolves a configuration. Whether its values agree is a question for [`validate`].
    ///
    /// # Errors
    /// Returns an error for a task that this version does not train, if no task is active, for an unknown transform and for sizes
    /// that contradict each other.
    pub fn resolve(config: &Config) -> Result<Self> {
        check_tasks(config)?;
        Ok(Self {
            seed: config.seed,
            test_only: config.test_only,
            trial: (config.fast_dev_run.0 > 0).then_some(config.fast_dev_run.0),
            experiment: experiment(config),
            compute: compute(config),
            model: model(config)?,
            weights: weights(config),
            task: TaskSpec::Pretrain(pretrain(config)),
            data: data(config)?,
            optimizer: optimizer(config),
            length: length(config),
            validation: ValidationSpec {
                batches: config.limit_val_batches,
                sanity_batches: config.sanity_steps,
                recalls: config.get_recall_metric,
            },
            checkpoint_every: config.checkpoint_every,
            log_every: config.log_every,
            config: config.to_toml(),
        })
    }
}

fn model(config: &Config) -> Result<VlcConfig> {
    let names = &config.loss_names;
    Ok(VlcConfig {
        image_size: config.image_size,
        backbone: model_size(config)?,
        vocab_size: config.vocab_size,
        max_text_len: config.max_text_len,
        token_types: 2,
        drop_rate: config.drop_rate as f32,
        heads: Heads {
            mlm: names.mlm > 0.0,
            itm: names.itm > 0.0,
            vqa: (names.vqa > 0.0).then_some(config.vqav2_label_size),
            rank: names.irtr > 0.0,
        },
    })
}

fn weights(config: &Config) -> WeightsSpec {
    let path = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
    WeightsSpec {
        pretrain_path: path(&config.pretrain_path),
        load_path: path(&config.load_path),
        skip_heads: !config.test_only && !config.load_heads,
        resume_from: config.resume_from.clone(),
    }
}

fn pretrain(config: &Config) -> PretrainSpec {
    let names = &config.loss_names;
    PretrainSpec {
        mlm: names.mlm >= 1.0,
        mae: (config.use_mae && names.mlm >= 1.0).then_some(config.mae_weight as f32),
        itm: names.itm >= 1.0,
        masking: MaskingConfig {
            whole_word: config.whole_word_masking,
            probability: config.mlm_prob,
            max_text_len: config.max_text_len,
        },
        // As in the original, patches are masked in training and in validation alike.
        mask_ratio: config.is_pretrain.then_some(config.mask_ratio),
    }
}

fn data(config: &Config) -> Result<DataSpec> {
    let transform = |keys: &[String]| keys.first().map(String::as_str).unwrap_or_default().parse();
    Ok(DataSpec {
        root: PathBuf::from(&config.data_root),
        datasets: config.datasets.clone(),
        fewer_shards: config.fewer_shards,
        tokenizer: config.tokenizer.clone(),
        max_text_len: config.max_text_len,
        image_size: config.image_size,
        train_transform: transform(&config.train_transform_keys)?,
        val_transform: transform(&config.val_transform_keys)?,
        workers: config.num_workers.max(1),
    })
}

fn optimizer(config: &Config) -> OptimizerSpec {
    let groups = if config.is_pretrain {
        GroupRule::Heads {
            lr_mult: config.lr_mult,
        }
    } else {
        GroupRule::Layers {
            layer_decay: config.layer_decay,
        }
    };
    OptimizerSpec {
        rule: optimizer_kind(config),
        weight_decay: config.weight_decay,
        groups,
        learning_rate: config.learning_rate,
        end_lr: config.end_lr,
        decay: config.decay_power,
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
    }
}

impl ComputeSpec {
    /// What the operations need to know.
    pub fn compute(&self) -> Compute {
        Compute {
            device: Device::default(),
            precision: self.precision,
            recompute: self.recompute,
            f32_products: self.f32_products,
        }
    }

    /// Threads and number format, for the first line of a run.
    pub fn describe(&self) -> String {
        let format = match self.precision {
            Precision::F32 => format!("float32 by {}", self.f32_products),
            Precision::Bf16 => "bfloat16".into(),
        };
        let threads = rayon::current_num_threads();
        let recompute = if self.recompute {
            ", activations computed again for the backward pass"
        } else {
            ""
        };
        format!("{threads} threads, {format}{recompute}")
    }
}

impl OptimizerSpec {
    /// Name of the update rule in the logs.
    pub fn name(&self) -> &'static str {
        match self.rule {
            Rule::Sgd => "SGD",
            Rule::Adam => "Adam",
            Rule::AdamW => "AdamW",
        }
    }
}

/// How a configuration computes on this machine, in training and evaluation alike: bfloat16 only where it is fast, bf16x3 only
/// where there is AMX.
pub fn compute(config: &Config) -> ComputeSpec {
    let precision = match config.precision {
        None | Some(Precision::Bf16) if Device::default().bf16_is_fast() => Precision::Bf16,
        _ => Precision::F32,
    };
    ComputeSpec {
        threads: config.threads,
        pin_threads: config.pin_threads,
        precision,
        f32_products: f32_products(config),
        recompute: config.activation_recompute,
    }
}

/// The method that `f32_products` names if this CPU has it, else FMA. That of `auto` is chosen before, when a run begins.
fn f32_products(config: &Config) -> F32Products {
    F32Products::ALL
        .into_iter()
        .find(|products| products.name() == config.f32_products && Device::default().has_f32_products(*products))
        .unwrap_or_default()
}

fn optimizer_kind(config: &Config) -> Rule {
    match config.optim_type.as_str() {
        "sgd" => Rule::Sgd,
        "adam" => Rule::Adam,
        _ => Rule::AdamW,
    }
}

/// Returns an error for tasks that this version does not train.
fn check_tasks(config: &Config) -> Result<()> {
    let names = &config.loss_names;
    for (task, value) in [("vqa", names.vqa), ("nlvr2", names.nlvr2), ("irtr", names.irtr)] {
        if value >= 1.0 {
            return Err(TrainError::UntrainedTask { task, value });
        }
    }
    if names.active().next().is_none() {
        return Err(TrainError::NoTask);
    }
    Ok(())
}

/// Extensions of weight files. Only these are removed by [`tag`]: a dot may as well be part of a directory's name.
const WEIGHT_EXTENSIONS: [&str; 5] = [".ckpt", ".pth", ".pt", ".bin", ".safetensors"];

/// The short name of the weights in `load_path`: the last part of the path without the extension of a weight file; empty
/// for an empty path. Part of the run directory's name and of the name of a VQA submission.
pub fn tag(load_path: &str) -> &str {
    let name = Path::new(load_path)
        .file_name()
        .and_then(|n| n.to_str())
        .unwrap_or_default();
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
    use crate::config::{NAMED_CONFIGS, resolve};

    #[test]
    fn specs_survive_json() {
        for named_config in NAMED_CONFIGS {
            let config = resolve(&[named_config.name, "data_root=/d", "load_path=/w/a.ckpt"])
                .unwrap()
                .config;
            let Ok(spec) = RunSpec::resolve(&config) else {
                assert!(named_config.name.starts_with("task_finetune"), "{}", named_config.name);
                continue;
            };
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
    fn names_become_choices() {
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
    fn tasks_that_are_not_trained_are_rejected() {
        let refused = |words: &[&str]| {
            RunSpec::resolve(&resolve(words).unwrap().config)
                .unwrap_err()
                .to_string()
        };
        let vqa = refused(&["task_finetune_vqa_mae_randaug"]);
        assert!(vqa.contains("loss_names.vqa=1: this version trains"), "{vqa}");
        assert!(refused(&["loss_names={'itm': 0, 'mlm': 0}"]).contains("no task is active"));
    }

    #[test]
    fn tags_are_names_without_weight_extensions() {
        for (path, expected) in [
            ("", ""),
            ("/w/vlc_baseset.ckpt", "vlc_baseset"),
            ("epoch=3-step=99.ckpt", "epoch=3-step=99"),
            ("/w/checkpoint-200.pth", "checkpoint-200"),
            ("model.safetensors", "model"),
            ("result/run/version_0/best/", "best"),
            ("weights.v2", "weights.v2"),
            ("/", ""),
        ] {
            assert_eq!(tag(path), expected, "{path}");
        }
    }
}
