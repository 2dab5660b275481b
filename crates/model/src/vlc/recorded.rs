//! Tests that compare masked autoencoding with the recorded values of Hugging Face's model, whose weight file is loaded.

use super::Vlc;
use crate::blocks::{BACKBONE_EPS, ParameterIds};
use crate::config::{Backbone, Heads, VlcConfig};
use crate::files::{self, Options, Scope};
use crate::inputs::{Inputs, Sequence};
use crate::mask::PatchMask;
use serde_json::Value;
use std::path::Path;
use vlct_golden::{Tensors, assert_close};
use vlct_tensor::ops::Varlen;
use vlct_tensor::tensor::Order;
use vlct_tensor::{Planes, Tape, Var};

/// Bound of relative differences of tensors.
const BOUND: f32 = 2e-5;
/// Bound of the relative difference of losses.
const LOSS_BOUND: f32 = 1e-5;

/// Returns the model whose image part is that of the weights in `directory`, with the sizes in `config`.
fn model(directory: &Path, config: &Value) -> Vlc {
    let size = |key: &str| config[key].as_u64().expect("a size") as usize;
    let mut model = Vlc::new(VlcConfig {
        image_size: size("image_size"),
        backbone: Backbone {
            patch_size: size("patch_size"),
            width: size("hidden_size"),
            depth: size("num_hidden_layers"),
            heads: size("num_attention_heads"),
            decoder_width: size("decoder_hidden_size"),
            decoder_depth: size("decoder_num_hidden_layers"),
            decoder_heads: size("decoder_num_attention_heads"),
        },
        vocab_size: 8,
        max_text_len: 4,
        token_types: 2,
        variant: crate::config::Variant::VLC,
        drop_rate: 0.0,
        heads: Heads::default(),
    });
    let files = files::map(directory).unwrap();
    let options = Options {
        scope: Scope::Backbone,
        ..Options::default()
    };
    let report = model.load(&files::index(&files).unwrap(), options).unwrap();
    let unused: [&[String]; 4] = [&report.missing, &report.unexpected, &report.resized, &report.skipped];
    assert!(unused.concat().is_empty(), "{report}");
    model
}

/// Returns a recorded tensor, split along its first axis.
fn rows<'t>(values: &'t [f32], shape: &[usize]) -> Vec<&'t [f32]> {
    values.chunks_exact(values.len() / shape[0]).collect()
}

#[test]
fn encoder_and_decoder_have_the_recorded_values() {
    for directory in vlct_golden::vilt_directories("mae") {
        let config = vlct_golden::json(directory.join("config.json"));
        let model = model(&directory, &config);
        let want = Tensors::open(directory.join("golden.safetensors"));
        let (images, noise) = (want.f32("pixel_values"), want.f32("noise"));
        let images = rows(&images, &want.shape("pixel_values"));
        let ratio = config["mask_ratio"].as_f64().expect("a ratio");
        let masks: Vec<PatchMask> = rows(&noise, &want.shape("noise"))
            .into_iter()
            .map(|noise| PatchMask::from_noise(noise, ratio))
            .collect();
        let restore: Vec<i64> = masks
            .iter()
            .flat_map(|m| m.ids_restore.iter().map(|i| i64::from(*i)))
            .collect();
        assert_eq!(restore, want.i64("ids_restore"));
        let sequence = |(image, mask): (usize, &PatchMask)| Sequence {
            text: None,
            image: Some(image as u32),
            mask: Some(mask.clone()),
            ..Sequence::FIRST_PAIR
        };
        let sequences: Vec<Sequence> = masks.iter().enumerate().map(sequence).collect();
        let planes = |image| Planes::square(image, model.config().image_size);
        let inputs = Inputs {
            images: images.iter().map(|image| planes(image)).collect(),
            texts: Vec::new(),
            sequences: &sequences,
        };
        let compare = |name: &str, got: &Var, want: &Tensors| {
            assert_close(name, &got.tensor().to_host(), &want.f32(name), BOUND);
        };

        // The ε of Hugging Face.
        let tape = Tape::inference(model.compute());
        let embedded = model.embed(&tape, &inputs, None, &mut |_, _| ());
        compare("embeddings", &embedded.x, &want);
        let eps = config["layer_norm_eps"].as_f64().expect("a number") as f32;
        let (p, backbone) = (model.parameters(), &model.config().backbone);
        let ids = ParameterIds(p);
        let varlen = Varlen::full(&embedded.offsets);
        let mut x = embedded.x;
        for i in 0..backbone.depth {
            let block = ids.block(&format!("transformer.blocks.{i}"), eps);
            x = block.mlp(&tape, p, &block.attend(&tape, p, &x, &varlen, backbone.heads));
            compare(&format!("block{i}"), &x, &want);
        }
        compare(
            "latent",
            &ids.norm("transformer.norm").forward(&tape, p, &x, eps),
            &want,
        );

        // The ε of the model.
        assert_eq!(BACKBONE_EPS, 1e-6);
        let encoded = model.encode(&tape, &inputs, None);
        compare("original_eps.latent", &encoded.features, &want);
        let masks: Vec<&PatchMask> = masks.iter().collect();
        let all = |_: &PatchMask| (0..model.config().patches() as u32).collect();
        let prediction = model.decode(&tape, &encoded, 0..masks.len(), &masks, all);
        compare("original_eps.prediction", &prediction, &want);

        // The loss of the recorded prediction.
        if config["norm_pix_loss"] == true {
            let prediction = want.f32("prediction");
            let values = model.config().patch_values();
            let patch = |(image, patch): (usize, u32)| {
                let start = (image * model.config().patches() + patch as usize) * values;
                prediction[start..start + values].iter().copied()
            };
            let removed = masks.iter().enumerate();
            let removed = removed.flat_map(|(image, mask)| mask.removed.iter().map(move |patch| (image, *patch)));
            let of_removed: Vec<f32> = removed.flat_map(patch).collect();
            let masked: Vec<(Planes, &[u32])> = images
                .iter()
                .zip(&masks)
                .map(|(image, mask)| (planes(image), mask.removed.as_slice()))
                .collect();
            let side = backbone.patch_size;
            let target = tape.device().patches(&masked, side, Order::ChannelLast);
            let prediction = tape.device().tensor(of_removed.len() / values, values, &of_removed);
            let loss = tape.patch_loss(&Var::constant(prediction), target);
            assert_close("loss", &[loss.tensor().item()], &want.f32("loss_norm_pix"), LOSS_BOUND);
        }
    }
}
