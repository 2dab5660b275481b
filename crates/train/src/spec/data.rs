//! Datasets of a run, and their preparation.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use vlct_config::Config;
use vlct_data::datasets::{FileRules, ReadingRule, VqaTest};
use vlct_image::{ImageFormat, Normalisation, TransformKind, TransformSpec};

use super::size;
use crate::error::Result;

/// Datasets and their preparation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataSpec {
    /// Directory of images with one class each, which the run reads instead of datasets; see [`vlct_classes`].
    pub classes: Option<PathBuf>,
    /// Directory of the Arrow files.
    pub root: PathBuf,
    /// Names of the datasets, concatenated in this order.
    pub datasets: Vec<String>,
    /// Which files belong to a split.
    pub rules: FileRules,
    /// `bert-base-uncased`, or the path of a vocabulary.
    pub tokenizer: String,
    /// Maximum number of tokens of a text, including `[CLS]` and `[SEP]`.
    pub max_text_len: usize,
    /// Side of square input images, or shorter side of images that keep their proportions, in pixels.
    pub image_size: usize,
    /// The sides of images that keep their proportions are multiples of this number of pixels; `None` means that of the published models.
    #[serde(default)]
    pub size_divisor: Option<usize>,
    /// How levels become values; `None` means as in the published models with the same transform.
    #[serde(default)]
    pub normalisation: Option<Normalisation>,
    /// Largest number of patches of an image that the encoder sees; `None` means all.
    #[serde(default)]
    pub max_patches: Option<usize>,
    /// Image transform of training.
    pub train_transform: TransformSpec,
    /// Image transform of validation and test.
    pub val_transform: TransformSpec,
    /// Number of threads that prepare batches, at least 1.
    pub workers: usize,
}

impl DataSpec {
    /// Resolves the settings of a configuration.
    ///
    /// # Errors
    /// Returns an error if a transform has a name that is not known.
    pub(super) fn resolve(config: &Config) -> Result<Self> {
        let transform = |keys: &[String]| -> Result<TransformSpec> {
            let kind: TransformKind = keys.first().map(String::as_str).unwrap_or_default().parse()?;
            Ok(kind.into())
        };
        let (train_transform, val_transform) = (
            transform(&config.train_transform_keys)?,
            transform(&config.val_transform_keys)?,
        );
        Ok(Self {
            classes: None,
            root: PathBuf::from(&config.data_root),
            datasets: config.datasets.clone(),
            rules: file_rules(config),
            tokenizer: config.tokenizer.clone(),
            max_text_len: config.max_text_len,
            image_size: config.image_size,
            size_divisor: Some(config.size_divisor),
            normalisation: normalisation(config, &val_transform),
            max_patches: size::position_size(config)
                .and(usize::try_from(config.max_image_len).ok())
                .filter(|patches| *patches > 0),
            train_transform,
            val_transform,
            workers: config.num_workers.max(1),
        })
    }

    /// Sizes and values of the images.
    pub fn format(&self) -> ImageFormat {
        let published = self.val_transform.published_format(self.image_size);
        ImageFormat {
            size: self.image_size,
            multiple: self.size_divisor.unwrap_or(published.multiple),
            normalisation: self.normalisation.unwrap_or(published.normalisation),
        }
    }
}

/// Returns the normalisation that the keys set; what they do not set is that of the transform. `None` if they set nothing.
fn normalisation(config: &Config, transform: &TransformSpec) -> Option<Normalisation> {
    let (mean, deviation) = (config.image_mean, config.image_std);
    if mean.is_none() && deviation.is_none() {
        return None;
    }
    let published = transform.published_format(config.image_size).normalisation;
    let values =
        |given: Option<[f64; 3]>, published: [f32; 3]| given.map_or(published, |given| given.map(|v| v as f32));
    Some(Normalisation {
        mean: values(mean, published.mean),
        deviation: values(deviation, published.deviation),
    })
}

fn file_rules(config: &Config) -> FileRules {
    FileRules {
        fewer_shards: config.fewer_shards,
        honest_validation: config.honest_validation,
        vgqa: config.vgqa,
        val_fraction: config.val_fraction,
        reading: ReadingRule {
            background: config.background,
            orientation: config.orientation,
        },
        vqa_test: match config.vqa_test_split.as_str() {
            "test-dev" => VqaTest::TestDev,
            "rest_val" => VqaTest::RestVal,
            _ => VqaTest::Test,
        },
    }
}
