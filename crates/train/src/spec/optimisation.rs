//! Updates of the weights: optimiser, parameter groups, clipping, moving average, frozen parts.

use serde::{Deserialize, Serialize};
use vlct_tensor::optimizer::Rule;

use super::size::{model_size, position_size};
use vlct_config::{Config, ConfigError, DecayPower};

/// Update rule, learning rates and weight decay.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct OptimizerSpec {
    /// Update rule.
    pub rule: Rule,
    /// Weight decay of all parameters except biases and layer norms.
    pub weight_decay: f64,
    /// Grouping of parameters, and the learning-rate factors of the groups.
    pub groups: GroupRule,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Learning rate at the end of a polynomial decay.
    pub end_lr: f64,
    /// Learning-rate decay after the warm-up.
    pub decay: DecayPower,
    /// The schedule of ImageNet fine-tuning, which replaces warm-up and decay; `None` means that of VLC.
    #[serde(default)]
    pub half_cosine: Option<HalfCosine>,
    /// Largest L2 norm of all gradients of a step together; `None` means no limit.
    pub clip_norm: Option<f64>,
}

/// The ImageNet schedule of MAE's fine-tuning script: a linear warm-up, then half a period of a cosine down to `min_lr`, as a
/// function of the fractional epoch.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct HalfCosine {
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Learning rate at and after the end.
    pub min_lr: f64,
    /// Number of epochs of the warm-up.
    pub warmup_epochs: f64,
    /// Number of epochs of the schedule, including the warm-up.
    pub epochs: f64,
}

/// Grouping of parameters by their learning-rate factor.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupRule {
    /// Task heads have a factor; all other parameters have factor 1.
    Heads {
        /// Learning-rate factor of the task heads.
        lr_mult: f64,
    },
    /// Each layer has its own factor.
    Layers {
        /// Ratio of a layer's learning rate to that of the layer above.
        layer_decay: f64,
    },
    /// Each layer of an image classifier has its own factor.
    ClassifierLayers {
        /// Ratio of a layer's learning rate to that of the layer above.
        layer_decay: f64,
    },
}

impl OptimizerSpec {
    pub(super) fn resolve(config: &Config) -> Self {
        // ViLT has the groups of pre-training in fine-tuning too.
        let groups = if config.is_pretrain || position_size(config).is_some() {
            GroupRule::Heads {
                lr_mult: config.lr_mult,
            }
        } else {
            GroupRule::Layers {
                layer_decay: config.layer_decay,
            }
        };
        Self {
            rule: update_rule(config),
            weight_decay: config.weight_decay,
            groups,
            learning_rate: config.learning_rate,
            end_lr: config.end_lr,
            decay: config.decay_power,
            half_cosine: None,
            clip_norm: config.clip_grad_norm.filter(|limit| *limit > 0.0),
        }
    }

    /// Returns the name of the update rule in the logs.
    pub fn name(&self) -> &'static str {
        match self.rule {
            Rule::Sgd => "SGD",
            Rule::Adam => "Adam",
            Rule::AdamW | Rule::AdamWPyTorch => "AdamW",
            Rule::Lars => "LARS",
        }
    }
}

fn update_rule(config: &Config) -> Rule {
    match config.optim_type.as_str() {
        "sgd" => Rule::Sgd,
        "adam" => Rule::Adam,
        _ => Rule::AdamW,
    }
}

/// The exponential moving average of the weights.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct EmaSpec {
    /// Decay after the warm-up; see [`ema_decay`](crate::schedule::ema_decay).
    pub decay: f64,
    /// Whether validations and the best checkpoint use the average instead of the weights.
    pub evaluation: bool,
}

impl EmaSpec {
    pub(super) fn resolve(config: &Config) -> Option<Self> {
        let decay = config.ema_decay.filter(|decay| *decay > 0.0)?;
        Some(Self {
            decay,
            evaluation: config.ema_evaluation,
        })
    }
}

/// The parts of the model that are not trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FreezeSpec {
    /// Whether the projection of patches and the class token are frozen.
    pub image_embedding: bool,
    /// Whether the embedding of texts is frozen.
    pub text_embedding: bool,
    /// Number of encoder blocks that are frozen, from the first.
    pub blocks: usize,
}

impl FreezeSpec {
    pub(super) fn resolve(config: &Config) -> Self {
        Self {
            image_embedding: config.freeze_image_embedding,
            text_embedding: config.freeze_text_embedding,
            blocks: config.freeze_blocks,
        }
    }

    /// Returns whether the parameter with this name is frozen. The table of token types is added to the embeddings of texts and of images,
    /// so it is frozen if both are.
    pub fn contains(&self, name: &str) -> bool {
        match name.strip_prefix("transformer.") {
            Some(rest) => match rest.strip_prefix("blocks.") {
                Some(block) => {
                    let number = block.split('.').next().and_then(|number| number.parse::<usize>().ok());
                    number.is_some_and(|number| number < self.blocks)
                }
                None => self.image_embedding && (rest == "cls_token" || rest.starts_with("patch_embed.")),
            },
            None if name.starts_with("text_embeddings.") => self.text_embedding,
            None => self.freezes_embeddings() && name == "token_type_embeddings.weight",
        }
    }

    fn freezes_embeddings(&self) -> bool {
        self.image_embedding && self.text_embedding
    }

    /// Describes the frozen parts, for the log; `None` if there are none.
    pub fn describe(&self) -> Option<String> {
        let parts = [
            self.image_embedding.then(|| "image embedding".to_string()),
            self.text_embedding.then(|| "text embedding".to_string()),
            match self.blocks {
                0 => None,
                1 => Some("the first encoder block".to_string()),
                blocks => Some(format!("the first {blocks} encoder blocks")),
            },
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        (!parts.is_empty()).then(|| parts.join(", "))
    }
}

/// Checks the keys of the moving average and of frozen parts.
pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    let contradiction = |message: String| Err(ConfigError::Contradiction(message));
    if config.ema_evaluation && EmaSpec::resolve(config).is_none() {
        return contradiction(
            "ema_evaluation=True needs a moving average of the weights: set ema_decay, such as ema_decay=0.999".into(),
        );
    }
    if config.load_ema && config.load_path.is_empty() {
        return contradiction("load_ema=True loads the averages of load_path, which is not set: set load_path".into());
    }
    let depth = model_size(config)?.depth;
    if config.freeze_blocks > depth {
        return contradiction(format!(
            "freeze_blocks={}, but the encoder has {depth} blocks: set at most {depth}",
            config.freeze_blocks
        ));
    }
    Ok(())
}

/// Returns warnings about frozen parts.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    let freeze = FreezeSpec::resolve(config);
    let mut warnings = Vec::new();
    if freeze.blocks > 0 && !freeze.freezes_embeddings() {
        warnings.push(format!(
            "freeze_blocks={} saves no backward pass, which continues to the embeddings: set freeze_image_embedding=True and \
             freeze_text_embedding=True too",
            freeze.blocks
        ));
    }
    let starts_from_weights = !config.load_path.is_empty() || config.resume_from.is_some();
    let has_backbone = starts_from_weights || !config.pretrain_path.is_empty();
    let random = [
        (
            "freeze_text_embedding=True",
            freeze.text_embedding && !starts_from_weights,
        ),
        ("freeze_image_embedding=True", freeze.image_embedding && !has_backbone),
        ("freeze_blocks", freeze.blocks > 0 && !has_backbone),
    ];
    for (key, _) in random.into_iter().filter(|(_, is_random)| *is_random) {
        warnings.push(format!("{key} freezes randomly initialised weights: set load_path"));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frozen_parts_are_the_named_parameters() {
        let names = [
            "text_embeddings.word_embeddings.weight",
            "text_embeddings.LayerNorm.bias",
            "token_type_embeddings.weight",
            "transformer.cls_token",
            "transformer.patch_embed.proj.weight",
            "transformer.blocks.0.norm1.weight",
            "transformer.blocks.1.mlp.fc2.bias",
            "transformer.blocks.2.norm1.weight",
            "transformer.blocks.10.norm1.weight",
            "transformer.decoder_blocks.0.norm1.weight",
            "transformer.mask_token",
            "transformer.norm.weight",
            "pooler.dense.weight",
        ];
        let frozen = |image_embedding, text_embedding, blocks| -> Vec<usize> {
            let freeze = FreezeSpec {
                image_embedding,
                text_embedding,
                blocks,
            };
            (0..names.len()).filter(|i| freeze.contains(names[*i])).collect()
        };
        assert!(frozen(false, false, 0).is_empty());
        assert_eq!(frozen(true, false, 0), [3, 4]);
        assert_eq!(frozen(false, true, 0), [0, 1]);
        assert_eq!(frozen(true, true, 0), [0, 1, 2, 3, 4]);
        assert_eq!(frozen(false, false, 2), [5, 6]);
        assert_eq!(frozen(true, true, 12), [0, 1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn describes_frozen_parts() {
        assert_eq!(FreezeSpec::default().describe(), None);
        let freeze = FreezeSpec {
            image_embedding: true,
            text_embedding: false,
            blocks: 6,
        };
        assert_eq!(
            freeze.describe().as_deref(),
            Some("image embedding, the first 6 encoder blocks")
        );
    }
}
