//! Opening of weight files: a model with the preparation of its inputs.

use std::path::{Path, PathBuf};

use vlct_image::{Background, MEAN, Orientation, Reading, STD, Transform, TransformKind};
use vlct_model::files::{self, WeightIndex};
use vlct_model::sizes::{self, GivenHeads, Sizes};
use vlct_model::{ModelConfig, Vlc, VlcConfig};
use vlct_tasks::description::{InputDescription, VocabularyDifference};
use vlct_tasks::{Description, TaskSpec};
use vlct_tensor::{Compute, Precision};
use vlct_text::Tokenizer;

use crate::{Head, PredictError, Preparation, Result};

/// Largest image size in pixels.
const MAX_IMAGE_SIZE: usize = 4096;
/// The tokenizer of the published models.
const PUBLISHED_TOKENIZER: &str = "bert-base-uncased";

/// Settings that replace those of the file.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// Side of the images in pixels. The position tables are resized.
    pub image_size: Option<usize>,
    /// The tokenizer.
    pub tokenizer: Option<Tokenizer>,
    /// Number format; `None` means bfloat16 if the CPU has fast bfloat16, else f32.
    pub precision: Option<Precision>,
    /// Numbers of attention heads, for files that do not state them.
    pub heads: GivenHeads,
    /// What stands behind transparent pixels; `None` means as in training on custom datasets, else white.
    pub background: Option<Background>,
    /// Whether the orientation tag is applied; `None` means as in training on custom datasets, else upright.
    pub orientation: Option<Orientation>,
    /// Whether texts that are too long are truncated, as in training. Otherwise they are errors.
    pub truncate: bool,
}

/// A model for predictions.
pub struct Predictor {
    path: PathBuf,
    model: Vlc,
    preparation: Preparation,
    task: Option<TaskSpec>,
    heads: Vec<Head>,
    notes: Vec<String>,
}

impl Predictor {
    /// Opens the weights of a path (see [`files::find`]), such as a checkpoint, a run directory or a weight file. Only the heads of
    /// `wanted` are loaded, and not those that the file lacks: a task checks whether its head is there.
    ///
    /// Every weight is copied once. The checksum of a checkpoint is verified.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read or is not a VLC model, or an option does not fit the model.
    pub fn open(path: &Path, wanted: &[Head], options: &OpenOptions) -> Result<Self> {
        let file = files::map(path)?;
        let path = file.path().to_path_buf();
        let index = files::index(&file)?;
        let description = Description::of(&path, &index)?;
        let mut notes = Vec::new();
        let mut config = match &description {
            Some(Description {
                model: ModelConfig::Vlc(config),
                ..
            }) => config.clone(),
            Some(_) => return Err(PredictError::ImageClassifier { path: path.clone() }),
            None => {
                let derived = sizes::derive(&index, options.heads);
                let Sizes { config, assumptions } = derived.map_err(|source| PredictError::Sizes {
                    path: path.clone(),
                    source,
                })?;
                notes.extend(assumptions.iter().map(ToString::to_string));
                config
            }
        };
        sizes::check(&config).map_err(|source| PredictError::Sizes {
            path: path.clone(),
            source,
        })?;
        let heads: Vec<Head> = Head::ALL.into_iter().filter(|head| head.is_in(&config)).collect();
        for head in heads.iter().filter(|head| !wanted.contains(head)) {
            head.remove_from(&mut config);
        }
        config.image_size = image_size(&config, options.image_size)?;
        let preparation = preparation(&path, &index, &config, description.as_ref(), options, &mut notes)?;
        let (mut model, report) = Vlc::read(config, &index).map_err(|source| PredictError::Weights {
            path: path.clone(),
            source,
        })?;
        notes.extend(report.resized.iter().map(|change| format!("resized {change}")));
        model.set_compute(compute(options.precision));
        Ok(Self {
            path,
            model,
            preparation,
            task: description.map(|description| description.task),
            heads,
            notes,
        })
    }

    /// Returns the weight file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the model, with those of the file's heads that were wanted.
    pub fn model(&self) -> &Vlc {
        &self.model
    }

    /// Returns the preparation of inputs.
    pub fn preparation(&self) -> &Preparation {
        &self.preparation
    }

    /// Returns the task that the model was trained for, if the file states it.
    pub fn task(&self) -> Option<&TaskSpec> {
        self.task.as_ref()
    }

    /// Returns all heads of the file.
    pub fn heads(&self) -> &[Head] {
        &self.heads
    }

    /// Returns what was assumed or changed: sizes that the file does not state, tables that were resized.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Returns the first of `needed` that is loaded.
    ///
    /// # Errors
    /// Returns [`PredictError::NoHead`] if none of them is loaded.
    pub fn require(&self, needed: &[Head]) -> Result<Head> {
        let loaded = needed.iter().find(|head| head.is_in(self.model.config()));
        loaded.copied().ok_or_else(|| PredictError::NoHead {
            path: self.path.clone(),
            needed: needed.to_vec(),
            found: self.heads.clone(),
        })
    }
}

fn image_size(config: &VlcConfig, given: Option<usize>) -> Result<usize> {
    let patch_size = config.backbone.patch_size;
    match given {
        None => Ok(config.image_size),
        Some(size) if (patch_size..=MAX_IMAGE_SIZE).contains(&size) && size.is_multiple_of(patch_size) => Ok(size),
        Some(size) => Err(PredictError::ImageSize {
            size,
            patch_size,
            max: MAX_IMAGE_SIZE,
        }),
    }
}

/// Returns the settings of a computation in this precision; `None` means bfloat16 if the CPU has fast bfloat16, else f32.
pub fn compute(precision: Option<Precision>) -> Compute {
    let compute = Compute::default();
    let fastest = match compute.device.bf16_is_fast() {
        true => Precision::Bf16,
        false => Precision::F32,
    };
    Compute {
        precision: precision.unwrap_or(fastest),
        ..compute
    }
}

fn preparation(
    path: &Path,
    index: &WeightIndex,
    config: &VlcConfig,
    description: Option<&Description>,
    options: &OpenOptions,
    notes: &mut Vec<String>,
) -> Result<Preparation> {
    let inputs = description.map(|description| &description.inputs);
    if inputs.is_some_and(|inputs| inputs.mean != MEAN || inputs.deviation != STD) {
        return Err(PredictError::Inputs {
            path: path.to_path_buf(),
            reason: "its images are normalised with a mean and deviation other than those of ImageNet, which predictions do not support",
        });
    }
    let tokenizer = match (&options.tokenizer, inputs) {
        (Some(tokenizer), inputs) => {
            if let Some(inputs) = inputs {
                compare_vocabulary(path, inputs, tokenizer, notes)?;
            }
            tokenizer.clone()
        }
        (None, Some(inputs)) => inputs.to_spec(path)?.tokenizer,
        (None, None) => {
            if let Some(name) = published_tokenizer(index).filter(|name| *name != PUBLISHED_TOKENIZER) {
                notes.push(format!(
                    "the model was trained with the tokenizer {name:?}; {PUBLISHED_TOKENIZER} is used, because the file does not contain it"
                ));
            }
            Tokenizer::bert_base_uncased()
        }
    };
    if tokenizer.len() > config.vocab_size {
        return Err(PredictError::TokenizerSize {
            tokens: tokenizer.len(),
            rows: config.vocab_size,
        });
    }
    let reading = inputs.and_then(|inputs| inputs.reading).unwrap_or(Reading::CUSTOM);
    let max_text_len = inputs.map_or(config.max_text_len, |inputs| inputs.max_text_len);
    Ok(Preparation {
        transform: Transform::new(TransformKind::MaeTest, config.image_size)
            .map_err(|error| PredictError::Data(error.into()))?,
        reading: Reading {
            background: options.background.unwrap_or(reading.background),
            orientation: options.orientation.unwrap_or(reading.orientation),
        },
        tokenizer,
        max_text_len: max_text_len.min(config.max_text_len),
        truncate: options.truncate,
    })
}

/// Compares a given tokenizer with the vocabulary of the weights. Notes whether only one of the two lower-cases text.
///
/// # Errors
/// Returns [`PredictError::OtherVocabulary`] if an id stands for other tokens.
fn compare_vocabulary(
    path: &Path,
    inputs: &InputDescription,
    tokenizer: &Tokenizer,
    notes: &mut Vec<String>,
) -> Result<()> {
    match inputs.unsuitable_difference(tokenizer) {
        None => Ok(()),
        Some(VocabularyDifference::Case { lower_case }) => {
            notes.push(format!(
                "the model was trained with {} text, which the given tokenizer does not give",
                if lower_case { "lower-case" } else { "cased" }
            ));
            Ok(())
        }
        Some(difference) => Err(PredictError::OtherVocabulary {
            path: path.to_path_buf(),
            difference,
        }),
    }
}

/// Returns the tokenizer that the hyper-parameters of a published checkpoint name.
fn published_tokenizer<'f>(index: &'f WeightIndex) -> Option<&'f str> {
    index.summary.hyper_parameters.get("config")?.get("tokenizer")?.as_str()
}
