//! A model of either kind, for the trainer and the tasks.

use crate::batch_norm::BatchStatistics;
use crate::config::VlcConfig;
use crate::files::mapping::AdaptError;
use crate::files::{LoadReport, Options, WeightIndex};
use crate::vit::{Vit, VitConfig};
use crate::vlc::Vlc;
use vlct_tensor::{Compute, Parameters};

/// Sizes of a model of either kind. In JSON, the sizes of the kind; those of VLC have a `backbone`.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(into = "serde_json::Value", try_from = "serde_json::Value")]
pub enum ModelConfig {
    /// A vision-language model.
    Vlc(VlcConfig),
    /// An image classifier.
    Vit(VitConfig),
}

impl From<ModelConfig> for serde_json::Value {
    fn from(config: ModelConfig) -> Self {
        let json = match config {
            ModelConfig::Vlc(config) => serde_json::to_value(config),
            ModelConfig::Vit(config) => serde_json::to_value(config),
        };
        json.unwrap_or_else(|error| unreachable!("numbers and booleans are valid JSON: {error}"))
    }
}

impl TryFrom<serde_json::Value> for ModelConfig {
    type Error = serde_json::Error;

    fn try_from(json: serde_json::Value) -> Result<Self, Self::Error> {
        match json.get("backbone") {
            Some(_) => serde_json::from_value(json).map(Self::Vlc),
            None => serde_json::from_value(json).map(Self::Vit),
        }
    }
}

impl ModelConfig {
    /// Side of the square images of the position table, in pixels.
    pub fn image_size(&self) -> usize {
        match self {
            Self::Vlc(config) => config.image_size,
            Self::Vit(config) => config.image_size,
        }
    }

    /// ε of the layer norms of the encoder.
    pub fn layer_norm_eps(&self) -> f32 {
        match self {
            Self::Vlc(config) => config.variant.layer_norm_eps,
            Self::Vit(config) => config.layer_norm_eps,
        }
    }

    /// Number of attention heads of the encoder.
    pub fn heads(&self) -> usize {
        match self {
            Self::Vlc(config) => config.backbone.heads,
            Self::Vit(config) => config.heads,
        }
    }

    /// Number of blocks of the encoder.
    pub fn depth(&self) -> usize {
        match self {
            Self::Vlc(config) => config.backbone.depth,
            Self::Vit(config) => config.depth,
        }
    }

    /// Returns the sizes of a vision-language model for modification; `None` if the model is of another kind.
    pub fn vlc_mut(&mut self) -> Option<&mut VlcConfig> {
        match self {
            Self::Vlc(config) => Some(config),
            Self::Vit(_) => None,
        }
    }

    /// Returns the sizes of a vision-language model.
    ///
    /// # Panics
    /// Panics if the model is of another kind.
    pub fn vlc(&self) -> &VlcConfig {
        match self {
            Self::Vlc(config) => config,
            Self::Vit(_) => panic!("the model is an image classifier"),
        }
    }
}

/// A model of either kind.
#[expect(clippy::large_enum_variant, reason = "a program has one model, or a few")]
pub enum Model {
    /// A vision-language model.
    Vlc(Vlc),
    /// An image classifier.
    Vit(Vit),
}

/// Calls a method or function of the same name on the model of either kind.
macro_rules! either {
    ($model:expr, $inner:ident => $call:expr) => {
        match $model {
            Model::Vlc($inner) => $call,
            Model::Vit($inner) => $call,
        }
    };
}

impl Model {
    /// Makes a model whose weights are all zero.
    pub fn new(config: ModelConfig) -> Self {
        match config {
            ModelConfig::Vlc(config) => Self::Vlc(Vlc::new(config)),
            ModelConfig::Vit(config) => Self::Vit(Vit::new(config)),
        }
    }

    /// Returns the sizes.
    pub fn config(&self) -> ModelConfig {
        match self {
            Self::Vlc(model) => ModelConfig::Vlc(model.config().clone()),
            Self::Vit(model) => ModelConfig::Vit(model.config().clone()),
        }
    }

    /// Returns the weights.
    pub fn parameters(&self) -> &Parameters {
        either!(self, model => model.parameters())
    }

    /// Returns the weights for modification.
    pub fn parameters_mut(&mut self) -> &mut Parameters {
        either!(self, model => model.parameters_mut())
    }

    /// Returns the number format and other settings for tapes of this model.
    pub fn compute(&self) -> Compute {
        either!(self, model => model.compute())
    }

    /// Sets the number format and other settings for tapes of this model, which are initially `Compute::default()`.
    pub fn set_compute(&mut self, compute: Compute) {
        either!(self, model => model.set_compute(compute))
    }

    /// Sets the parameters that a file has and leaves the others unchanged.
    ///
    /// # Errors
    /// Returns the errors of [`Vlc::load`].
    pub fn load(&mut self, file: &WeightIndex, options: Options) -> Result<LoadReport, AdaptError> {
        either!(self, model => model.load(file, options))
    }

    /// Adds the statistics of a batch to the running ones; see [`Vit::update_statistics`].
    ///
    /// # Panics
    /// Panics if the model is not that of linear probing.
    pub fn update_statistics(&mut self, batch: &BatchStatistics) {
        match self {
            Self::Vit(model) => model.update_statistics(batch),
            Self::Vlc(_) => panic!("the model is a vision-language model"),
        }
    }

    /// Returns the vision-language model.
    ///
    /// # Panics
    /// Panics if the model is of another kind.
    pub fn vlc(&self) -> &Vlc {
        match self {
            Self::Vlc(model) => model,
            Self::Vit(_) => panic!("the model is an image classifier"),
        }
    }

    /// Returns the image classifier.
    ///
    /// # Panics
    /// Panics if the model is of another kind.
    pub fn vit(&self) -> &Vit {
        match self {
            Self::Vit(model) => model,
            Self::Vlc(_) => panic!("the model is a vision-language model"),
        }
    }
}

impl From<Vlc> for Model {
    fn from(model: Vlc) -> Self {
        Self::Vlc(model)
    }
}

impl From<Vit> for Model {
    fn from(model: Vit) -> Self {
        Self::Vit(model)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Heads;

    #[test]
    fn sizes_of_both_kinds_are_read_from_their_json() {
        let vlc = ModelConfig::Vlc(VlcConfig {
            image_size: 384,
            backbone: crate::config::Backbone::from_name("mae_vit_base_patch16").unwrap(),
            vocab_size: 30_522,
            max_text_len: 40,
            token_types: 2,
            drop_rate: 0.1,
            heads: Heads::default(),
            variant: crate::config::Variant::VLC,
        });
        let vit = ModelConfig::Vit(VitConfig::from_name("vit_base_patch16", 224, 10).unwrap());
        for config in [vlc, vit] {
            let json = serde_json::to_string(&config).unwrap();
            assert_eq!(serde_json::from_str::<ModelConfig>(&json).unwrap(), config);
        }
        let error = serde_json::from_str::<ModelConfig>("{\"image_size\": 3}").unwrap_err();
        assert!(error.to_string().contains("missing field"), "{error}");
    }
}
