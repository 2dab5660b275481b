//! The settings of a run, and their text.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use vlct_config::ConfigError;
use vlct_data::datasets::{FileRules, ReadingRule, VqaTest};
use vlct_tasks::mixup::MixupMode;
use vlct_tensor::DeviceName;

use crate::error::Result;

/// Samples for which the base learning rate is stated.
const BASE_BATCH: f64 = 256.0;

/// Smallest area of a random crop, as published.
pub const MIN_CROP_AREA: f64 = 0.08;
/// Probability that an image is mirrored, as published.
pub const HFLIP: f64 = 0.5;

fn min_crop_area() -> f64 {
    MIN_CROP_AREA
}

fn hflip() -> f64 {
    HFLIP
}

fn one() -> u64 {
    1
}

fn is_one(ranks: &u64) -> bool {
    *ranks == 1
}

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
    /// Micro-batches of a rank per optimiser step.
    pub accum_iter: u64,
    /// Number of ranks.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub ranks: u64,
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
    /// The device.
    #[serde(default)]
    pub device: DeviceName,
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
    /// ε of the layer norms; `None` means MAE's 1e-6.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer_norm_eps: Option<f32>,
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
    /// Smallest area of a random crop, as a fraction of the image.
    #[serde(default = "min_crop_area")]
    pub min_crop_area: f64,
    /// Probability that an image is mirrored.
    #[serde(default = "hflip")]
    pub hflip: f64,
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

    /// Returns the settings of a run that continues with the settings `saved`, except those for whose names `is_given` holds.
    ///
    /// # Errors
    /// Returns an error if a number is too large for TOML.
    pub fn continuing(&self, saved: &Self, is_given: impl Fn(&str) -> bool) -> Result<Self> {
        let mut values = saved.values();
        values.extend(self.values().into_iter().filter(|(name, _)| is_given(name)));
        // A base rate replaces a rate.
        if is_given("blr") && !is_given("lr") {
            values.remove("lr");
        }
        let text = toml::to_string(&values).map_err(|error| ConfigError::Contradiction(error.to_string()))?;
        Self::from_toml(&text)
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

    /// Sets the number of ranks of a continued run. Unless `keeps_accumulation` is set, a step keeps its number of samples if the micro-batches
    /// can be divided among the ranks.
    pub fn continue_on(&mut self, ranks: u64, keeps_accumulation: bool) {
        let micro_batches = self.accum_iter.saturating_mul(self.ranks);
        if !keeps_accumulation && ranks > 0 && micro_batches.is_multiple_of(ranks) {
            self.accum_iter = micro_batches / ranks;
        }
        self.ranks = ranks;
    }

    /// Number of samples of an optimiser step.
    pub fn samples_per_step(&self) -> u64 {
        self.batch_size
            .saturating_mul(self.accum_iter)
            .saturating_mul(self.ranks)
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
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The settings of the published command, whose 32 processes are 32 micro-batches here.
    pub(in super::super) fn published() -> Settings {
        Settings {
            batch_size: 32,
            epochs: 100,
            start_epoch: 0,
            accum_iter: 32,
            ranks: 1,
            model: "vit_base_patch16".into(),
            sizes: Sizes::default(),
            input_size: 384,
            linear_probe: false,
            drop_path: 0.1,
            global_pool: true,
            finetune: Some("vlc.ckpt".into()),
            data_path: "IMAGENET".into(),
            val_fraction: 0.0,
            device: DeviceName::Cpu,
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
                min_crop_area: MIN_CROP_AREA,
                hflip: HFLIP,
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
    fn a_continued_run_has_the_saved_settings_except_those_that_are_given() {
        let mut saved = published();
        (saved.optimisation.lr, saved.epochs, saved.sizes.heads) = (Some(1e-3), 7, Some(4));
        saved.augmentation.cutmix_minmax = Some([0.25, 0.5]);
        let mut given = published();
        (given.optimisation.blr, given.epochs) = (2e-3, 9);
        let names = |names: &'static [&str]| move |name: &str| names.contains(&name);
        assert_eq!(given.continuing(&saved, names(&[])).unwrap(), saved);
        let mut expected = saved.clone();
        expected.epochs = 9;
        assert_eq!(given.continuing(&saved, names(&["epochs"])).unwrap(), expected);
        (expected.optimisation.lr, expected.optimisation.blr) = (None, 2e-3);
        assert_eq!(given.continuing(&saved, names(&["epochs", "blr"])).unwrap(), expected);
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
    fn a_step_keeps_its_samples_on_another_number_of_ranks() {
        let mut settings = published();
        let samples = settings.samples_per_step();
        settings.continue_on(8, false);
        assert_eq!((settings.accum_iter, settings.ranks), (4, 8));
        assert_eq!(settings.samples_per_step(), samples);
        assert!(settings.to_toml().unwrap().contains("ranks = 8"));
        settings.continue_on(1, false);
        assert_eq!(settings, published());
        settings.continue_on(3, false);
        assert_eq!((settings.accum_iter, settings.ranks), (32, 3));
        settings.continue_on(2, true);
        assert_eq!((settings.accum_iter, settings.ranks), (32, 2));
        assert_eq!(settings.learning_rate(), 2.0 * published().learning_rate());
    }
}
