//! The files with settings that transformers reads: sizes, preparation of images, tokenizer.

use serde_json::{Map, Value, json};
use vlct_image::{ImageFormat, Normalisation};
use vlct_model::VlcConfig;
use vlct_model::files::ViltHead;
use vlct_text::Tokenizer;

use super::super::hugging_face::BICUBIC;
use super::Model;

/// Returns JSON as a file has it.
pub(super) fn json(value: &Value) -> String {
    format!("{value:#}\n")
}

/// Returns the number that an f32 is written as: the shortest that is the same f32.
fn number(value: f32) -> Value {
    value.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}

/// Returns the ε of the layer norms. Transformers has one; the text embedding and the head for masked words have it too.
fn layer_norm_eps(config: &VlcConfig) -> f32 {
    config.variant.text_layer_norm_eps
}

/// Returns `config.json`.
pub(super) fn config(model: &Model) -> Value {
    let (config, b) = (model.config, &model.config.backbone);
    let mut json = json!({
        "architectures": [model.head.architecture()],
        "model_type": "vilt",
        "vocab_size": config.vocab_size,
        "type_vocab_size": 2,
        "modality_type_vocab_size": config.token_types,
        "max_position_embeddings": config.max_text_len,
        "hidden_size": b.width,
        "num_hidden_layers": b.depth,
        "num_attention_heads": b.heads,
        "intermediate_size": 4 * b.width,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.02,
        "layer_norm_eps": number(layer_norm_eps(config)),
        "image_size": config.image_size,
        "patch_size": b.patch_size,
        "num_channels": 3,
        "qkv_bias": true,
        "max_image_length": -1,
        "num_images": if model.head == ViltHead::Nlvr2 { 2 } else { -1 },
        "tie_word_embeddings": false,
        "torch_dtype": "float32",
    });
    if let Some(names) = &model.names {
        let ids: Map<String, Value> = names
            .iter()
            .enumerate()
            .map(|(id, name)| (id.to_string(), name.as_str().into()))
            .collect();
        let labels: Map<String, Value> = names
            .iter()
            .enumerate()
            .map(|(id, name)| (name.clone(), id.into()))
            .collect();
        json["id2label"] = ids.into();
        json["label2id"] = labels.into();
    }
    json
}

/// Returns `preprocessor_config.json`. Transformers has the resize of ViLT, which keeps proportions, and that of ViT, to a square. With the
/// square, `processor_class` is not ViLT's, by which `AutoProcessor` of version 4 would resize as ViLT.
pub(super) fn images(model: &Model) -> Value {
    let ImageFormat {
        size,
        multiple,
        normalisation: Normalisation { mean, deviation },
    } = model.described.format;
    let keeps_proportions = model.described.transform.keeps_proportions();
    let mut json = json!({
        "image_processor_type": if keeps_proportions { "ViltImageProcessor" } else { "ViTImageProcessor" },
        "processor_class": if keeps_proportions { "ViltProcessor" } else { "VisionTextDualEncoderProcessor" },
        "do_resize": true,
        "size": if keeps_proportions { json!({"shortest_edge": size}) } else { json!({"height": size, "width": size}) },
        "resample": BICUBIC,
        "do_rescale": true,
        "rescale_factor": 1.0 / 255.0,
        "do_normalize": true,
        "image_mean": mean.map(number),
        "image_std": deviation.map(number),
    });
    if keeps_proportions {
        json["size_divisor"] = multiple.into();
        json["do_pad"] = true.into();
    }
    json
}

/// Returns `tokenizer_config.json`.
pub(super) fn tokenizer(model: &Model) -> Value {
    let mut json = json!({
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": model.tokenizer.lower_case(),
        "strip_accents": null,
        "tokenize_chinese_chars": true,
        "model_max_length": model.described.max_text_len,
    });
    if let (Value::Object(settings), Value::Object(tokens)) = (&mut json, special_tokens()) {
        settings.extend(tokens);
    }
    json
}

/// Returns `special_tokens_map.json`.
pub(super) fn special_tokens() -> Value {
    json!({
        "unk_token": "[UNK]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
    })
}

/// Returns `vocab.txt`.
pub(super) fn vocabulary(tokenizer: &Tokenizer) -> String {
    tokenizer
        .vocabulary()
        .iter()
        .map(|token| format!("{token}\n"))
        .collect()
}

/// Returns what transformers computes differently, as sentences.
pub(super) fn notes(model: &Model) -> Vec<String> {
    let mut notes = Vec::new();
    let (eps, written) = (model.config.variant.layer_norm_eps, layer_norm_eps(model.config));
    if eps != written {
        notes.push(format!(
            "transformers has one ε for all layer norms, which is {written:e} here; those of the encoder were trained with {eps:e}, so logits \
             differ slightly"
        ));
    }
    if model.head == ViltHead::Labels {
        notes.push("the head for labels is written as one for answers, whose layers are the same".into());
    }
    if model.described.reading.is_some() {
        notes.push(
            "transformers does not do what was done with transparent pixels and orientation tags of the training images: give it upright \
             images without transparency"
                .into(),
        );
    }
    notes
}
