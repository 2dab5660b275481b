//! Opening of weight files: a model with the preparation of its inputs.

use std::path::{Path, PathBuf};

use vlct_image::{Background, Orientation, Reading, Transform};
use vlct_model::config::Positions;
use vlct_model::files;
use vlct_model::sizes::GivenHeads;
use vlct_model::{Vlc, VlcConfig};
use vlct_tasks::TaskSpec;
use vlct_tasks::description::{DescribedWeights, InputDescription, VocabularyDifference};
use vlct_tensor::{Compute, Device, Precision};
use vlct_text::Tokenizer;

use crate::{Head, PredictError, Preparation, Result};

/// Largest image size in pixels.
const MAX_IMAGE_SIZE: usize = 4096;

/// Settings that replace those of the file.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// Side of the images in pixels, or their shorter side if they keep their proportions. Fixed position tables are resized.
    pub image_size: Option<usize>,
    /// The tokenizer.
    pub tokenizer: Option<Tokenizer>,
    /// The device.
    pub device: Device,
    /// Number format; `None` means bfloat16 if it is fast on the device, else f32.
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
        let described = DescribedWeights::read(&path, &index, options.heads)?;
        let mut notes: Vec<String> = described.assumptions.iter().map(ToString::to_string).collect();
        notes.extend(described.notes.iter().cloned());
        let mut config = described.model.clone();
        let heads: Vec<Head> = Head::ALL.into_iter().filter(|head| head.is_in(&config)).collect();
        for head in heads.iter().filter(|head| !wanted.contains(head)) {
            head.remove_from(&mut config);
        }
        let preparation = preparation(&path, &mut config, &described, options, &mut notes)?;
        let (mut model, report) = Vlc::read(config, &index).map_err(|source| PredictError::Weights {
            path: path.clone(),
            source,
        })?;
        notes.extend(report.resized.iter().map(|change| format!("resized {change}")));
        model.set_compute(compute(options.device, options.precision));
        Ok(Self {
            path,
            model,
            preparation,
            task: described.task,
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

/// Returns the settings of a computation on a device in this precision; `None` means bfloat16 if it is fast on the device, else f32.
pub fn compute(device: Device, precision: Option<Precision>) -> Compute {
    let fastest = match device.bf16_is_fast() {
        true => Precision::Bf16,
        false => Precision::F32,
    };
    Compute {
        device,
        precision: precision.unwrap_or(fastest),
        ..Compute::default()
    }
}

/// Makes the preparation of inputs. A given image size changes the position table of `config`, unless the table is interpolated for each
/// image.
fn preparation(
    path: &Path,
    config: &mut VlcConfig,
    described: &DescribedWeights,
    options: &OpenOptions,
    notes: &mut Vec<String>,
) -> Result<Preparation> {
    let mut format = described.format;
    let keeps_proportions = described.transform.keeps_proportions();
    if let Some(size) = options.image_size {
        let multiple = match keeps_proportions {
            true => format.multiple,
            false => config.backbone.patch_size,
        };
        if !(multiple..=MAX_IMAGE_SIZE).contains(&size) || !keeps_proportions && !size.is_multiple_of(multiple) {
            return Err(PredictError::ImageSize {
                size,
                rule: match keeps_proportions {
                    true => format!("a shorter side of {multiple} to {MAX_IMAGE_SIZE} pixels"),
                    false => format!("a multiple of the patch size {multiple} up to {MAX_IMAGE_SIZE}"),
                },
            });
        }
        format.size = size;
    }
    if config.variant.positions == Positions::Fixed {
        config.image_size = format.size;
    }
    let tokenizer = match (&options.tokenizer, &described.inputs) {
        (Some(tokenizer), inputs) => {
            if let Some(inputs) = inputs {
                compare_vocabulary(path, inputs, tokenizer, notes)?;
            }
            tokenizer.clone()
        }
        (None, _) => described.tokenizer.clone(),
    };
    if tokenizer.len() > config.vocab_size {
        return Err(PredictError::TokenizerSize {
            tokens: tokenizer.len(),
            rows: config.vocab_size,
        });
    }
    let reading = described.reading.unwrap_or(Reading::CUSTOM);
    Ok(Preparation {
        transform: Transform::with_format(&described.transform, &format)
            .map_err(|error| PredictError::Data(error.into()))?,
        reading: Reading {
            background: options.background.unwrap_or(reading.background),
            orientation: options.orientation.unwrap_or(reading.orientation),
        },
        tokenizer,
        max_text_len: described.max_text_len,
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
