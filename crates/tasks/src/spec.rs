//! A serialisable description of a task.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vlct_data::DataError;
use vlct_data::datasets::Contents;
use vlct_model::ModelConfig;

use crate::images::{Images, ImagesSpec};
use crate::labels::{Labels, LabelsSpec};
use crate::nlvr2::{Nlvr2, Nlvr2Spec};
use crate::pretrain::{Pretrain, PretrainSpec};
use crate::retrieval::{Retrieval, RetrievalSpec};
use crate::task::Task;
use crate::vqa::{Vqa, VqaSpec};

/// A task and its settings. The names of variants and fields are stored in checkpoints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskSpec {
    /// Pre-training from captions.
    Pretrain(PretrainSpec),
    /// Visual question answering.
    Vqa(VqaSpec),
    /// Statements about pairs of images.
    Nlvr2(Nlvr2Spec),
    /// Ranking of captions for retrieval.
    Retrieval(RetrievalSpec),
    /// Labels of images with texts.
    Labels(LabelsSpec),
    /// Classes of images.
    Images(ImagesSpec),
}

impl TaskSpec {
    /// Builds the task for a model with the configuration `model`.
    ///
    /// # Errors
    /// Returns [`DataError::Invalid`] if a value is out of range.
    ///
    /// # Panics
    /// Panics if the model is of another kind than the task needs.
    pub fn build(&self, model: &ModelConfig) -> Result<Arc<dyn Task>, DataError> {
        Ok(match self {
            Self::Pretrain(spec) => Arc::new(Pretrain::new(spec.clone(), model.vlc().patches())?),
            Self::Vqa(spec) => Arc::new(Vqa::new(spec.clone(), None)),
            Self::Nlvr2(spec) => Arc::new(Nlvr2 { spec: *spec }),
            Self::Retrieval(spec) => Arc::new(Retrieval { spec: *spec }),
            Self::Labels(spec) => Arc::new(Labels::new(spec.clone())),
            Self::Images(spec) => Arc::new(Images::new(spec.clone())),
        })
    }

    /// Returns the contents of the datasets of the task.
    pub fn contents(&self) -> Contents {
        match self {
            Self::Pretrain(_) | Self::Retrieval(_) => Contents::Captions,
            Self::Vqa(_) => Contents::Questions,
            Self::Nlvr2(_) => Contents::Pairs,
            Self::Labels(_) | Self::Images(_) => Contents::Labels,
        }
    }
}
