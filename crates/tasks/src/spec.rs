//! Which task, and how images and texts become what the model reads.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vlct_data::DataError;
use vlct_data::text::Tokenizer;
use vlct_image::TransformKind;
use vlct_model::VlcConfig;

use crate::pretrain::{Pretrain, PretrainSpec};
use crate::task::{Mode, Task};
use crate::vqa::Vqa;

/// How images and texts become what the model reads.
#[derive(Clone)]
pub struct InputSpec {
    /// Side of the images in pixels.
    pub image_size: usize,
    /// How images of training are cropped and augmented.
    pub train_transform: TransformKind,
    /// How images of evaluation are cropped.
    pub eval_transform: TransformKind,
    /// From words to token ids.
    pub tokenizer: Tokenizer,
    /// Longest token sequence, `[CLS]` and `[SEP]` included.
    pub max_text_len: usize,
}

impl InputSpec {
    /// The transform of a mode.
    pub fn transform(&self, mode: Mode) -> TransformKind {
        match mode {
            Mode::Train => self.train_transform,
            Mode::Evaluate => self.eval_transform,
        }
    }
}

/// A task as data: the only list of tasks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskSpec {
    /// Pre-training from captions.
    Pretrain(PretrainSpec),
    /// Visual question answering.
    Vqa,
}

impl TaskSpec {
    /// The task for a model of these sizes.
    ///
    /// # Errors
    /// Returns [`DataError::Invalid`] if a value is out of range.
    pub fn build(&self, model: &VlcConfig) -> Result<Arc<dyn Task>, DataError> {
        Ok(match self {
            Self::Pretrain(spec) => Arc::new(Pretrain::new(spec.clone(), model.patches())?),
            Self::Vqa => Arc::new(Vqa),
        })
    }
}
