//! What a weight file says about its model: sizes, task, and preparation of images and texts.
//!
//! Checkpoints of this program have a [`Description`]. Models of Hugging Face have files with settings beside the weights
//! ([`super::hugging_face`]). Published files have the configuration of their run, or nothing but their tensors; what they do not state is
//! that of the published models, and a note says so.

use std::path::Path;

use vlct_image::{ImageFormat, Normalisation, Reading, TransformKind, TransformSpec};
use vlct_model::files::WeightIndex;
use vlct_model::sizes::{self, Assumption, GivenHeads, Origin, Sizes};
use vlct_model::{ModelConfig, VlcConfig};
use vlct_text::{MaskingConfig, Tokenizer};

use super::error::WeightsError;
use super::hugging_face::{self, Settings};
use super::{Description, InputDescription, WeightsKind};
use crate::nlvr2::Nlvr2Spec;
use crate::pretrain::PretrainSpec;
use crate::retrieval::RetrievalSpec;
use crate::rows::Subset;
use crate::spec::TaskSpec;
use crate::vqa::VqaSpec;

/// Share of masked tokens in the published pre-training.
const MASKED_SHARE: f64 = 0.15;
/// Number of false captions per image in the published training of retrieval.
const FALSE_TEXTS: usize = 15;
/// The tokenizer of the published models.
const PUBLISHED_TOKENIZER: &str = "bert-base-uncased";

/// A vision-language model in a weight file.
#[derive(Clone)]
pub struct DescribedWeights {
    /// Sizes and heads.
    pub model: VlcConfig,
    /// The task that the model was trained for, if the file states it.
    pub task: Option<TaskSpec>,
    /// Sizes and values of images.
    pub format: ImageFormat,
    /// The transform of images in evaluation.
    pub transform: TransformSpec,
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// Maximum number of tokens of a text, including `[CLS]` and `[SEP]`.
    pub max_text_len: usize,
    /// How the images of custom datasets became pixels, if the file states it.
    pub reading: Option<Reading>,
    /// The preparation of images and texts, if the file or its neighbours contain the vocabulary.
    pub inputs: Option<InputDescription>,
    /// Numbers of attention heads that were assumed.
    pub assumptions: Vec<Assumption>,
    /// What was assumed beside these numbers, as sentences.
    pub notes: Vec<String>,
}

impl DescribedWeights {
    /// Finds out what the weight file `path` says about its model. `heads` are numbers of attention heads that the caller knows.
    ///
    /// # Errors
    /// Returns an error if the file is not that of a vision-language model, a setting beside it is invalid, or settings and tensors
    /// contradict each other.
    pub fn read(path: &Path, index: &WeightIndex, heads: GivenHeads) -> Result<Self, WeightsError> {
        if let Some(description) = Description::of(path, index)? {
            return Self::of_checkpoint(path, description);
        }
        let derived = sizes::derive(index, heads);
        let Sizes {
            config,
            assumptions,
            origin,
        } = derived.map_err(|source| WeightsError::Sizes {
            path: path.to_path_buf(),
            source,
        })?;
        let described = match origin {
            Origin::HuggingFaceVilt => Self::of_hugging_face(path, index, config)?,
            Origin::Vlc => Self::published(index, config, TransformKind::MaeTest),
            Origin::Vilt { is_stated } => {
                let mut described = Self::published(index, config, TransformKind::Pixelbert);
                if !is_stated {
                    described.notes.push(
                        "the file does not state which model it is; it has a learned position table and no decoder, so it is taken for \
                         ViLT, whose images keep their proportions"
                            .into(),
                    );
                }
                described
            }
        };
        let described = Self {
            assumptions,
            ..described
        };
        described.check(path)?;
        Ok(described)
    }

    fn of_checkpoint(path: &Path, description: Description) -> Result<Self, WeightsError> {
        let ModelConfig::Vlc(model) = description.model else {
            return Err(WeightsError::ImageClassifier {
                path: path.to_path_buf(),
            });
        };
        sizes::check(&model).map_err(|source| WeightsError::Sizes {
            path: path.to_path_buf(),
            source,
        })?;
        let inputs = description.inputs;
        let described = Self {
            max_text_len: inputs.max_text_len.min(model.max_text_len),
            model,
            task: Some(description.task),
            format: inputs.format(),
            transform: inputs.eval_transform.clone(),
            tokenizer: inputs.to_spec(path)?.tokenizer,
            reading: inputs.reading,
            inputs: Some(inputs),
            assumptions: Vec::new(),
            notes: Vec::new(),
        };
        described.check(path)?;
        Ok(described)
    }

    /// Describes a published model. The configuration in its file may name a tokenizer and the image size.
    fn published(index: &WeightIndex, model: VlcConfig, transform: TransformKind) -> Self {
        let config = index.summary.hyper_parameters.get("config");
        let configured = |key: &str| config.and_then(|config| config.get(key));
        let mut notes = Vec::new();
        let tokenizer = configured("tokenizer").and_then(|name| name.as_str());
        if let Some(name) = tokenizer.filter(|name| *name != PUBLISHED_TOKENIZER) {
            notes.push(format!(
                "the model was trained with the tokenizer {name:?}; {PUBLISHED_TOKENIZER} is used, because the file does not contain it"
            ));
        }
        // The images of VLC have the size of the position table.
        let size = match transform.keeps_proportions() {
            true => configured("image_size").and_then(|size| usize::try_from(size.as_u64()?).ok()),
            false => None,
        };
        let transform = TransformSpec::Named(transform);
        Self {
            task: None,
            format: transform.published_format(size.unwrap_or(model.image_size)),
            transform,
            tokenizer: Tokenizer::bert_base_uncased(),
            max_text_len: model.max_text_len,
            model,
            reading: None,
            inputs: None,
            assumptions: Vec::new(),
            notes,
        }
    }

    fn of_hugging_face(path: &Path, index: &WeightIndex, model: VlcConfig) -> Result<Self, WeightsError> {
        let Settings {
            images,
            tokenizer,
            has_vocabulary,
            max_text_len,
            task,
            notes,
        } = hugging_face::read(path, &index.summary.hyper_parameters, &model)?;
        let mut described = Self {
            task,
            format: images.format,
            transform: images.transform.into(),
            tokenizer,
            max_text_len: max_text_len.map_or(model.max_text_len, |len| len.min(model.max_text_len)),
            model,
            reading: None,
            inputs: None,
            assumptions: Vec::new(),
            notes,
        };
        if has_vocabulary {
            described.inputs = Some(described.input_description());
        }
        Ok(described)
    }

    /// Returns the preparation of images and texts, as a checkpoint has it. The transform of training is that of evaluation.
    pub(super) fn input_description(&self) -> InputDescription {
        let Normalisation { mean, deviation } = self.format.normalisation;
        InputDescription {
            image_size: self.format.size,
            size_multiple: self.format.multiple,
            mean,
            deviation,
            train_transform: self.transform.clone(),
            eval_transform: self.transform.clone(),
            vocabulary: self.tokenizer.vocabulary().iter().map(str::to_owned).collect(),
            lower_case: self.tokenizer.lower_case(),
            max_text_len: self.max_text_len,
            reading: self.reading,
        }
    }

    /// Makes the description of a model that has none, such as one of Hugging Face. What is not stated about its training is as in the published
    /// training.
    pub(crate) fn to_description(&self) -> Description {
        let heads = self.model.heads;
        let task = self.task.clone().unwrap_or_else(|| match heads {
            _ if heads.vqa.is_some() => TaskSpec::Vqa(VqaSpec::default()),
            _ if heads.nlvr2 => TaskSpec::Nlvr2(Nlvr2Spec {
                selection: Subset::Test,
            }),
            _ if heads.rank => TaskSpec::Retrieval(RetrievalSpec {
                false_texts: FALSE_TEXTS,
            }),
            _ => TaskSpec::Pretrain(PretrainSpec {
                mlm: heads.mlm,
                mae: None,
                itm: heads.itm,
                masking: MaskingConfig {
                    whole_word: true,
                    probability: MASKED_SHARE,
                    max_text_len: self.max_text_len,
                },
                mask_ratio: None,
            }),
        });
        Description {
            model: ModelConfig::Vlc(self.model.clone()),
            task,
            inputs: self.input_description(),
            weights: WeightsKind::Raw,
        }
    }

    /// Checks that the images are images for the model.
    fn check(&self, path: &Path) -> Result<(), WeightsError> {
        let error = |reason: String| {
            Err(WeightsError::Setting {
                path: path.to_path_buf(),
                reason,
            })
        };
        if let Err(source) = vlct_image::Transform::with_format(&self.transform, &self.format) {
            return error(source.to_string());
        }
        let (patch_size, ImageFormat { size, multiple, .. }) = (self.model.backbone.patch_size, self.format);
        match self.transform.keeps_proportions() {
            true if !multiple.is_multiple_of(patch_size) => error(format!(
                "the sides of images are multiples of {multiple} pixels, which are not whole patches of {patch_size} pixels"
            )),
            false if !size.is_multiple_of(patch_size) => error(format!(
                "images have {size} x {size} pixels, which are not whole patches of {patch_size} pixels"
            )),
            _ => Ok(()),
        }
    }
}
