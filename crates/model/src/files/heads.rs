//! The numbers of attention heads that a weight file states. No shape determines them.

use serde_json::Value;

use super::{Format, StateDict, Summary};
use crate::config::Backbone;

/// Key of the number of heads of the encoder in the metadata of a safetensors file.
const ENCODER_ENTRY: &str = "attention_heads";
/// Key of the number of heads of the decoder in the metadata of a safetensors file.
const DECODER_ENTRY: &str = "decoder_attention_heads";
/// Key of the number of heads of the encoder in the hyper-parameters of a PyTorch file.
pub(crate) const ENCODER_HYPER_PARAMETER: &str = "num_heads";
/// Key of the number of heads of the decoder in the hyper-parameters of a PyTorch file. The files of the original do not have it.
pub(crate) const DECODER_HYPER_PARAMETER: &str = "decoder_heads";

/// Key of the ε of the layer norms, in descriptions, in configurations of Hugging Face's models, and in files of this program.
pub(crate) const LAYER_NORM_EPS: &str = "layer_norm_eps";
/// Keys of the numbers of heads of the encoder and the decoder in the configuration of a model of Hugging Face.
const HUGGING_FACE: [&str; 2] = ["num_attention_heads", "decoder_num_attention_heads"];

/// The numbers of attention heads; `None` for those that are not stated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GivenHeads {
    /// Number of heads of the encoder.
    pub encoder: Option<usize>,
    /// Number of heads of the decoder of masked autoencoding.
    pub decoder: Option<usize>,
}

/// What the content of a weight file other than the weights says about attention heads.
pub(crate) struct Statements<'f> {
    /// The file, if it has metadata: only safetensors files do.
    metadata: Option<&'f Summary>,
    /// The description of a checkpoint of this program, else null.
    description: Value,
    /// The original's configuration, under `config` in the files of Lightning, or that of a model of Hugging Face.
    config: &'f Value,
}

impl<'f> Statements<'f> {
    pub(crate) fn new(format: Format, summary: &'f Summary) -> Self {
        let metadata = (format == Format::Safetensors).then_some(summary);
        let hyper_parameters = &summary.hyper_parameters;
        Self {
            metadata,
            description: summary
                .description
                .as_ref()
                .and_then(|json| serde_json::from_str(json).ok())
                .unwrap_or_default(),
            config: hyper_parameters.get("config").unwrap_or(hyper_parameters),
        }
    }

    /// Returns the number of heads of an encoder of this width. A number that does not divide the width does not count. The original does
    /// not use `num_heads`, so it counts only if `vit` names no published backbone.
    pub(crate) fn encoder(&self, width: usize) -> Option<usize> {
        let heads = match self.backbone() {
            Some(backbone) if backbone.width == width => Some(backbone.heads),
            Some(_) => None,
            None => self
                .described("heads")
                .or_else(|| self.in_metadata(ENCODER_ENTRY))
                .or_else(|| self.hyper_parameter(ENCODER_HYPER_PARAMETER))
                .or_else(|| self.hyper_parameter(HUGGING_FACE[0])),
        };
        heads.filter(|heads| divides(*heads, width))
    }

    /// Returns the number of heads of a decoder of this width. A number that does not divide the width does not count, except that of a
    /// published backbone.
    pub(crate) fn decoder(&self, width: usize) -> Option<usize> {
        if let Some(backbone) = self.backbone() {
            return Some(backbone.decoder_heads);
        }
        self.described("decoder_heads")
            .or_else(|| self.in_metadata(DECODER_ENTRY))
            .or_else(|| self.hyper_parameter(DECODER_HYPER_PARAMETER))
            .or_else(|| self.hyper_parameter(HUGGING_FACE[1]))
            .filter(|heads| divides(*heads, width))
    }

    /// Returns the published backbone that `vit` names.
    fn backbone(&self) -> Option<Backbone> {
        Backbone::from_name(self.config.get("vit")?.as_str()?)
    }

    /// Returns the ε of the layer norms, which the descriptions of image classifiers and the configurations of Hugging Face's models have.
    pub(crate) fn layer_norm_eps(&self) -> Option<f32> {
        let described = || {
            let model = self.description.get("model")?;
            model.get("variant").unwrap_or(model).get(LAYER_NORM_EPS)
        };
        let in_json = described().or_else(|| self.config.get(LAYER_NORM_EPS));
        let value = match in_json {
            Some(value) => value.as_f64()? as f32,
            None => self.metadata?.entry(LAYER_NORM_EPS)?.parse().ok()?,
        };
        (value > 0.0 && value < 1.0).then_some(value)
    }

    /// Whether the hyper-parameters are those of VLC. `None` if they name no image transformer; other ones than MAE's are those of ViLT.
    pub(crate) fn is_vlc(&self) -> Option<bool> {
        Some(self.config.get("vit")?.as_str()?.starts_with("mae_"))
    }

    /// Returns the value of a key of the configuration.
    pub(crate) fn configured(&self, key: &str) -> Option<&'f Value> {
        self.config.get(key)
    }

    fn described(&self, key: &str) -> Option<usize> {
        let model = self.description.get("model")?;
        // The sizes of an image classifier have no part `backbone`.
        number(model.get("backbone").unwrap_or(model).get(key)?)
    }

    fn in_metadata(&self, key: &str) -> Option<usize> {
        self.metadata?.entry(key)?.parse().ok()
    }

    fn hyper_parameter(&self, key: &str) -> Option<usize> {
        number(self.config.get(key)?)
    }
}

fn number(value: &Value) -> Option<usize> {
    usize::try_from(value.as_u64()?).ok()
}

fn divides(heads: usize, width: usize) -> bool {
    heads > 0 && width.is_multiple_of(heads)
}

/// Returns the numbers of heads that a file with these weights states; `None` for those that it does not state.
pub(crate) fn of_file(format: Format, summary: &Summary, state: &StateDict) -> GivenHeads {
    let statements = Statements::new(format, summary);
    let width = |name: &str| {
        let tensor = state.get(&format!("transformer.{name}")).or_else(|| state.get(name));
        tensor.and_then(|tensor| tensor.shape.first().copied())
    };
    GivenHeads {
        encoder: width("patch_embed.proj.weight").and_then(|width| statements.encoder(width)),
        decoder: width("decoder_embed.weight").and_then(|width| statements.decoder(width)),
    }
}

/// Returns the entries of the metadata of a safetensors file that state these numbers.
pub(crate) fn metadata(heads: GivenHeads) -> impl Iterator<Item = (String, String)> {
    let entries = [(ENCODER_ENTRY, heads.encoder), (DECODER_ENTRY, heads.decoder)];
    entries
        .into_iter()
        .filter_map(|(key, heads)| Some((key.to_owned(), heads?.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_heads_come_from_names_or_hyper_parameters() {
        let config = |vit: &str, num_heads: i64| serde_json::json!({"config": {"vit": vit, "num_heads": num_heads}});
        for (hyper_parameters, width, want) in [
            (config("mae_vit_large_patch16", 12), 1024, Some(16)),
            (config("mae_vit_large_patch16", 12), 768, None),
            (config("another", 4), 64, Some(4)),
            (config("another", 5), 64, None),
            (Value::Null, 768, None),
        ] {
            let summary = Summary {
                hyper_parameters,
                ..Summary::default()
            };
            assert_eq!(
                Statements::new(Format::TorchZip, &summary).encoder(width),
                want,
                "{summary:?}"
            );
        }
    }

    #[test]
    fn numbers_of_heads_come_from_descriptions_and_metadata() {
        let description = r#"{"model": {"backbone": {"heads": 4, "decoder_heads": 0}}, "inputs": {}}"#;
        for (entries, want) in [
            (vec![("description", description)], (Some(4), None)),
            (vec![("description", "a model of mine")], (None, None)),
            (
                vec![("attention_heads", "8"), ("decoder_attention_heads", "2")],
                (Some(8), Some(2)),
            ),
            (
                vec![("attention_heads", "5"), ("decoder_attention_heads", "two")],
                (None, None),
            ),
        ] {
            let entries: Vec<(String, String)> = entries
                .into_iter()
                .map(|(key, value)| (key.into(), value.into()))
                .collect();
            let summary = Summary {
                description: entries
                    .iter()
                    .find(|(key, _)| key == "description")
                    .and_then(|(_, json)| super::super::description(json)),
                entries,
                ..Summary::default()
            };
            let statements = Statements::new(Format::Safetensors, &summary);
            assert_eq!((statements.encoder(128), statements.decoder(96)), want, "{summary:?}");
            // The entries of a PyTorch file are not metadata.
            let of_description = want.0.filter(|_| summary.description.is_some());
            let statements = Statements::new(Format::TorchZip, &summary);
            assert_eq!(statements.encoder(128), of_description);
        }
    }
}
