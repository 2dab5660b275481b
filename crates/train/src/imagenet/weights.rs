//! What a weight file says about the classifier and its images.

use std::path::Path;

use vlct_model::files::{self, Style, WeightIndex};
use vlct_model::sizes::{self, Assumption, SizeError};
use vlct_model::{ModelConfig, files::BACKBONE_PREFIX};
use vlct_tasks::Description;

use super::settings::Settings;
use crate::error::{Result, TrainError};

/// What a weight file says about a classifier and its images.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WeightFacts {
    /// Side of the images for which the weights have positions, in pixels.
    pub image_size: Option<usize>,
    /// Whether the head reads the mean of the patches; `None` if the file has no head of an image classifier.
    pub global_pool: Option<bool>,
    /// Whether the head is that of linear probing.
    pub linear_probe: bool,
    /// The number of attention heads if the settings take it from the file, and the file does not state it.
    pub assumption: Option<Assumption>,
}

impl WeightFacts {
    fn of(path: &Path, index: &WeightIndex) -> Result<Self> {
        if let Some(Description { model, inputs, .. }) = Description::of(path, index)? {
            let vit = match model {
                ModelConfig::Vit(vit) => Some(vit),
                ModelConfig::Vlc(_) => None,
            };
            return Ok(Self {
                image_size: Some(inputs.image_size),
                global_pool: vit.as_ref().map(|vit| vit.global_pool),
                linear_probe: vit.is_some_and(|vit| vit.linear_probe),
                assumption: None,
            });
        }
        let has = |name: &str| index.tensors.contains_key(name);
        let linear_probe = has("head.0.running_mean");
        Ok(Self {
            image_size: image_size(index),
            global_pool: match has("fc_norm.weight") {
                true => Some(true),
                false => (has("head.weight") || linear_probe).then_some(false),
            },
            linear_probe,
            assumption: None,
        })
    }
}

/// Returns the side of the images for which a file has positions; `None` if their number is that of no square image.
fn image_size(index: &WeightIndex) -> Option<usize> {
    let prefix = match index.style {
        Style::Mae => "",
        Style::Vlc => BACKBONE_PREFIX,
    };
    let axis = |name: &str, axis: usize| index.shape(&format!("{prefix}{name}"))?.get(axis).copied();
    let patches = axis("pos_embed", 1)?.checked_sub(1)?;
    let side = patches.isqrt();
    (side > 0 && side * side == patches).then_some(())?;
    side.checked_mul(axis("patch_embed.proj.weight", 2)?)
}

impl Settings {
    /// Uses the ε of the layer norms that the weight file or run directory `path` states and, if `takes_sizes` is set, the sizes of its
    /// encoder where none are set. A file that has no encoder changes nothing. Returns what else the file says.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read, or the number of attention heads is needed and unknown.
    pub fn use_weights(&mut self, path: &Path, takes_sizes: bool) -> Result<WeightFacts> {
        let file = files::map(path)?;
        let index = files::index(&file)?;
        let mut facts = WeightFacts::of(file.path(), &index)?;
        let encoder = match sizes::encoder(&index, self.sizes.heads) {
            Ok(encoder) => encoder,
            Err(source @ SizeError::UnknownHeads { .. }) if takes_sizes => {
                return Err(TrainError::UnknownHeads {
                    path: path.to_path_buf(),
                    source,
                });
            }
            Err(_) => return Ok(facts),
        };
        self.sizes.layer_norm_eps = encoder.layer_norm_eps;
        if takes_sizes {
            let sizes = &mut self.sizes;
            sizes.patch_size.get_or_insert(encoder.patch_size);
            sizes.width.get_or_insert(encoder.width);
            sizes.depth.get_or_insert(encoder.depth);
            sizes.heads.get_or_insert(encoder.heads);
            facts.assumption = encoder.assumption;
        }
        Ok(facts)
    }

    /// Makes these settings those of a probe, whose head alone is trained.
    pub fn become_probe(&mut self) {
        let augmentation = &mut self.augmentation;
        (self.linear_probe, self.drop_path) = (true, 0.0);
        (augmentation.aa, augmentation.color_jitter) = (String::new(), None);
        (augmentation.smoothing, augmentation.reprob) = (0.0, 0.0);
        (augmentation.mixup, augmentation.cutmix, augmentation.cutmix_minmax) = (0.0, 0.0, None);
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings::Sizes;
    use super::super::settings::tests::published;

    #[test]
    fn weights_of_hugging_face_determine_epsilon_and_sizes() {
        for directory in vlct_golden::vilt_directories("vit") {
            let config = vlct_golden::json(directory.join("config.json"));
            let size = |key: &str| config[key].as_u64().map(|size| size as usize);
            let mut settings = published();
            settings.use_weights(&directory, false).unwrap();
            let eps = config["layer_norm_eps"].as_f64().map(|eps| eps as f32);
            let only_eps = Sizes {
                layer_norm_eps: eps,
                ..Sizes::default()
            };
            assert_eq!(settings.sizes, only_eps);
            settings.use_weights(&directory, true).unwrap();
            let found = settings.sizes;
            assert_eq!(
                (
                    found.patch_size,
                    found.width,
                    found.depth,
                    found.heads,
                    found.layer_norm_eps
                ),
                (
                    size("patch_size"),
                    size("hidden_size"),
                    size("num_hidden_layers"),
                    size("num_attention_heads"),
                    eps
                )
            );
        }
    }
}
