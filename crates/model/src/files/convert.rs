//! Conversion of a weight file to another format or naming scheme.

use std::path::Path;

use serde_json::{Map, Value};

use super::{
    BACKBONE_PREFIX, FileError, Format, Header, POSITION_IDS, Problem, StateDict, Style, WeightFile, names,
    position_ids,
};
use vlct_util::text::{counted, one_line};

/// What a conversion changes and adds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Conversion {
    /// The naming scheme of the output: VLC's (`transformer.blocks.0.…`) or MAE's (`blocks.0.…`, backbone and decoder only, like
    /// `convert_vlc2mae.py`). `None` keeps that of the input.
    pub style: Option<Style>,
    /// Whether the decoder of masked autoencoding is left out, which models of ViLT do not have.
    pub without_decoder: bool,
    /// The original's configuration; `None` keeps that of the input.
    pub configuration: Option<Map<String, Value>>,
    /// The description of the model, as JSON; `None` keeps that of the input. It is written if the output is the whole model.
    pub description: Option<String>,
}

impl From<Option<Style>> for Conversion {
    fn from(style: Option<Style>) -> Self {
        Self {
            style,
            ..Self::default()
        }
    }
}

/// The result of a conversion.
#[derive(Debug, Clone, PartialEq)]
pub struct ConvertReport {
    /// Number of tensors written.
    pub tensors: usize,
    /// Number of values written.
    pub parameters: usize,
    /// Naming scheme of the input.
    pub from: Style,
    /// Naming scheme of the output.
    pub to: Style,
    /// Tensors that the output's naming scheme does not have, which are not written.
    pub left_out: Vec<String>,
    /// Tensors whose values cannot be read, each with the reason. They are not written.
    pub unreadable: Vec<String>,
    /// Entries among the weights that are not tensors. They are not written.
    pub not_tensors: Vec<String>,
    /// Prefixes of wrappers that were removed from names, such as `module.`.
    pub removed_prefixes: Vec<String>,
    /// Whether the names in the input are those of Hugging Face's image transformers.
    pub hugging_face: bool,
    /// Whether the input has a description of its model that is not written, because the output is a part of the model.
    pub without_description: bool,
}

impl std::fmt::Display for ConvertReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (tensors, values) = (counted(self.tensors, "tensor"), counted(self.parameters, "value"));
        write!(f, "{tensors} with {values}")?;
        if self.hugging_face {
            write!(f, ", names changed from Hugging Face to {}", self.to)?;
        } else if self.from == self.to {
            write!(f, ", {} names kept", self.to)?;
        } else {
            write!(f, ", names changed from {} to {}", self.from, self.to)?;
        }
        if !self.removed_prefixes.is_empty() {
            write!(f, ", without {}", self.removed_prefixes.join(" and "))?;
        }
        for (reason, names) in [
            (
                match self.to {
                    Style::Mae => "they are not part of the backbone",
                    Style::Vlc => "ViLT does not have them",
                },
                &self.left_out,
            ),
            ("they cannot be read", &self.unreadable),
            ("they are not tensors", &self.not_tensors),
        ] {
            if !names.is_empty() {
                let names = one_line(&super::mapping::abbreviate(names));
                write!(f, "\nleft out, because {reason}: {names}")?;
            }
        }
        if self.without_description {
            write!(
                f,
                "\nleft out, because it is that of the whole model: the description of task and inputs"
            )?;
        }
        Ok(())
    }
}

/// Adds the buffer of position ids, which `load_state_dict` of the original requires, to weights with a text embedding that lack it.
pub fn with_position_ids(state: StateDict) -> StateDict {
    let positions = state.get("text_embeddings.position_embeddings.weight");
    match positions.and_then(|table| table.shape.first().copied()) {
        Some(length) if !state.contains(POSITION_IDS) => {
            let ids = (POSITION_IDS.to_owned(), position_ids(&[1, length]));
            std::iter::once(ids).chain(state).collect()
        }
        _ => state,
    }
}

/// Parts of the backbone that models of ViLT do not have, beside those whose names begin with [`DECODER`].
const MASK_TOKEN: &str = "transformer.mask_token";
/// Beginning of the names of the decoder of masked autoencoding.
const DECODER: &str = "transformer.decoder_";

/// Reads the weights of `input` (see [`super::find`]) and writes them as `output`, whose extension determines the format. A PyTorch file
/// gets the position ids, if it has a text embedding. The numbers of attention heads and the ε of the layer norms are kept if
/// `input` states them.
///
/// # Errors
/// Returns a [`FileError`] if `input` cannot be read, if it has no tensors of the backbone to convert to MAE's names, or if `output`
/// cannot be written.
pub fn convert(input: &Path, output: &Path, conversion: Conversion) -> Result<ConvertReport, FileError> {
    let file = super::read(input)?;
    let mut header = Header::of(&file);
    let WeightFile {
        state,
        unreadable,
        style: from,
        summary,
        ..
    } = file;
    let to = conversion.style.unwrap_or(from);
    let (mut state, mut left_out) = rename(state, from, to);
    if conversion.without_decoder {
        let (decoder, others): (Vec<_>, Vec<_>) = state
            .into_iter()
            .partition(|(name, _)| name == MASK_TOKEN || name.starts_with(DECODER));
        left_out.extend(decoder.into_iter().map(|(name, _)| name));
        state = others.into_iter().collect();
    }
    let state = match super::written_format(output)? {
        Format::Safetensors => state,
        Format::TorchZip | Format::TorchLegacy => with_position_ids(state),
    };
    if state.is_empty() {
        return Err(FileError::new(input, Problem::NoBackbone));
    }
    let is_whole = from == to;
    let description = conversion.description.or(header.description);
    let without_description = description.is_some() && !is_whole;
    header.style = to;
    header.description = description.filter(|_| is_whole);
    header.configuration = conversion.configuration.unwrap_or(match is_whole {
        true => header.configuration,
        false => Map::new(),
    });
    super::write(output, &state, &header)?;
    // Epoch and step can be beside the tensors; they are written.
    let is_written = |key: &String| ["epoch", "global_step"].contains(&key.as_str());
    let not_tensors = summary.skipped.into_iter().filter(|key| !is_written(key)).collect();
    Ok(ConvertReport {
        tensors: state.len(),
        parameters: state.parameters(),
        from,
        to,
        left_out,
        unreadable: unreadable
            .iter()
            .map(|(name, problem)| format!("{name} ({problem})"))
            .collect(),
        not_tensors,
        removed_prefixes: summary.removed_prefixes,
        hugging_face: summary.hugging_face,
        without_description,
    })
}

/// Renames tensors. Also returns the names of tensors that the new naming scheme does not have; these tensors are removed.
pub fn rename(state: StateDict, from: Style, to: Style) -> (StateDict, Vec<String>) {
    let mut left_out = Vec::new();
    let renamed = match (from, to) {
        (Style::Vlc, Style::Mae) => state
            .into_iter()
            .filter_map(|(name, tensor)| match name.strip_prefix(BACKBONE_PREFIX) {
                Some(stripped) => Some((stripped.to_owned(), tensor)),
                None => {
                    left_out.push(name);
                    None
                }
            })
            .collect(),
        (Style::Mae, Style::Vlc) => state
            .into_iter()
            .map(|(name, tensor)| match names::is_of_model(&name) {
                true => (format!("{BACKBONE_PREFIX}{name}"), tensor),
                // A name that no image transformer has, such as that of a counter of a wrapper.
                false => (name, tensor),
            })
            .collect(),
        _ => state,
    };
    (renamed, left_out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Backbone, Heads};
    use crate::sizes::{GivenHeads, derive};
    use crate::{Vlc, VlcConfig};
    use std::collections::BTreeMap;
    use vlct_checkpoint::{self as checkpoint, TensorRef};

    /// Returns the model whose checkpoint is recorded in `directory`.
    fn model(directory: &Path, token_types: usize, heads: Heads) -> Vlc {
        let sizes = vlct_golden::json(directory.join("config.json"));
        let size = |key: &str| sizes[key].as_u64().expect("a size") as usize;
        Vlc::new(VlcConfig {
            image_size: size("image_size"),
            backbone: Backbone {
                patch_size: size("patch"),
                width: size("dim"),
                depth: size("depth"),
                heads: size("heads"),
                decoder_width: size("decoder_dim"),
                decoder_depth: size("decoder_depth"),
                decoder_heads: size("decoder_heads"),
            },
            vocab_size: size("vocab_size"),
            max_text_len: size("max_text_len"),
            token_types,
            variant: crate::config::Variant::VLC,
            drop_rate: 0.0,
            heads,
        })
    }

    /// Returns the shapes by name. PyTorch loads tensors by name, so their order does not matter.
    fn shapes(state: &StateDict) -> BTreeMap<String, Vec<usize>> {
        let shape = |name: &str| state.get(name).expect("listed").shape.clone();
        state.names().map(|name| (name.to_owned(), shape(name))).collect()
    }

    #[test]
    fn fine_tuned_checkpoints_convert_to_the_names_and_shapes_of_the_original() {
        let none = Heads::default();
        for directory in vlct_golden::directories("model") {
            let answers = crate::files::read(&directory.join("vqa.ckpt")).unwrap().state;
            let answers = answers.get("vqa_classifier.3.bias").unwrap().shape[0];
            for (file, token_types, heads) in [
                (
                    "vqa.ckpt",
                    2,
                    Heads {
                        vqa: Some(answers),
                        ..none
                    },
                ),
                ("nlvr2.ckpt", 3, Heads { nlvr2: true, ..none }),
                (
                    "irtr.ckpt",
                    2,
                    Heads {
                        itm: true,
                        rank: true,
                        ..none
                    },
                ),
            ] {
                let model = model(&directory, token_types, heads);
                let parameters = model.parameters();
                let moment_names: Vec<String> = parameters
                    .iter()
                    .map(|(_, p)| format!("optimizer.exp_avg.{}", p.name))
                    .collect();
                let tensors = parameters.iter().zip(&moment_names).flat_map(|((id, p), moment)| {
                    [&p.name, moment].map(|name| TensorRef {
                        name,
                        shape: &p.shape,
                        data: parameters.tensor(id),
                    })
                });
                let temporary = tempfile::tempdir().unwrap();
                let [own, converted] = ["checkpoint.safetensors", "model.ckpt"].map(|name| temporary.path().join(name));
                let null = serde_json::Value::Null;
                checkpoint::save(&own, &tensors.collect::<Vec<_>>(), &null, &null).unwrap();
                convert(&own, &converted, Conversion::default()).unwrap();
                let [got, want] =
                    [converted, directory.join(file)].map(|path| crate::files::read(&path).unwrap().state);
                assert_eq!(shapes(&got), shapes(&want), "{file}");
            }
        }
    }

    #[test]
    fn numbers_of_heads_are_kept_in_every_format() {
        let directory = &vlct_golden::directories("model")[0];
        let model = model(directory, 2, Heads::default());
        let tensors = TensorRef::of_parameters(model.parameters());
        let temporary = tempfile::tempdir().unwrap();
        let path = |name: &str| temporary.path().join(name);
        let description = serde_json::json!({"model": model.config(), "inputs": {}});
        let tensors: Vec<_> = tensors.collect();
        checkpoint::save(
            &path("run.safetensors"),
            &tensors,
            &serde_json::Value::Null,
            &description,
        )
        .unwrap();
        for (from, to) in [
            ("run.safetensors", "a.safetensors"),
            ("a.safetensors", "b.ckpt"),
            ("b.ckpt", "c.safetensors"),
            ("run.safetensors", "d.pth"),
        ] {
            convert(&path(from), &path(to), Conversion::default()).unwrap();
        }
        for name in ["a.safetensors", "b.ckpt", "c.safetensors", "d.pth"] {
            let file = crate::files::map(&path(name)).unwrap();
            let sizes = derive(&crate::files::index(&file).unwrap(), GivenHeads::default()).unwrap();
            assert_eq!(sizes.assumptions, [], "{name}");
            assert_eq!(sizes.config.backbone, model.config().backbone, "{name}");
        }
    }
}
