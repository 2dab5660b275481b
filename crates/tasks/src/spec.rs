//! A serialisable description of a task.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vlct_data::DataError;
use vlct_model::VlcConfig;

use crate::pretrain::{Pretrain, PretrainSpec};
use crate::task::Task;
use crate::vqa::Vqa;

/// A task and its settings. The names of variants and fields are stored in checkpoints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskSpec {
    /// Pre-training from captions.
    Pretrain(PretrainSpec),
    /// Visual question answering.
    Vqa,
}

impl TaskSpec {
    /// Builds the task for a model with the configuration `model`.
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
