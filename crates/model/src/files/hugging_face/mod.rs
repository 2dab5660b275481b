//! Hugging Face's names of image transformers and of ViLT, and of query, key and value, which MAE and ViLT have in one tensor.
//!
//! The names of image transformers are those of `ViTMAEForPreTraining`, `ViTMAEModel`, `ViTModel` and `ViTForImageClassification`. The encoder is under `vit.` or
//! at the top level, and the decoder of masked autoencoding under `decoder.`. ViLT ([`vilt`]) has the same names of blocks; it is
//! recognised by its text embedding.

pub(super) mod export;
pub(super) mod head;
pub(super) mod vilt;

use std::collections::HashMap;

use super::BACKBONE_PREFIX;

/// Beginnings of the names of blocks, before the number of the block, and MAE's. Version 5 of transformers has the second form of the
/// decoder's.
const BLOCKS: [(&str, &str); 3] = [
    ("decoder.decoder_layers.", "decoder_blocks"),
    ("decoder.decoder_encoder.layer.", "decoder_blocks"),
    ("encoder.layer.", "blocks"),
];
/// Layers of a block, and MAE's names of them.
const LAYERS: [(&str, &str); 8] = [
    ("layernorm_before", "norm1"),
    ("attention.attention.query", "attn.query"),
    ("attention.attention.key", "attn.key"),
    ("attention.attention.value", "attn.value"),
    ("attention.output.dense", "attn.proj"),
    ("layernorm_after", "norm2"),
    ("intermediate.dense", "mlp.fc1"),
    ("output.dense", "mlp.fc2"),
];
/// The other tensors and layers of the encoder, and MAE's names of them.
const ENCODER: [(&str, &str); 4] = [
    ("embeddings.cls_token", "cls_token"),
    ("embeddings.position_embeddings", "pos_embed"),
    ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
    ("layernorm", "norm"),
];
/// The other tensors and layers of the decoder and of a classifier, and MAE's names of them.
const HEADS: [(&str, &str); 6] = [
    ("decoder.mask_token", "mask_token"),
    ("decoder.decoder_pos_embed", "decoder_pos_embed"),
    ("decoder.decoder_embed", "decoder_embed"),
    ("decoder.decoder_norm", "decoder_norm"),
    ("decoder.decoder_pred", "decoder_pred"),
    ("classifier", "head"),
];
/// The name under which models with heads have the encoder.
const ENCODER_PREFIX: &str = "vit.";
/// The text embedding of ViLT, which an image transformer does not have.
const TEXT_EMBEDDING: &str = "embeddings.text_embeddings.";

/// MAE's names of two tensors that every image transformer has. A file is one of Hugging Face only if it has both.
const SIGNATURES: [&str; 2] = ["patch_embed.proj.weight", "blocks.0.norm1.weight"];

/// The parts of `attn.qkv`, in the order of their rows.
pub(super) const PARTS: [&str; 3] = ["query", "key", "value"];

/// Returns the model's name of each tensor: that of ViLT or that of MAE. `None` for tensors without a name of Hugging Face's models.
pub(super) fn model_names(names: &[&str]) -> Vec<Option<String>> {
    let of_vilt = vilt::native_names(names);
    match of_vilt.iter().any(Option::is_some) {
        true => of_vilt,
        false => mae_names(names),
    }
}

/// Returns MAE's name of each tensor, `None` for those that are not of an image transformer with Hugging Face's names. What precedes
/// the names of the model is kept. The parts of `attn.qkv` are `attn.query`, `attn.key` and `attn.value`.
fn mae_names(names: &[&str]) -> Vec<Option<String>> {
    let translated: Vec<Option<(&str, String)>> = names.iter().map(|name| translate(name)).collect();
    let mut signatures: HashMap<&str, [bool; 2]> = HashMap::new();
    for (prefix, name) in translated.iter().flatten() {
        if let Some(i) = SIGNATURES.iter().position(|signature| signature == name) {
            signatures.entry(prefix).or_default()[i] = true;
        }
    }
    for name in names {
        if let Some((prefix, _)) = name.split_once(TEXT_EMBEDDING) {
            signatures.remove(prefix);
        }
    }
    let is_model = |prefix: &str| signatures.get(prefix).is_some_and(|found| found.iter().all(|is| *is));
    let name = |(prefix, name): (&str, String)| is_model(prefix).then(|| format!("{prefix}{name}"));
    translated.into_iter().map(|translated| name(translated?)).collect()
}

/// Returns what precedes the names of the model in a name, and MAE's name of the tensor.
fn translate(name: &str) -> Option<(&str, String)> {
    if let Some((prefix, block)) = block_name(name) {
        return Some((outer(prefix, block.starts_with("blocks."))?, block));
    }
    let (layer, tensor) = split_tensor(name);
    let in_table = |table: &[(&str, &str)], is_encoder: bool| {
        let found = |(layer_name, of_mae): &(&str, &str)| {
            let prefix = outer(layer.strip_suffix(layer_name)?, is_encoder)?;
            Some((prefix, format!("{of_mae}{tensor}")))
        };
        table.iter().find_map(found)
    };
    in_table(&ENCODER, true).or_else(|| in_table(&HEADS, false))
}

/// Returns what precedes the name of a block in the name of one of its tensors, and MAE's name of the tensor.
fn block_name(name: &str) -> Option<(&str, String)> {
    BLOCKS.iter().find_map(|(blocks, of_mae)| {
        let (prefix, rest) = name.rsplit_once(blocks)?;
        let (number, rest) = rest.split_once('.')?;
        let (layer, tensor) = rest.rsplit_once('.')?;
        let (_, layer) = LAYERS.iter().find(|(name, _)| *name == layer)?;
        Some((prefix, format!("{of_mae}.{number}.{layer}.{tensor}")))
    })
}

/// Returns Hugging Face's name of a tensor of an encoder's block, which has MAE's name; `None` for other tensors.
fn name_of_block(of_mae: &str) -> Option<String> {
    let [.., (blocks, of_blocks)] = BLOCKS;
    let (number, rest) = of_mae.strip_prefix(of_blocks)?.strip_prefix('.')?.split_once('.')?;
    let (layer, tensor) = rest.rsplit_once('.')?;
    let (layer, _) = LAYERS.iter().find(|(_, of_mae)| *of_mae == layer)?;
    Some(format!("{blocks}{number}.{layer}.{tensor}"))
}

/// Returns the name of a tensor's layer, and `.weight` or `.bias`; the whole name and nothing for other tensors.
fn split_tensor(name: &str) -> (&str, &'static str) {
    match name.rsplit_once('.') {
        Some((layer, "weight")) => (layer, ".weight"),
        Some((layer, "bias")) => (layer, ".bias"),
        _ => (name, ""),
    }
}

/// Returns a prefix without that of the encoder; `None` if the prefix is not one of whole components.
fn outer(prefix: &str, is_encoder: bool) -> Option<&str> {
    let is_whole = |prefix: &str| prefix.is_empty() || prefix.ends_with('.');
    let of_encoder = prefix.strip_suffix(ENCODER_PREFIX).filter(|_| is_encoder);
    of_encoder
        .filter(|rest| is_whole(rest))
        .or_else(|| is_whole(prefix).then_some(prefix))
}

/// Returns the name of the tensor of which a tensor is a part, and the number of the part.
pub(super) fn whole(name: &str) -> Option<(String, usize)> {
    let (layer, tensor) = name.rsplit_once('.')?;
    let (attention, part) = layer.rsplit_once('.')?;
    let part = PARTS.iter().position(|name| *name == part)?;
    let attention_of_block = attention.strip_prefix(BACKBONE_PREFIX).unwrap_or(attention);
    let is_of_block = BLOCKS.iter().any(|(_, blocks)| attention_of_block.starts_with(blocks));
    (is_of_block && attention.ends_with(".attn")).then(|| (format!("{attention}.qkv.{tensor}"), part))
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use proptest::prelude::*;
    use serde_json::Value;

    use super::super::{Options, Problem, StateDict, StoredTensor, Style, convert, heads, index, map, read, write};
    use super::*;
    use crate::files::heads::GivenHeads;
    use crate::{Vit, VitConfig};

    /// A recorded model of Hugging Face.
    struct Recorded {
        directory: PathBuf,
        config: Value,
        /// The tensors by the names in the file.
        state: StateDict,
        /// The tensors by MAE's names, as the recorded table has them.
        of_mae: StateDict,
    }

    /// Returns the recorded models in the subdirectories `part`. `tables` are the parts of the table of names.
    fn recorded(part: &str, tables: &[&str]) -> Vec<Recorded> {
        let of_directory = |directory: PathBuf| {
            let file = vlct_golden::Tensors::open(directory.join("model.safetensors"));
            let tensor = |name: &str| StoredTensor::f32(file.shape(name), file.f32(name));
            let names = vlct_golden::json(directory.join("../name_map_mae.json"));
            let mut of_mae = StateDict::new();
            for entry in tables
                .iter()
                .flat_map(|table| names[table].as_array().expect("a table"))
            {
                let native = entry["native"].as_str().expect("a name");
                let parts: Vec<&str> = match &entry["hf"] {
                    Value::Array(parts) => parts.iter().filter_map(Value::as_str).collect(),
                    name => vec![name.as_str().expect("a name")],
                };
                for block in 0.. {
                    let of_block = |name: &str| name.replace("{i}", &block.to_string());
                    if !file.has(&of_block(parts[0])) || (block > 0 && !native.contains("{i}")) {
                        break;
                    }
                    let parts: Vec<StoredTensor> = parts.iter().map(|name| tensor(&of_block(name))).collect();
                    let mut shape = parts[0].shape.clone();
                    shape[0] *= parts.len();
                    let values = parts.into_iter().filter_map(StoredTensor::into_f32).flatten();
                    of_mae.insert(of_block(native), StoredTensor::f32(shape, values.collect()));
                }
            }
            Recorded {
                config: vlct_golden::json(directory.join("config.json")),
                state: file.names().iter().map(|name| (name.clone(), tensor(name))).collect(),
                directory,
                of_mae,
            }
        };
        vlct_golden::vilt_directories(part)
            .into_iter()
            .map(of_directory)
            .collect()
    }

    fn models_of_mae() -> Vec<Recorded> {
        recorded("mae", &["encoder", "decoder"])
    }

    fn renamed(state: &StateDict, rename: impl Fn(&str) -> Option<String>) -> StateDict {
        let tensors = state.iter();
        tensors
            .filter_map(|(name, tensor)| Some((rename(name)?, tensor.clone())))
            .collect()
    }

    fn sorted(state: StateDict) -> Vec<(String, StoredTensor)> {
        let mut tensors: Vec<_> = state.into_iter().collect();
        tensors.sort_by(|a, b| a.0.cmp(&b.0));
        tensors
    }

    fn of_version_5(name: &str) -> String {
        name.replace("decoder.decoder_layers.", "decoder.decoder_encoder.layer.")
    }

    #[test]
    fn recorded_models_have_the_tensors_of_mae() {
        for model in models_of_mae()
            .into_iter()
            .chain(recorded("vit", &["encoder", "ViTForImageClassification"]))
        {
            // The directory of a model is a path of weights.
            for path in [&model.directory, &model.directory.join("model.safetensors")] {
                let file = read(path).unwrap();
                assert_eq!(file.style, Style::Mae);
                assert!(file.summary.hugging_face && file.summary.removed_prefixes.is_empty());
                assert!(file.unreadable.is_empty(), "{:?}", file.unreadable);
                assert!(sorted(file.state) == sorted(model.of_mae.clone()), "{}", path.display());
            }
        }
    }

    #[test]
    fn every_form_of_the_names_has_the_tensors_of_mae() {
        type Form = fn(&str) -> Option<String>;
        let forms: [(&str, Form); 8] = [
            ("", |name| Some(name.to_owned())),
            ("", |name| Some(of_version_5(name))),
            ("module.", |name| Some(format!("module.{name}"))),
            ("model.", |name| Some(format!("model.{}", of_version_5(name)))),
            ("_orig_mod.", |name| Some(name.replace(".layer.", "._orig_mod.layer."))),
            ("net.", |name| Some(format!("net.{name}"))),
            // Encoders alone.
            ("", |name| name.strip_prefix("vit.").map(str::to_owned)),
            ("backbone.", |name| {
                name.strip_prefix("vit.").map(|name| format!("backbone.{name}"))
            }),
        ];
        let directory = tempfile::tempdir().unwrap();
        for model in models_of_mae() {
            let names = vlct_golden::json(model.directory.join("names_transformers_5.json"));
            for (name, shape) in names.as_object().expect("names with shapes") {
                let (_, tensor) = model
                    .state
                    .iter()
                    .find(|(old, _)| of_version_5(old) == *name)
                    .expect("a tensor");
                assert_eq!(serde_json::json!(tensor.shape), *shape, "{name}");
            }
            for (prefix, form) in forms {
                let state = renamed(&model.state, form);
                let has_decoder = state.names().any(|name| name.contains("decoder"));
                let mut want = sorted(model.of_mae.clone());
                want.retain(|(name, _)| has_decoder || !(name.starts_with("decoder_") || name == "mask_token"));
                for file in ["model.safetensors", "pytorch_model.bin"] {
                    let path = directory.path().join(file);
                    write(&path, &state, &Style::Mae.into()).unwrap();
                    let read = read(&path).unwrap();
                    assert!(sorted(read.state) == want, "{prefix} {file}");
                    assert!(read.summary.hugging_face);
                    let prefixes: Vec<&str> = read.summary.removed_prefixes.iter().map(String::as_str).collect();
                    assert_eq!(prefixes.concat(), prefix);
                }
            }
        }
    }

    /// Reads `state` from a file and loads it into a classifier with the sizes of `model`.
    fn load(model: &Recorded, state: &StateDict) -> Result<usize, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.safetensors");
        write(&path, state, &Style::Mae.into()).unwrap();
        let size = |key: &str| model.config[key].as_u64().expect("a size") as usize;
        let mut classifier = Vit::new(VitConfig {
            image_size: size("image_size"),
            patch_size: size("patch_size"),
            width: size("hidden_size"),
            depth: size("num_hidden_layers"),
            heads: size("num_attention_heads"),
            classes: 2,
            global_pool: false,
            drop_path: 0.0,
            layer_norm_eps: 1e-6,
            linear_probe: false,
        });
        let files = map(&path).unwrap();
        let loaded = classifier.load(&index(&files).unwrap(), Options::default());
        loaded.map(|report| report.matched).map_err(|error| error.to_string())
    }

    #[test]
    fn errors_name_the_part_that_is_missing_or_of_another_shape() {
        for model in models_of_mae() {
            let layer = "vit.encoder.layer.0.attention.attention";
            assert_eq!(
                load(&model, &model.state),
                Ok(model
                    .of_mae
                    .names()
                    .filter(|name| { !name.starts_with("decoder_") && *name != "mask_token" })
                    .count())
            );
            for part in ["query.weight", "key.bias", "value.weight"] {
                let missing = format!("{layer}.{part}");
                let without = renamed(&model.state, |name| (name != missing).then(|| name.to_owned()));
                let tensor = part.split_once('.').expect("layer and tensor").1;
                assert_eq!(
                    load(&model, &without),
                    Err(format!(
                        "tensor blocks.0.attn.qkv.{tensor}, which the model needs, is made of query, key and value, but the file has no \
                         tensor {missing}"
                    ))
                );
                let mut other = model.state.clone();
                other.insert(&missing, StoredTensor::f32([2, 1], vec![0.0; 2]));
                let error = load(&model, &other).unwrap_err();
                assert!(error.contains("different types or shapes: float32 ["), "{error}");
                assert!(error.contains("float32 [2, 1]") && !error.contains('\n'), "{error}");
            }
            // A model without biases of query, key and value.
            let without = renamed(&model.state, |name| {
                let is_bias = name.contains("attention.attention") && name.ends_with("bias");
                (!is_bias).then(|| name.to_owned())
            });
            let error = load(&model, &without).unwrap_err();
            assert!(error.contains("not blocks.0.attn.qkv.bias"), "{error}");
        }
    }

    #[test]
    fn names_of_other_models_are_not_those_of_mae() {
        for names in [
            // ViLT, with and without its prefix.
            &[
                "vilt.embeddings.text_embeddings.word_embeddings.weight",
                "vilt.embeddings.patch_embeddings.projection.weight",
                "vilt.encoder.layer.0.layernorm_before.weight",
                "vilt.layernorm.weight",
            ][..],
            &[
                "embeddings.text_embeddings.word_embeddings.weight",
                "embeddings.patch_embeddings.projection.weight",
                "encoder.layer.0.layernorm_before.weight",
            ],
            // BERT.
            &[
                "bert.embeddings.position_embeddings.weight",
                "bert.encoder.layer.0.attention.output.dense.weight",
                "bert.encoder.layer.0.output.dense.weight",
                "classifier.weight",
            ],
            // DINOv2.
            &[
                "embeddings.patch_embeddings.projection.weight",
                "encoder.layer.0.norm1.weight",
                "layernorm.weight",
            ],
            &[
                "encoder.layer.",
                "encoder.layer.0",
                "encoder.layer.0.a",
                "decoder.",
                "",
                "vit.",
                ".",
            ],
        ] {
            assert!(mae_names(names).iter().all(Option::is_none), "{names:?}");
        }
    }

    #[test]
    fn models_of_hugging_face_convert_to_the_names_of_mae_and_vlc() {
        let directory = tempfile::tempdir().unwrap();
        for model in models_of_mae() {
            let heads = |key: &str| model.config[key].as_u64().map(|heads| heads as usize);
            let of_config = GivenHeads {
                encoder: heads("num_attention_heads"),
                decoder: heads("decoder_num_attention_heads"),
            };
            for (name, style, prefix) in [
                ("a.pth", None, ""),
                ("b.safetensors", Some(Style::Mae), ""),
                ("c.safetensors", Some(Style::Vlc), "transformer."),
                ("d.ckpt", Some(Style::Vlc), "transformer."),
            ] {
                let path = directory.path().join(name);
                let report = convert(&model.directory, &path, style.into()).unwrap();
                assert_eq!((report.left_out.len(), report.unreadable.len()), (0, 0));
                assert!(
                    report.to_string().contains("names changed from Hugging Face to "),
                    "{report}"
                );
                let file = read(&path).unwrap();
                let want = renamed(&model.of_mae, |name| Some(format!("{prefix}{name}")));
                assert!(sorted(file.state.clone()) == sorted(want), "{name}");
                assert!(!file.summary.hugging_face);
                // A PyTorch file with MAE's names does not state them.
                if name != "a.pth" {
                    assert_eq!(
                        heads::of_file(file.format, &file.summary, &file.state),
                        of_config,
                        "{name}"
                    );
                }
            }
        }
    }

    #[test]
    fn numbers_of_heads_come_from_the_configuration_beside_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let [path, config] = ["model.safetensors", "config.json"].map(|name| directory.path().join(name));
        for model in models_of_mae() {
            let heads_of = |path: &Path| {
                let file = read(path).unwrap();
                heads::of_file(file.format, &file.summary, &file.state)
            };
            assert!(heads_of(&model.directory).decoder.is_some());
            write(&path, &model.state, &Style::Mae.into()).unwrap();
            assert_eq!(heads_of(&path), GivenHeads::default());
            for content in ["{\"num_attention_heads\": \"3\"}", "{\"num_attention_heads\": 5}"] {
                std::fs::write(&config, content).unwrap();
                assert_eq!(heads_of(&path), GivenHeads::default(), "{content}");
            }
            for content in ["", "[]", "{\"num_attention_heads\"", "\u{feff}{}"] {
                std::fs::write(&config, content).unwrap();
                let error = read(&path).unwrap_err().to_string();
                assert!(
                    error.contains("config.json: the configuration cannot be read"),
                    "{error}"
                );
                assert!(!error.contains('\n'), "{error}");
            }
            std::fs::remove_file(&config).unwrap();
        }
    }

    #[test]
    fn a_changed_part_is_damage_of_the_joined_tensor() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pytorch_model.bin");
        let model = &models_of_mae()[0];
        let part = "vit.encoder.layer.1.attention.attention.key.weight";
        let marked = model.state.get(part).unwrap().to_f32().unwrap()[0].to_le_bytes();
        write(&path, &model.state, &Style::Mae.into()).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        let position = bytes.windows(4).position(|window| window == marked).unwrap();
        bytes[position] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let error = read(&path).unwrap_err();
        assert!(matches!(error.problem, Problem::Checksums(_)), "{error}");
        assert!(
            error.to_string().ends_with("(CRC-32): blocks.1.attn.qkv.weight"),
            "{error}"
        );
    }

    proptest! {
        #[test]
        fn any_names_are_translated_or_not(names in prop::collection::vec(
            "((module|vit|net|encoder|decoder|decoder_layers|layer|0|attention)\\.){0,5}\
             (encoder\\.layer\\.0\\.layernorm_before\\.weight|embeddings\\.patch_embeddings\\.projection\\.weight|layernorm\\.bias|key|w)",
            0..20,
        )) {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            prop_assert_eq!(mae_names(&names).len(), names.len());
        }
    }
}
