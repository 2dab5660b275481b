//! Fine-tuning of image classifiers: the settings of MAE's script `main_finetune.py`, and the run that they describe.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use log::warn;
use serde::{Deserialize, Serialize};
use vlct_config::{Config, ConfigError, DecayPower, ValCheckInterval, Warmup};
use vlct_data::datasets::{FileRules, ReadingRule, VqaTest};
use vlct_image::augment::{Erasing, ErasingMode, Jitter, Policy};
use vlct_image::{ClassificationAugment, ColourAugment, TransformSpec};
use vlct_model::sizes::{self, SizeError};
use vlct_model::{ModelConfig, VitConfig, files};
use vlct_tasks::TaskSpec;
use vlct_tasks::images::ImagesSpec;
use vlct_tasks::mixup::{MixupMode, MixupSpec};
use vlct_tensor::optimizer::Rule;

use crate::error::{Result, TrainError};
use crate::plan::Length;
use crate::spec::{
    self, DataSpec, EmaSpec, FreezeSpec, GroupRule, HalfCosine, OptimizerSpec, PublishedSpec, RunSpec, ValidationSpec,
    WeightsSpec,
};

/// Samples for which the base learning rate is stated.
const BASE_BATCH: f64 = 256.0;

/// The settings of a run. The names and defaults are those of the flags of the published script.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Samples per micro-batch.
    pub batch_size: u64,
    /// Number of epochs.
    pub epochs: u64,
    /// The first epoch, from 0, if the weights to begin with do not state theirs.
    #[serde(default)]
    pub start_epoch: u64,
    /// Micro-batches per optimiser step.
    pub accum_iter: u64,
    /// `vit_base_patch16`, `vit_large_patch16` or `vit_huge_patch14`.
    pub model: String,
    /// Sizes that replace those of `model`.
    #[serde(flatten)]
    pub sizes: Sizes,
    /// Side of the images in pixels.
    pub input_size: usize,
    /// Whether only a linear head behind a batch norm is trained, by LARS, as in MAE's script for linear probing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub linear_probe: bool,
    /// Largest probability that a sublayer is left out for an image.
    pub drop_path: f64,
    /// Whether the head reads the mean of the patches instead of the class token.
    pub global_pool: bool,
    /// Weights to begin with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finetune: Option<PathBuf>,
    /// Directory of the images.
    pub data_path: PathBuf,
    /// Part of the training images that is held out if there are no validation images.
    pub val_fraction: f64,
    /// Seed of all random decisions.
    pub seed: u64,
    /// Number of threads that prepare images.
    pub num_workers: usize,
    /// Number of files `checkpoint-{epoch}.pth` that are kept; `None` means all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep: Option<u64>,
    /// Update rule, learning rates and weight decay.
    #[serde(flatten)]
    pub optimisation: Optimisation,
    /// Augmentation and mixing.
    #[serde(flatten)]
    pub augmentation: Augmentation,
}

/// Sizes of the model; `None` means those of the named variant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sizes {
    /// Side of a patch in pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patch_size: Option<usize>,
    /// Width.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub width: Option<usize>,
    /// Number of blocks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub depth: Option<usize>,
    /// Number of attention heads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heads: Option<usize>,
}

/// Update rule, learning rates and weight decay.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Optimisation {
    /// Largest L2 norm of all gradients together; `None` means no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_grad: Option<f64>,
    /// Weight decay of matrices, except class token and position table.
    pub weight_decay: f64,
    /// Peak learning rate; `None` means that of `blr`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    /// Peak learning rate for 256 samples per optimiser step, to which it is proportional.
    pub blr: f64,
    /// Ratio of a layer's learning rate to that of the layer above.
    pub layer_decay: f64,
    /// Learning rate at the end.
    pub min_lr: f64,
    /// Epochs of the warm-up.
    pub warmup_epochs: f64,
    /// Decay of the moving average of the weights; `None` means that there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ema_decay: Option<f64>,
}

/// Augmentation of images, label smoothing and mixing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Augmentation {
    /// Strength of colour jitter, without a policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub color_jitter: Option<f64>,
    /// Augmentation policy, as timm names it; empty for none.
    pub aa: String,
    /// Label smoothing.
    pub smoothing: f64,
    /// Probability of random erasing.
    pub reprob: f64,
    /// What fills erased boxes: `pixel`, `rand` or `const`.
    pub remode: String,
    /// Largest number of erased boxes.
    pub recount: u32,
    /// α of mixup.
    pub mixup: f64,
    /// α of CutMix.
    pub cutmix: f64,
    /// Smallest and largest side of the box of CutMix, as fractions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cutmix_minmax: Option<[f64; 2]>,
    /// Probability of mixing.
    pub mixup_prob: f64,
    /// Probability of CutMix if both are possible.
    pub mixup_switch_prob: f64,
    /// `batch`, `pair` or `elem`.
    pub mixup_mode: MixupMode,
}

/// A setting that differs between two runs, as TOML. A value that is not set is `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Name of the setting.
    pub name: String,
    /// The value of the first run.
    pub before: Option<String>,
    /// The value of the second run.
    pub now: Option<String>,
}

impl Settings {
    /// Returns the peak learning rate.
    pub fn learning_rate(&self) -> f64 {
        let samples = self.samples_per_step() as f64;
        let optimisation = &self.optimisation;
        optimisation.lr.unwrap_or(optimisation.blr * samples / BASE_BATCH)
    }

    /// Uses the sizes of the encoder in the weight file or run directory `path` where none are set. A file that has no encoder changes
    /// nothing.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read, or the number of attention heads is unknown.
    pub fn use_sizes_of(&mut self, path: &Path) -> Result<()> {
        let file = files::map(path)?;
        let encoder = match sizes::encoder(&files::index(&file)?, self.sizes.heads) {
            Ok(encoder) => encoder,
            Err(source @ SizeError::UnknownHeads { .. }) => {
                return Err(TrainError::UnknownHeads {
                    path: path.to_path_buf(),
                    source,
                });
            }
            Err(_) => return Ok(()),
        };
        if let Some(assumption) = encoder.assumption {
            warn!(
                "{}: {assumption}; the setting heads names another number",
                path.display()
            );
        }
        let sizes = &mut self.sizes;
        sizes.patch_size.get_or_insert(encoder.patch_size);
        sizes.width.get_or_insert(encoder.width);
        sizes.depth.get_or_insert(encoder.depth);
        sizes.heads.get_or_insert(encoder.heads);
        Ok(())
    }

    /// Returns the settings as TOML.
    ///
    /// # Errors
    /// Returns an error if a number is too large for TOML.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|error| ConfigError::Contradiction(error.to_string()).into())
    }

    /// Reads the text of [`Self::to_toml`].
    ///
    /// # Errors
    /// Returns an error if the text is not TOML, or a setting is missing or of another type.
    pub fn from_toml(text: &str) -> Result<Self> {
        toml::from_str(text).map_err(|error| {
            ConfigError::Contradiction(format!("the settings of the run are damaged: {}", error.message())).into()
        })
    }

    /// Whether TOML has settings of this kind, and not the keys of `vlct run`, none of which has this name.
    pub(crate) fn is_text_of(text: &str) -> bool {
        toml::from_str::<toml::Table>(text).is_ok_and(|table| table.contains_key("data_path"))
    }

    /// Returns the settings that differ from those in `before`, sorted by name.
    pub fn changes(&self, before: &Self) -> Vec<Change> {
        let (before, now) = (before.values(), self.values());
        let names: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
        let change = |name: &String| Change {
            name: name.clone(),
            before: before.get(name).map(ToString::to_string),
            now: now.get(name).map(ToString::to_string),
        };
        let changes = names.into_iter().map(change);
        changes.filter(|change| change.before != change.now).collect()
    }

    /// Returns the values that are set, by name, those of the parts among the others.
    fn values(&self) -> toml::Table {
        let mut values = toml::Table::new();
        for (name, value) in toml::Table::try_from(self).unwrap_or_default() {
            match value {
                toml::Value::Table(part) => values.extend(part),
                value => drop(values.insert(name, value)),
            }
        }
        values
    }

    /// Number of samples of an optimiser step.
    pub fn samples_per_step(&self) -> u64 {
        self.batch_size.saturating_mul(self.accum_iter)
    }

    /// Returns the rules by which the images are divided into splits.
    pub fn rules(&self) -> FileRules {
        FileRules {
            fewer_shards: false,
            honest_validation: false,
            vgqa: false,
            val_fraction: self.val_fraction,
            reading: ReadingRule::default(),
            vqa_test: VqaTest::Test,
        }
    }

    /// Returns the run of these settings on images with these classes.
    ///
    /// # Errors
    /// Returns an error if a value is out of range or not known, or contradicts linear probing.
    pub fn run_spec(&self, classes: Vec<String>) -> Result<RunSpec> {
        self.check_probe()?;
        let (rule, layer_decay) = match self.linear_probe {
            true => (Rule::Lars, 1.0),
            false => (Rule::AdamWPyTorch, self.optimisation.layer_decay),
        };
        let base = Config::default();
        Ok(RunSpec {
            seed: self.seed,
            test_only: false,
            trial: None,
            experiment: PathBuf::new(),
            tag: self
                .finetune
                .as_ref()
                .map(|path| spec::tag(&path.to_string_lossy()))
                .unwrap_or_default(),
            compute: spec::compute(&base),
            model: ModelConfig::Vit(self.model(classes.len())?),
            weights: WeightsSpec {
                pretrain_path: None,
                load_path: self.finetune.clone(),
                vocabulary: None,
                averages: false,
                skip_heads: false,
                partial: false,
                resume_from: None,
            },
            task: TaskSpec::Images(ImagesSpec {
                names: classes,
                smoothing: self.augmentation.smoothing as f32,
                mixup: self.mixup(),
            }),
            data: DataSpec {
                classes: Some(self.data_path.clone()),
                root: PathBuf::new(),
                datasets: Vec::new(),
                rules: self.rules(),
                tokenizer: base.tokenizer.clone(),
                max_text_len: base.max_text_len,
                image_size: self.input_size,
                train_transform: match self.linear_probe {
                    true => TransformSpec::LinearProbeTrain,
                    false => TransformSpec::ClassificationTrain(Box::new(self.augment()?)),
                },
                val_transform: TransformSpec::ClassificationEval,
                workers: self.num_workers.max(1),
            },
            optimizer: OptimizerSpec {
                rule,
                weight_decay: self.optimisation.weight_decay,
                groups: GroupRule::ClassifierLayers { layer_decay },
                learning_rate: self.learning_rate(),
                end_lr: self.optimisation.min_lr,
                decay: DecayPower::Cosine,
                half_cosine: Some(HalfCosine {
                    learning_rate: self.learning_rate(),
                    min_lr: self.optimisation.min_lr,
                    warmup_epochs: self.optimisation.warmup_epochs,
                    epochs: self.epochs as f64,
                }),
                clip_norm: self.optimisation.clip_grad,
            },
            ema: self.optimisation.ema_decay.map(|decay| EmaSpec {
                decay,
                evaluation: true,
            }),
            freeze: FreezeSpec::default(),
            length: Length {
                batch_size: self.samples_per_step(),
                micro_batch: self.batch_size,
                max_steps: None,
                max_epoch: self.epochs,
                warmup: Warmup::Steps(0),
                validation: ValCheckInterval::Fraction(1.0),
                validation_epochs: 1,
                whole_windows: true,
            },
            validation: ValidationSpec {
                batches: 0,
                sanity_batches: 0,
                patience: None,
                recalls: None,
                annotations: None,
            },
            answers: None,
            checkpoint_every: 0,
            keep_checkpoints: 0,
            published: Some(PublishedSpec { keep: self.keep }),
            start_epoch: self.start_epoch,
            log_every: 1,
            config: self.to_toml()?,
        })
    }

    /// Checks that linear probing has no settings that only fine-tuning has, and batches with a variance.
    fn check_probe(&self) -> std::result::Result<(), ConfigError> {
        if !self.linear_probe {
            return Ok(());
        }
        let augmentation = &self.augmentation;
        let not_used = [
            ("drop_path", self.drop_path > 0.0),
            ("aa", !self.has_no_policy()),
            ("color_jitter", augmentation.color_jitter.is_some()),
            ("smoothing", augmentation.smoothing > 0.0),
            ("reprob", augmentation.reprob > 0.0),
            ("mixup and cutmix", self.mixup().is_some()),
        ];
        if let Some((flags, _)) = not_used.iter().find(|(_, is_set)| *is_set) {
            return Err(ConfigError::Contradiction(format!(
                "linear probing trains the head on cropped and mirrored images only: leave out {flags}"
            )));
        }
        if self.batch_size < 2 {
            return Err(ConfigError::Contradiction(
                "the batch norm of linear probing needs a batch size of at least 2".into(),
            ));
        }
        Ok(())
    }

    fn has_no_policy(&self) -> bool {
        matches!(self.augmentation.aa.as_str(), "" | "none")
    }

    /// Returns the sizes of the model.
    fn model(&self, classes: usize) -> std::result::Result<VitConfig, ConfigError> {
        let Some(named) = VitConfig::from_name(&self.model, self.input_size, classes) else {
            return Err(ConfigError::Contradiction(format!(
                "unknown model {:?}: vit_base_patch16, vit_large_patch16 and vit_huge_patch14 are known",
                self.model
            )));
        };
        let Sizes {
            patch_size,
            width,
            depth,
            heads,
        } = self.sizes;
        let config = VitConfig {
            patch_size: patch_size.unwrap_or(named.patch_size),
            width: width.unwrap_or(named.width),
            depth: depth.unwrap_or(named.depth),
            heads: heads.unwrap_or(named.heads),
            global_pool: self.global_pool,
            drop_path: self.drop_path as f32,
            linear_probe: self.linear_probe,
            ..named
        };
        spec::size::check_image_size("input_size", config.image_size, config.patch_size.max(1))?;
        sizes::check_vit(&config).map_err(|error| ConfigError::Contradiction(error.to_string()))?;
        Ok(config)
    }

    /// Returns mixup and CutMix; `None` if images are not mixed.
    fn mixup(&self) -> Option<MixupSpec> {
        let augmentation = &self.augmentation;
        let spec = MixupSpec {
            mixup_alpha: augmentation.mixup,
            cutmix_alpha: augmentation.cutmix,
            cutmix_minmax: augmentation.cutmix_minmax,
            probability: augmentation.mixup_prob,
            switch_probability: augmentation.mixup_switch_prob,
            mode: augmentation.mixup_mode,
        };
        spec.is_active().then_some(spec)
    }

    fn augment(&self) -> Result<ClassificationAugment> {
        let Augmentation {
            color_jitter,
            aa,
            reprob,
            remode,
            recount,
            ..
        } = &self.augmentation;
        let colour = match (self.has_no_policy(), color_jitter) {
            (true, None) => ColourAugment::None,
            (true, Some(strength)) => ColourAugment::Jitter(Jitter::new(*strength)?),
            (false, _) => ColourAugment::Policy(aa.parse::<Policy>()?),
        };
        let mode: ErasingMode = remode.parse()?;
        let erasing = match *reprob > 0.0 {
            true => Some(Erasing::new(*reprob, mode, *recount)?),
            false => None,
        };
        Ok(ClassificationAugment { colour, erasing })
    }
}

/// Warns of settings, as TOML, that have changed since a run began and affect its result.
///
/// # Errors
/// Returns [`TrainError::OtherMicroBatchSize`] if the size of micro-batches differs, and an error if the text is not TOML.
pub(crate) fn warn_of_changes(before: &str, now: &str) -> Result<()> {
    const WITHOUT_EFFECT_ON_RESULT: [&str; 5] = ["num_workers", "keep", "finetune", "data_path", "start_epoch"];
    let (before, now) = (Settings::from_toml(before)?, Settings::from_toml(now)?);
    // The position in an epoch is counted in micro-batches, so their size must not change.
    if before.batch_size != now.batch_size {
        return Err(TrainError::OtherMicroBatchSize {
            before: before.batch_size,
            now: now.batch_size,
        });
    }
    for Change { name, before, now } in now.changes(&before) {
        if !WITHOUT_EFFECT_ON_RESULT.contains(&name.as_str()) {
            let text = |value: Option<String>| value.unwrap_or_else(|| "not set".into());
            warn!(
                "{name} was {} when the run began and is {} now",
                text(before),
                text(now)
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paths::RunSettings;

    /// The settings of the published command, whose 32 processes are 32 micro-batches here.
    fn published() -> Settings {
        Settings {
            batch_size: 32,
            epochs: 100,
            start_epoch: 0,
            accum_iter: 32,
            model: "vit_base_patch16".into(),
            sizes: Sizes::default(),
            input_size: 384,
            linear_probe: false,
            drop_path: 0.1,
            global_pool: true,
            finetune: Some("vlc.ckpt".into()),
            data_path: "IMAGENET".into(),
            val_fraction: 0.0,
            seed: 0,
            num_workers: 10,
            keep: None,
            optimisation: Optimisation {
                clip_grad: None,
                weight_decay: 0.05,
                lr: None,
                blr: 5e-4,
                layer_decay: 0.65,
                min_lr: 1e-6,
                warmup_epochs: 5.0,
                ema_decay: None,
            },
            augmentation: Augmentation {
                color_jitter: None,
                aa: "rand-m9-mstd0.5-inc1".into(),
                smoothing: 0.1,
                reprob: 0.25,
                remode: "pixel".into(),
                recount: 1,
                mixup: 0.8,
                cutmix: 1.0,
                cutmix_minmax: None,
                mixup_prob: 1.0,
                mixup_switch_prob: 0.5,
                mixup_mode: MixupMode::Batch,
            },
        }
    }

    #[test]
    fn the_published_command_gives_the_published_values() {
        let settings = published();
        assert!((settings.learning_rate() - 2e-3).abs() < 1e-12);
        let spec = settings.run_spec(vec!["a".into(), "b".into()]).unwrap();
        let ModelConfig::Vit(model) = &spec.model else {
            panic!("a classifier")
        };
        assert_eq!((model.patches(), model.classes, model.depth), (576, 2, 12));
        assert_eq!(spec.length.batch_size, 1024);
        let TaskSpec::Images(task) = &spec.task else {
            panic!("images")
        };
        assert!(task.mixup.as_ref().is_some_and(|mixup| mixup.cutmix_alpha == 1.0));
        let text: Settings = toml::from_str(&spec.config).unwrap();
        assert_eq!(text, settings);
    }

    #[test]
    fn values_that_do_not_fit_are_errors() {
        let changed = |change: fn(&mut Settings)| {
            let mut settings = published();
            change(&mut settings);
            let spec = settings.run_spec(vec!["a".into(), "b".into()]);
            spec.map(drop).map_err(|error| error.to_string())
        };
        for (change, part) in [
            (
                (|s| s.model = "resnet50".into()) as fn(&mut Settings),
                "vit_base_patch16",
            ),
            (|s| s.input_size = 225, "multiple of the patch size 16"),
            (
                |s| s.sizes.heads = Some(7),
                "7 attention heads do not divide the width 768",
            ),
            (|s| s.sizes.depth = Some(0), "depth 0"),
            (|s| s.augmentation.aa = "augmix-m5".into(), "augmix"),
            (|s| s.augmentation.remode = "noise".into(), "noise"),
        ] {
            let message = changed(change).expect_err(part);
            assert!(message.contains(part) && !message.contains('\n'), "{message}");
        }
    }

    /// The settings of linear probing, which has no augmentation but crops.
    fn probe() -> Settings {
        let mut settings = published();
        settings.linear_probe = true;
        settings.drop_path = 0.0;
        settings.augmentation.aa = String::new();
        (settings.augmentation.smoothing, settings.augmentation.reprob) = (0.0, 0.0);
        (settings.augmentation.mixup, settings.augmentation.cutmix) = (0.0, 0.0);
        settings
    }

    #[test]
    fn linear_probing_trains_the_head_alone_by_lars() {
        let spec = probe().run_spec(vec!["a".into(), "b".into()]).unwrap();
        assert_eq!(spec.optimizer.rule, Rule::Lars);
        assert_eq!(spec.data.train_transform, TransformSpec::LinearProbeTrain);
        assert!(matches!(&spec.model, ModelConfig::Vit(model) if model.linear_probe));
        for (change, part) in [
            ((|s| s.augmentation.mixup = 0.8) as fn(&mut Settings), "mixup"),
            (|s| s.augmentation.aa = "rand-m9".into(), "leave out aa"),
            (|s| s.drop_path = 0.1, "drop_path"),
            (|s| s.batch_size = 1, "at least 2"),
        ] {
            let mut settings = probe();
            change(&mut settings);
            let error = settings.run_spec(vec!["a".into()]).map(drop).unwrap_err().to_string();
            assert!(error.contains(part) && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn changes_are_those_of_single_settings() {
        let mut other = published();
        (other.optimisation.blr, other.keep, other.finetune) = (1e-3, Some(2), None);
        let changes = other.changes(&published());
        let texts = changes
            .iter()
            .map(|c| (&c.name[..], c.before.as_deref(), c.now.as_deref()));
        assert_eq!(
            texts.collect::<Vec<_>>(),
            [
                ("blr", Some("0.0005"), Some("0.001")),
                ("finetune", Some("\"vlc.ckpt\""), None),
                ("keep", None, Some("2")),
            ]
        );
        assert!(published().changes(&published()).is_empty());
    }

    #[test]
    fn settings_are_distinguished_from_keys() {
        let text = published().to_toml().unwrap();
        assert!(matches!(RunSettings::parse(&text), Ok(RunSettings::Classifier(read)) if *read == published()));
        let keys = Config::default();
        assert!(matches!(RunSettings::parse(&keys.to_toml()), Ok(RunSettings::Keys(read)) if *read == keys));
        assert!(RunSettings::parse(&text.replace("epochs", "epoch")).is_err());
        assert!(!vlct_config::KEYS.iter().any(|key| key.name == "data_path"));
    }

    #[test]
    fn another_micro_batch_cannot_be_resumed() {
        let text = |settings: &Settings| toml::to_string(settings).unwrap();
        let mut other = published();
        other.batch_size = 16;
        assert!(warn_of_changes(&text(&published()), &text(&other)).is_err());
        other.batch_size = 32;
        other.epochs = 120;
        assert!(warn_of_changes(&text(&published()), &text(&other)).is_ok());
        assert!(warn_of_changes("x", &text(&other)).is_err());
    }
}
