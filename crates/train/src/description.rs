//! The description of a model in its checkpoint: sizes, task and preparation of inputs. With the description, weights can be used
//! without the configuration, the datasets and the vocabulary file of their run.

use serde::{Deserialize, Serialize};
use vlct_data::text::Tokenizer;
use vlct_image::{MEAN, STD, TransformKind};
use vlct_model::VlcConfig;
use vlct_tasks::TaskSpec;

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::spec::RunSpec;

/// Model, task and inputs of a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Description {
    /// Sizes and heads of the model.
    pub model: VlcConfig,
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
    /// Side of the square images, in pixels.
    pub image_size: usize,
    /// Mean of each channel, subtracted from values scaled to 0 to 1.
    pub mean: [f32; 3],
    /// Standard deviation of each channel. Values are divided by it after the subtraction of the mean.
    pub deviation: [f32; 3],
    /// Image transform of training.
    pub train_transform: TransformKind,
    /// Image transform of validation and test.
    pub eval_transform: TransformKind,
    /// WordPiece tokens by id.
    pub vocabulary: Vec<String>,
    /// Whether the tokenizer lower-cases text and removes accents.
    pub lower_case: bool,
    /// Maximum number of tokens of a text, including `[CLS]` and `[SEP]`.
    pub max_text_len: usize,
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
    /// Makes the description for the checkpoints of a run.
    pub fn new(spec: &RunSpec, tokenizer: &Tokenizer) -> Self {
        Self {
            model: spec.model.clone(),
            task: spec.task.clone(),
            inputs: InputDescription {
                image_size: spec.data.image_size,
                mean: MEAN,
                deviation: STD,
                train_transform: spec.data.train_transform,
                eval_transform: spec.data.val_transform,
                vocabulary: tokenizer.vocabulary().iter().map(str::to_owned).collect(),
                lower_case: tokenizer.lower_case(),
                max_text_len: spec.data.max_text_len,
            },
            weights: WeightsKind::Raw,
        }
    }

    /// Reads the description of a checkpoint; `None` for a checkpoint of format 1, which has no description.
    ///
    /// # Errors
    /// Returns [`CheckpointError::Mismatch`] if the description is invalid.
    pub fn read(checkpoint: &Checkpoint) -> Result<Option<Self>, CheckpointError> {
        let Some(description) = checkpoint.description() else {
            return Ok(None);
        };
        match serde_json::from_value(description.clone()) {
            Ok(description) => Ok(Some(description)),
            Err(error) => Err(checkpoint.mismatch(format!("the description is invalid: {error}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint;
    use crate::config::resolve;

    #[test]
    fn reads_the_description_of_a_saved_checkpoint() {
        let spec = RunSpec::resolve(&resolve(&["quickstart", "data_root=/d"]).unwrap().config).unwrap();
        let tokenizer = Tokenizer::bert_base_uncased();
        let description = Description::new(&spec, &tokenizer);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("checkpoint.safetensors");
        let json = serde_json::to_value(&description).unwrap();
        checkpoint::save(&path, &[], &serde_json::Value::Null, &json).unwrap();
        let read = Description::read(&checkpoint::load(&path).unwrap()).unwrap();
        assert_eq!(read.as_ref(), Some(&description));
        let inputs = read.unwrap().inputs;
        assert_eq!((inputs.vocabulary.len(), inputs.lower_case), (30_522, true));
        assert_eq!(inputs.vocabulary[101], "[CLS]");
        checkpoint::save(&path, &[], &serde_json::Value::Null, &"nothing".into()).unwrap();
        let error = Description::read(&checkpoint::load(&path).unwrap()).unwrap_err();
        assert!(error.to_string().contains("description is invalid"), "{error}");
    }
}
