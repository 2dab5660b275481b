//! What the weight files that a run begins with determine.

use std::path::Path;

use vlct_model::VlcConfig;
use vlct_model::config::Backbone;
use vlct_model::files;
use vlct_model::sizes::{self, GivenHeads, Sizes};
use vlct_tasks::Description;

use crate::error::{Result, TrainError};
use vlct_config::{Config, Value};

/// Returns the keys of the sizes of the model in `load_path`, with their values; empty without `load_path`. Reads the header of this file
/// and of `pretrain_path`.
///
/// # Errors
/// Returns an error if a file cannot be read, or if `load_path` is not a VLC model and the user does not ask for a part of it.
pub(super) fn sizes_of_weights(config: &Config) -> Result<Vec<(&'static str, Value)>> {
    if !config.pretrain_path.is_empty() {
        files::index(&files::map(Path::new(&config.pretrain_path))?)?;
    }
    if config.load_path.is_empty() {
        return Ok(Vec::new());
    }
    let file = files::map(Path::new(&config.load_path))?;
    let path = file.path();
    let index = files::index(&file)?;
    let model = match Description::of(path, &index)? {
        Some(description) => description.model,
        None => {
            let given = GivenHeads {
                encoder: config.heads,
                decoder: config.decoder_heads,
            };
            match sizes::derive(&index, given) {
                Ok(Sizes { config, .. }) => config,
                Err(_) if config.load_partial => return Ok(Vec::new()),
                Err(source) => {
                    return Err(TrainError::Sizes {
                        path: path.to_path_buf(),
                        source,
                    });
                }
            }
        }
    };
    Ok(keys(&model))
}

/// Returns the keys of the sizes of a model with their values. For models of the published base size, the image size is left out: their
/// position tables are resized to an image size for which the time suffices.
fn keys(model: &VlcConfig) -> Vec<(&'static str, Value)> {
    let Backbone {
        patch_size,
        width,
        depth,
        heads,
        decoder_width,
        decoder_depth,
        decoder_heads,
    } = model.backbone;
    let mut sizes = vec![("vocab_size", model.vocab_size), ("max_text_len", model.max_text_len)];
    let base = Backbone::from_name(&Config::default().vit);
    if base
        .is_none_or(|base| (patch_size, width, depth, heads) != (base.patch_size, base.width, base.depth, base.heads))
    {
        sizes.extend([
            ("image_size", model.image_size),
            ("patch_size", patch_size),
            ("hidden_size", width),
            ("depth", depth),
            ("heads", heads),
        ]);
        if decoder_depth > 0 {
            sizes.extend([
                ("decoder_width", decoder_width),
                ("decoder_depth", decoder_depth),
                ("decoder_heads", decoder_heads),
            ]);
        }
    }
    sizes
        .into_iter()
        .map(|(key, size)| (key, Value::Int(size as i64)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use vlct_config::resolve;

    #[test]
    fn a_missing_or_foreign_file_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("x.pth");
        for key in ["load_path", "pretrain_path"] {
            let word = format!("{key}={}", file.display());
            let config = resolve(&["own_data", &word]).unwrap().config;
            std::fs::remove_file(&file).ok();
            assert!(sizes_of_weights(&config).is_err(), "{key}: a missing file");
            std::fs::write(&file, b"no weights").unwrap();
            assert!(sizes_of_weights(&config).is_err(), "{key}: not a weight file");
        }
    }

    #[test]
    fn only_models_of_other_sizes_have_a_fixed_image_size() {
        let mut model = VlcConfig {
            image_size: 384,
            backbone: Backbone::from_name("mae_vit_base_patch16").unwrap(),
            vocab_size: 30_522,
            max_text_len: 40,
            token_types: 2,
            drop_rate: 0.0,
            heads: Default::default(),
        };
        let names = |model: &VlcConfig| keys(model).iter().map(|(key, _)| *key).collect::<Vec<_>>();
        assert_eq!(names(&model), ["vocab_size", "max_text_len"]);
        model.backbone.width = 128;
        assert!(names(&model).contains(&"image_size") && names(&model).contains(&"decoder_depth"));
        model.backbone.decoder_depth = 0;
        assert!(!names(&model).contains(&"decoder_depth"));
    }
}
