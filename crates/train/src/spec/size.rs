//! The sizes of the model of a configuration.

use vlct_model::config::{Backbone, Variant};

use vlct_config::{Config, ConfigError};

/// Returns the sizes of the model: those of `vit`, overridden by the keys of single sizes.
///
/// # Errors
/// Returns an error if `hidden_size` contradicts `vit` and `heads` is not set, if a width is not a multiple of its number of heads
/// and of 4 (a row of a position table has four parts), or if the side of the position table is not a multiple of the patch size.
pub fn model_size(config: &Config) -> Result<Backbone, ConfigError> {
    let contradiction = |message: String| Err(ConfigError::Contradiction(message));
    let Some(vit) = Backbone::from_name(&config.vit) else {
        return contradiction(format!("vit={:?} is not a known backbone", config.vit));
    };
    if position_size(config).is_some() {
        for (key, value) in [
            ("decoder_width", config.decoder_width),
            ("decoder_depth", config.decoder_depth),
            ("decoder_heads", config.decoder_heads),
        ] {
            if let Some(value) = value {
                return contradiction(format!(
                    "{key}={value} contradicts vit={:?}, which has no decoder: leave it out",
                    config.vit
                ));
            }
        }
    }
    let size = Backbone {
        patch_size: config.patch_size.unwrap_or(vit.patch_size),
        width: config.hidden_size.unwrap_or(vit.width),
        depth: config.depth.unwrap_or(vit.depth),
        heads: config.heads.unwrap_or(vit.heads),
        decoder_width: config.decoder_width.unwrap_or(vit.decoder_width),
        decoder_depth: config.decoder_depth.unwrap_or(vit.decoder_depth),
        decoder_heads: config.decoder_heads.unwrap_or(vit.decoder_heads),
    };
    // Published commands set the width to that of `vit`, so another width without `heads` is probably a mistake.
    if size.width != vit.width && config.heads.is_none() {
        return contradiction(format!(
            "hidden_size={} contradicts vit={:?}, whose width is {}: leave hidden_size out, or set heads too for a \
             custom size",
            size.width, config.vit, vit.width
        ));
    }
    for (key, width, heads_key, heads) in [
        ("hidden_size", size.width, "heads", size.heads),
        ("decoder_width", size.decoder_width, "decoder_heads", size.decoder_heads),
    ] {
        if !width.is_multiple_of(heads) {
            return contradiction(format!("{key}={width} is not a multiple of {heads_key}={heads}"));
        }
        if !width.is_multiple_of(4) {
            return contradiction(format!(
                "{key}={width} is not a multiple of 4, which the position table requires"
            ));
        }
    }
    match position_size(config) {
        Some(side) => check_image_size("position_size", side, size.patch_size)?,
        None => check_image_size("image_size", config.image_size, size.patch_size)?,
    }
    Ok(size)
}

/// Returns the side of the square of the model's learned position table, in pixels; `None` if the table is fixed.
pub(crate) fn position_size(config: &Config) -> Option<usize> {
    let published = Backbone::position_size(&config.vit)?;
    Some(config.position_size.unwrap_or(published))
}

/// Returns the variant of the model.
pub(crate) fn variant(config: &Config) -> Variant {
    let variant = match position_size(config) {
        Some(_) => Variant::VILT,
        None => Variant::VLC,
    };
    Variant {
        layer_norm_eps: config.layer_norm_eps.map_or(variant.layer_norm_eps, |eps| eps as f32),
        text_layer_norm_eps: config
            .text_layer_norm_eps
            .map_or(variant.text_layer_norm_eps, |eps| eps as f32),
        ..variant
    }
}

/// Checks that images of the size of a key are whole patches.
///
/// # Errors
/// Returns an error that names the nearest sizes that are.
pub(crate) fn check_image_size(key: &str, size: usize, patch_size: usize) -> Result<(), ConfigError> {
    if size.is_multiple_of(patch_size) {
        return Ok(());
    }
    let below = size / patch_size * patch_size;
    let above = below + patch_size;
    let choices = if below == 0 {
        above.to_string()
    } else {
        format!("{below} or {above}")
    };
    Err(ConfigError::Contradiction(format!(
        "{key}={size} is not a multiple of the patch size {patch_size}: use {choices}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use vlct_config::resolve;

    fn size(words: &[&str]) -> Result<Backbone, String> {
        model_size(&resolve(words).unwrap().config).map_err(|e| e.to_string())
    }

    #[test]
    fn sizes_are_those_of_vit_unless_overridden() {
        let base = size(&[]).unwrap();
        assert_eq!((base.width, base.depth, base.heads, base.patch_size), (768, 12, 12, 16));
        assert_eq!(
            (base.decoder_width, base.decoder_depth, base.decoder_heads),
            (512, 8, 16)
        );
        assert_eq!(size(&["hidden_size=768"]).unwrap(), base);
        assert_eq!(size(&["vit=mae_vit_base_patch16_dec512d8b"]).unwrap(), base);
        let large = size(&["vit=mae_vit_large_patch16", "hidden_size=1024"]).unwrap();
        assert_eq!((large.width, large.depth, large.heads), (1024, 24, 16));
        let huge = size(&["vit=mae_vit_huge_patch14", "image_size=224"]).unwrap();
        assert_eq!(
            (huge.width, huge.depth, huge.heads, huge.patch_size),
            (1280, 32, 16, 14)
        );
        let custom = size(&[
            "hidden_size=128",
            "heads=4",
            "depth=3",
            "patch_size=8",
            "decoder_width=64",
            "decoder_heads=2",
        ]);
        assert_eq!(
            custom.unwrap(),
            Backbone {
                patch_size: 8,
                width: 128,
                depth: 3,
                heads: 4,
                decoder_width: 64,
                decoder_depth: 8,
                decoder_heads: 2
            }
        );
    }

    #[test]
    fn rejects_sizes_that_contradict_each_other() {
        for (words, part) in [
            (&["vit=mae_vit_large_patch16", "hidden_size=768"][..], "contradicts vit"),
            (&["hidden_size=770", "heads=12"], "not a multiple of heads=12"),
            (&["hidden_size=6", "heads=3"], "not a multiple of 4"),
            (
                &["decoder_width=100", "decoder_heads=16"],
                "not a multiple of decoder_heads=16",
            ),
            (&["image_size=390"], "use 384 or 400"),
            (&["vit=vit_base_patch32_384", "decoder_depth=2"], "has no decoder"),
            (
                &["vit=vit_base_patch32_384", "position_size=100"],
                "position_size=100 is not a multiple",
            ),
            (&["image_size=5"], "use 16"),
            (&["vit=mae_vit_huge_patch14", "image_size=384"], "use 378 or 392"),
        ] {
            let message = size(words).unwrap_err();
            assert!(message.contains(part), "{words:?}: {message}");
        }
    }
}
