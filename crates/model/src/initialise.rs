//! Initial weights, distributed as in BERT for text embeddings and heads, and as in MAE for the backbone.

use crate::config::VlcConfig;
use crate::model::Model;
use crate::position::sine_cosine;
use crate::vit::Vit;
use crate::vlc::Vlc;
use rand::{Rng, RngExt};

/// Standard deviation of the initial weights of embeddings and heads.
const STD: f64 = 0.02;

/// Draws all weights of a model of either kind; see [`initialise`] and [`initialise_vit`].
pub fn initialise_model<R: Rng>(model: &mut Model, random: impl Fn(u64) -> R + Sync) {
    match model {
        Model::Vlc(model) => initialise(model, random),
        Model::Vit(model) => initialise_vit(model, random),
    }
}

/// Standard deviation of the weights of a new head on the weights of an encoder.
const NEW_HEAD_STD: f64 = 2e-5;
/// Standard deviation of the weights of a new head in linear probing.
const PROBE_HEAD_STD: f64 = 0.01;

/// Draws all weights of an image classifier, on all cores, as MAE's fine-tuning does. `random(i)` returns the generator for parameter `i`.
///
/// Linear weights, `cls_token` and `pos_embed`: normal, σ 0.02. Patch projection: uniform in ±1/√(3P²), weight and bias. Layer norms:
/// weight 1, bias 0. Other biases: 0. Running statistics: mean 0, variance 1.
pub fn initialise_vit<R: Rng>(model: &mut Vit, random: impl Fn(u64) -> R + Sync) {
    let bound = 1.0 / ((3 * model.config().patch_size.pow(2)) as f64).sqrt();
    model.parameters_mut().fill(|id, parameter, values| {
        let random = &mut random(id.index() as u64);
        let name = &parameter.name;
        if name.starts_with("patch_embed.") {
            fill_uniform(values, bound, random);
        } else if name.contains("norm") && name.ends_with("weight") || name.ends_with("running_var") {
            values.fill(1.0);
        } else if name.ends_with("bias") || name.ends_with("running_mean") {
            values.fill(0.0);
        } else {
            values.fill_with(|| (STD * standard_normal(random)) as f32);
        }
    });
}

/// Draws the weight of an image classifier's head again, for an encoder with trained weights: normal, σ 2e-5, in linear probing 0.01;
/// bias 0.
pub fn initialise_new_head(model: &mut Vit, random: &mut impl Rng) {
    let (head, probes) = (model.config().head(), model.config().linear_probe);
    let parameters = model.parameters_mut();
    let head: Vec<_> = parameters
        .iter()
        .filter(|(_, p)| p.name.starts_with(head))
        .map(|(id, p)| (id, p.name.ends_with("weight"), p.len()))
        .collect();
    for (id, is_weight, len) in head {
        let std = match (is_weight, probes) {
            (true, false) => NEW_HEAD_STD,
            (true, true) => PROBE_HEAD_STD,
            (false, _) => 0.0,
        };
        let values: Vec<f32> = (0..len).map(|_| (std * standard_normal(random)) as f32).collect();
        parameters.set(id, &values);
    }
}

/// Draws all weights, on all cores. `random(i)` returns the generator for parameter `i`.
///
/// Embeddings, `cls_token`, `mask_token`, pooler and heads: normal, σ 0.02. Backbone linear weights: Xavier uniform (qkv as
/// one matrix, the patch projection as `[D, 3·P²]`). Layer norms: weight 1, bias 0. Other biases: 0, except that of the patch
/// projection, which is uniform in ±1/√(3P²). Position tables: sine-cosine.
pub fn initialise<R: Rng>(model: &mut Vlc, random: impl Fn(u64) -> R + Sync) {
    let config = model.config().clone();
    model.parameters_mut().fill(|id, parameter, values| {
        draw_parameter(
            &config,
            &parameter.name,
            &parameter.shape,
            &mut random(id.index() as u64),
            values,
        );
    });
}

fn draw_parameter(config: &VlcConfig, name: &str, shape: &[usize], random: &mut impl Rng, values: &mut [f32]) {
    // `vqa_classifier.1`, `nlvr2_classifier.1` and `labels_classifier.1` are layer norms, too.
    let is_norm = name.contains("norm") || name.contains("LayerNorm") || name.contains("_classifier.1.");
    let table = |width| sine_cosine(width, config.grid());
    match name {
        "transformer.pos_embed" => return values.copy_from_slice(&table(config.backbone.width)),
        "transformer.decoder_pos_embed" => return values.copy_from_slice(&table(config.backbone.decoder_width)),
        "transformer.patch_embed.proj.bias" => {
            let bound = 1.0 / (config.patch_values() as f64).sqrt();
            return fill_uniform(values, bound, random);
        }
        _ if is_norm && name.ends_with("weight") => return values.fill(1.0),
        _ if name.ends_with("bias") => return values.fill(0.0),
        _ => {}
    }
    let is_token = name.ends_with("cls_token") || name.ends_with("mask_token");
    if name.starts_with("transformer.") && !is_token {
        let (fan_out, fan_in) = (shape[0], shape[1..].iter().product::<usize>());
        return fill_uniform(values, (6.0 / (fan_in + fan_out) as f64).sqrt(), random);
    }
    values.fill_with(|| (STD * standard_normal(random)) as f32);
}

fn fill_uniform(values: &mut [f32], bound: f64, random: &mut impl Rng) {
    values.fill_with(|| (bound * (2.0 * random.random::<f64>() - 1.0)) as f32);
}

/// Draws a standard normal value by the Box-Muller transform.
fn standard_normal(random: &mut impl Rng) -> f64 {
    let radius = (-2.0 * (1.0 - random.random::<f64>()).ln()).sqrt();
    radius * (std::f64::consts::TAU * random.random::<f64>()).cos()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Backbone, Heads};
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    #[test]
    fn initial_weights_have_the_documented_distributions() {
        let backbone = Backbone {
            patch_size: 8,
            width: 64,
            depth: 1,
            heads: 4,
            decoder_width: 32,
            decoder_depth: 1,
            decoder_heads: 4,
        };
        let heads = Heads {
            mlm: true,
            itm: true,
            vqa: Some(300),
            rank: true,
            nlvr2: true,
            labels: Some(5),
        };
        let config = VlcConfig {
            image_size: 32,
            backbone,
            vocab_size: 500,
            max_text_len: 20,
            token_types: 2,
            variant: crate::config::Variant::VLC,
            drop_rate: 0.1,
            heads,
        };
        let mut model = Vlc::new(config);
        initialise(&mut model, ChaCha8Rng::seed_from_u64);
        let rms_and_max = |name: &str| {
            let id = model.parameters().id(name).expect("declared");
            let values = model.parameters().tensor(id).to_host().to_vec();
            let max = values.iter().fold(0f32, |m, v| m.max(v.abs()));
            (
                (values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32).sqrt(),
                max,
            )
        };
        let (std, _) = rms_and_max("text_embeddings.word_embeddings.weight");
        assert!((std - 0.02).abs() < 0.0005);
        let bound = (6.0f32 / (64.0 + 192.0)).sqrt();
        let (std, max) = rms_and_max("transformer.blocks.0.attn.qkv.weight");
        assert!(max <= bound && (std - bound / 3f32.sqrt()).abs() < 0.01 * bound);
        let (_, max) = rms_and_max("transformer.patch_embed.proj.bias");
        assert!(max > 0.0 && max <= 1.0 / 192f32.sqrt());
        assert_eq!(rms_and_max("transformer.blocks.0.norm1.weight"), (1.0, 1.0));
        assert_eq!(rms_and_max("mlm_score.transform.LayerNorm.bias"), (0.0, 0.0));
        assert_eq!(rms_and_max("mlm_score.bias"), (0.0, 0.0));
        assert!((rms_and_max("vqa_classifier.3.weight").0 - 0.02).abs() < 0.0005);
        assert_eq!(rms_and_max("vqa_classifier.1.weight"), (1.0, 1.0));
        assert_eq!(rms_and_max("vqa_classifier.1.bias"), (0.0, 0.0));
        assert!(rms_and_max("transformer.pos_embed").0 > 0.5);
    }

    #[test]
    fn initial_weights_of_a_classifier_have_the_documented_distributions() {
        let mut model = Vit::new(crate::VitConfig {
            image_size: 32,
            patch_size: 8,
            width: 64,
            depth: 1,
            heads: 4,
            classes: 100,
            global_pool: true,
            drop_path: 0.0,
            layer_norm_eps: 1e-6,
            linear_probe: false,
        });
        initialise_vit(&mut model, ChaCha8Rng::seed_from_u64);
        let values = |model: &Vit, name: &str| {
            let id = model.parameters().id(name).expect("declared");
            model.parameters().tensor(id).to_host().to_vec()
        };
        let rms = |values: &[f32]| (values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32).sqrt();
        for name in [
            "pos_embed",
            "head.weight",
            "blocks.0.attn.qkv.weight",
            "blocks.0.mlp.fc2.weight",
        ] {
            let std = rms(&values(&model, name));
            assert!((std - 0.02).abs() < 0.002, "{name}: {std}");
        }
        let bound = 1.0 / 192f32.sqrt();
        for name in ["patch_embed.proj.weight", "patch_embed.proj.bias"] {
            let values = values(&model, name);
            assert!(values.iter().all(|v| v.abs() <= bound), "{name}");
            assert!((rms(&values) - bound / 3f32.sqrt()).abs() < 0.2 * bound, "{name}");
        }
        assert_eq!(rms(&values(&model, "fc_norm.weight")), 1.0);
        assert_eq!(rms(&values(&model, "blocks.0.attn.proj.bias")), 0.0);
        initialise_new_head(&mut model, &mut ChaCha8Rng::seed_from_u64(1));
        let std = rms(&values(&model, "head.weight"));
        assert!((std - 2e-5).abs() < 1e-6, "{std}");
        assert_eq!(rms(&values(&model, "head.bias")), 0.0);
    }
}
