//! The description of a model in its checkpoint: sizes, task and preparation of inputs. With the description, weights can be used
//! without the configuration, the datasets and the vocabulary file of their run.

mod convert;
mod error;
mod export;
mod hugging_face;
mod weights;

use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vlct_checkpoint::{self as checkpoint, CheckpointError};
use vlct_image::{ImageFormat, Normalisation, Reading, TransformSpec};
use vlct_model::ModelConfig;
use vlct_model::files::{self, WeightIndex};
use vlct_text::{TextError, Tokenizer, Vocabulary};

use crate::inputs::InputSpec;
use crate::spec::TaskSpec;

pub use convert::{ConvertError, Converted, Names, convert};
pub use error::WeightsError;
pub use export::{ExportError, ExportOptions, ExportReport, export};
pub use weights::DescribedWeights;

/// Model, task and inputs of a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Description {
    /// Sizes and heads of the model.
    pub model: ModelConfig,
    /// The task that the model was trained for.
    pub task: TaskSpec,
    /// Preparation of images and texts.
    pub inputs: InputDescription,
    /// The kind of weights in the checkpoint.
    pub weights: WeightsKind,
}

/// Preparation of images and texts for a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InputDescription {
    /// Side of square images, or shorter side of images that keep their proportions, in pixels.
    pub image_size: usize,
    /// The sides of images that keep their proportions are multiples of this number of pixels.
    #[serde(default = "vilt_multiple")]
    pub size_multiple: usize,
    /// Mean of each channel, subtracted from values scaled to 0 to 1.
    pub mean: [f32; 3],
    /// Standard deviation of each channel. Values are divided by it after the subtraction of the mean.
    pub deviation: [f32; 3],
    /// Image transform of training.
    pub train_transform: TransformSpec,
    /// Image transform of validation and test.
    pub eval_transform: TransformSpec,
    /// WordPiece tokens by id; empty if the model reads no texts.
    pub vocabulary: Vec<String>,
    /// Whether the tokenizer lower-cases text and removes accents.
    pub lower_case: bool,
    /// Maximum number of tokens of a text, including `[CLS]` and `[SEP]`.
    pub max_text_len: usize,
    /// How the images of custom datasets became pixels; `None` for published datasets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reading: Option<Reading>,
}

/// A difference between the vocabulary of a description ("there") and that of a tokenizer ("here").
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VocabularyDifference {
    /// An id stands for other tokens.
    #[error("token {id} is {theirs:?} there and {ours:?} here")]
    Token {
        /// The id.
        id: usize,
        /// The token of the description.
        theirs: String,
        /// The token of the tokenizer.
        ours: String,
    },
    /// One of the two has more tokens.
    #[error("there are {theirs} tokens there and {ours} here")]
    Count {
        /// Number of tokens of the description.
        theirs: usize,
        /// Number of tokens of the tokenizer.
        ours: usize,
    },
    /// The tokens are the same, but only one of the two lower-cases text.
    #[error("text is {} there and {} here", case(*.lower_case), case(!*.lower_case))]
    Case {
        /// Whether the description is that of lower-cased text.
        lower_case: bool,
    },
}

/// The kind of weights in a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightsKind {
    /// The weights that the optimiser updates.
    Raw,
    /// The exponential moving average of the weights.
    Ema,
}

impl Description {
    /// Makes the description for the checkpoints of a run. `reading` is how the images of custom datasets became pixels.
    pub fn new(
        model: &ModelConfig,
        task: &TaskSpec,
        inputs: &InputSpec,
        reading: Option<Reading>,
        weights: WeightsKind,
    ) -> Self {
        Self {
            model: model.clone(),
            task: task.clone(),
            inputs: InputDescription {
                image_size: inputs.format.size,
                size_multiple: inputs.format.multiple,
                mean: inputs.format.normalisation.mean,
                deviation: inputs.format.normalisation.deviation,
                train_transform: inputs.train_transform.clone(),
                eval_transform: inputs.eval_transform.clone(),
                vocabulary: match task {
                    TaskSpec::Images(_) => Vec::new(),
                    _ => inputs.tokenizer.vocabulary().iter().map(str::to_owned).collect(),
                },
                lower_case: inputs.tokenizer.lower_case(),
                max_text_len: inputs.max_text_len,
                reading,
            },
            weights,
        }
    }

    /// Returns the description in the weight file `path`, a checkpoint of a run or a file that was converted from one; `None` for other
    /// files, and for checkpoints of the first format.
    ///
    /// # Errors
    /// Returns the error of [`Self::read`].
    pub fn of(path: &Path, index: &WeightIndex) -> Result<Option<Self>, CheckpointError> {
        let summary = &index.summary;
        match (summary.entry("format"), summary.entry("description")) {
            (Some(checkpoint::FORMAT), Some(json)) => Self::read(path, json).map(Some),
            _ => {
                let converted = summary.description.as_deref();
                converted.map(|json| Self::read(path, json)).transpose()
            }
        }
    }

    /// Returns the description in the file `path`, whose checksum is not verified; `None` as in [`Self::of`].
    ///
    /// # Errors
    /// Returns the error of [`Self::read`], or an error if the file cannot be read.
    pub fn of_file(path: &Path) -> Result<Option<Self>, CheckpointError> {
        if let Some(json) = checkpoint::read_description(path)? {
            return serde_json::from_value(json)
                .map(Some)
                .map_err(|error| invalid(path, &error));
        }
        let Ok(mapped) = files::map(path) else { return Ok(None) };
        files::index(&mapped).map_or(Ok(None), |index| Self::of(path, &index))
    }

    /// Reads the description of the checkpoint `path`, which is JSON.
    ///
    /// # Errors
    /// Returns [`CheckpointError::Mismatch`] if the description is invalid.
    pub fn read(path: &Path, json: &str) -> Result<Self, CheckpointError> {
        serde_json::from_str(json).map_err(|error| invalid(path, &error))
    }
}

fn invalid(path: &Path, error: &serde_json::Error) -> CheckpointError {
    CheckpointError::Mismatch {
        path: path.to_path_buf(),
        reason: format!("the description is invalid: {error}"),
    }
}

fn vilt_multiple() -> usize {
    ImageFormat::VILT_MULTIPLE
}

impl InputDescription {
    /// Returns sizes and values of images.
    pub fn format(&self) -> ImageFormat {
        ImageFormat {
            size: self.image_size,
            multiple: self.size_multiple,
            normalisation: Normalisation {
                mean: self.mean,
                deviation: self.deviation,
            },
        }
    }

    /// Returns the settings for preparing images and texts. `source` is the checkpoint, for messages.
    ///
    /// # Errors
    /// Returns an error if the vocabulary is invalid.
    pub fn to_spec(&self, source: &Path) -> Result<InputSpec, TextError> {
        let vocabulary = Vocabulary::from_tokens(source, &self.vocabulary)?;
        Ok(InputSpec {
            format: self.format(),
            train_transform: self.train_transform.clone(),
            eval_transform: self.eval_transform.clone(),
            tokenizer: Tokenizer::new(Arc::new(vocabulary), self.lower_case),
            max_patches: None,
            max_text_len: self.max_text_len,
        })
    }

    /// Returns the first difference between the vocabulary of the description and that of `tokenizer`; `None` if they are equal.
    pub fn vocabulary_difference(&self, tokenizer: &Tokenizer) -> Option<VocabularyDifference> {
        let (theirs, ours) = (self.vocabulary.len(), tokenizer.len());
        self.other_tokens(tokenizer)
            .next()
            .or_else(|| (theirs != ours).then_some(VocabularyDifference::Count { theirs, ours }))
            .or_else(|| self.other_case(tokenizer))
    }

    /// Returns the first difference because of which weights with this description do not suit `tokenizer`. Tokens of the description that
    /// BERT leaves unused (`[unused1]`) may have become words, and one of the two may have more tokens.
    pub fn unsuitable_difference(&self, tokenizer: &Tokenizer) -> Option<VocabularyDifference> {
        let is_used = |difference: &VocabularyDifference| !matches!(difference, VocabularyDifference::Token { theirs, .. } if theirs.starts_with("[unused"));
        let token = self.other_tokens(tokenizer).find(is_used);
        token.or_else(|| self.other_case(tokenizer))
    }

    fn other_tokens(&self, tokenizer: &Tokenizer) -> impl Iterator<Item = VocabularyDifference> {
        let pairs = self.vocabulary.iter().zip(tokenizer.vocabulary().iter()).enumerate();
        pairs
            .filter(|(_, (theirs, ours))| theirs != ours)
            .map(|(id, (theirs, ours))| VocabularyDifference::Token {
                id,
                theirs: theirs.clone(),
                ours: ours.into(),
            })
    }

    fn other_case(&self, tokenizer: &Tokenizer) -> Option<VocabularyDifference> {
        let lower_case = self.lower_case;
        (lower_case != tokenizer.lower_case()).then_some(VocabularyDifference::Case { lower_case })
    }
}

fn case(is_lower: bool) -> &'static str {
    if is_lower { "lower-cased" } else { "cased" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vlct_image::TransformKind;
    use vlct_model::VlcConfig;
    use vlct_model::config::{Backbone, Heads};

    #[test]
    fn reads_the_description_of_a_saved_checkpoint() {
        let model = ModelConfig::Vlc(VlcConfig {
            image_size: 384,
            backbone: Backbone::from_name("mae_vit_base_patch16").unwrap(),
            vocab_size: 30_522,
            max_text_len: 40,
            token_types: 2,
            variant: vlct_model::config::Variant::VLC,
            drop_rate: 0.1,
            heads: Heads::default(),
        });
        let inputs = InputSpec {
            format: TransformSpec::Named(TransformKind::MaeTest).published_format(384),
            train_transform: TransformKind::MaeRandaug.into(),
            eval_transform: TransformKind::MaeTest.into(),
            tokenizer: Tokenizer::bert_base_uncased(),
            max_patches: None,
            max_text_len: 40,
        };
        let answers = vec![Some("yes".into()), None];
        let task = TaskSpec::Vqa(crate::vqa::VqaSpec { answers });
        let description = Description::new(&model, &task, &inputs, Some(Reading::CUSTOM), WeightsKind::Raw);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("checkpoint.safetensors");
        let json = serde_json::to_value(&description).unwrap();
        checkpoint::save(&path, &[], &serde_json::Value::Null, &json).unwrap();
        let saved = checkpoint::load(&path).unwrap().description().unwrap().to_string();
        let read = Description::read(&path, &saved).unwrap();
        assert_eq!(read, description);
        let spec = read.inputs.to_spec(&path).unwrap();
        assert_eq!((spec.tokenizer.len(), spec.tokenizer.lower_case()), (30_522, true));
        assert_eq!(spec.tokenizer.token(101), Some("[CLS]"));
        let start = Some("token 101 is \"[START]\" there and \"[CLS]\" here");
        let case = Some("text is cased there and lower-cased here");
        for (change, any, unsuitable) in [
            ((|_| ()) as fn(&mut InputDescription), None, None),
            (
                |inputs| inputs.vocabulary[2009] = "[unused7]".into(),
                Some("token 2009 is \"[unused7]\" there and \"it\" here"),
                None,
            ),
            (|inputs| inputs.vocabulary[101] = "[START]".into(), start, start),
            (
                |inputs| drop(inputs.vocabulary.pop()),
                Some("there are 30521 tokens there and 30522 here"),
                None,
            ),
            (|inputs| inputs.lower_case = false, case, case),
        ] {
            let mut inputs = read.inputs.clone();
            change(&mut inputs);
            let text = |difference: Option<VocabularyDifference>| difference.map(|found| found.to_string());
            assert_eq!(text(inputs.vocabulary_difference(&spec.tokenizer)).as_deref(), any);
            assert_eq!(
                text(inputs.unsuitable_difference(&spec.tokenizer)).as_deref(),
                unsuitable
            );
        }
        let error = Description::read(&path, "\"nothing\"").unwrap_err();
        assert!(error.to_string().contains("description is invalid"), "{error}");
    }
}
