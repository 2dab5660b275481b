//! Conversion of weight files that keeps what is known about the model: its description, or the settings beside a model of Hugging Face.

use std::path::Path;

use serde_json::{Map, Value, json};
use vlct_image::TransformKind;
use vlct_model::config::{Backbone, Positions, Variant};
use vlct_model::files::{self, Conversion, ConvertReport, FileError, Style, WeightIndex};
use vlct_model::sizes::{Assumption, GivenHeads, Part};
use vlct_model::{ModelConfig, VlcConfig};

use super::Description;
use super::error::WeightsError;
use super::weights::DescribedWeights;

/// ViLT's name of the tokenizer of the published models.
const PUBLISHED_TOKENIZER: &str = "bert-base-uncased";

/// The names in a converted file, and the parts of the model that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// VLC's names of the whole model.
    Vlc,
    /// MAE's names of the backbone and its decoder.
    Mae,
    /// ViLT's names, which VLC has too, without the decoder, and with the configuration that ViLT's files have.
    Vilt,
}

/// The reason why a weight file cannot be converted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The model is not a vision-language model, or its sizes or inputs are not known.
    #[error(transparent)]
    Weights(#[from] WeightsError),
}

/// The result of a conversion.
#[derive(Debug)]
pub struct Converted {
    /// What was written.
    pub report: ConvertReport,
    /// What the output does not keep, and what was assumed, as sentences.
    pub notes: Vec<String>,
}

/// Reads the weights of `input` and writes them as `output`, as [`files::convert()`] does. A file of the whole model keeps the description of
/// the input; that of a model of Hugging Face is made of the settings beside it. `heads` are numbers of attention heads that the caller knows.
///
/// # Errors
/// Returns an error if `input` cannot be read, has no tensors with the given names, or, for [`Names::Vilt`], is not a vision-language model;
/// or if `output` cannot be written.
pub fn convert(
    input: &Path,
    output: &Path,
    names: Option<Names>,
    heads: GivenHeads,
) -> Result<Converted, ConvertError> {
    let (mut conversion, mut notes) = (Conversion::default(), Vec::new());
    {
        let mapped = files::map(input)?;
        let index = files::index(&mapped)?;
        let of_hugging_face = index.summary.hugging_face && index.style == Style::Vlc;
        let described = match names {
            Some(Names::Vilt) => Some(DescribedWeights::read(mapped.path(), &index, heads)?),
            Some(Names::Mae) => None,
            Some(Names::Vlc) | None if of_hugging_face => {
                let described = DescribedWeights::read(mapped.path(), &index, heads);
                described
                    .map_err(|error| notes.push(format!("the settings of the model are not kept: {error}")))
                    .ok()
            }
            Some(Names::Vlc) | None => None,
        };
        if let Some(described) = described {
            describe(&mut conversion, &described, &index, names, &mut notes);
        }
    }
    conversion.style = names.map(|names| match names {
        Names::Vlc | Names::Vilt => Style::Vlc,
        Names::Mae => Style::Mae,
    });
    conversion.without_decoder = names == Some(Names::Vilt);
    let report = files::convert(input, output, conversion)?;
    Ok(Converted { report, notes })
}

/// Adds the description and the configuration of a model to a conversion.
fn describe(
    conversion: &mut Conversion,
    described: &DescribedWeights,
    index: &WeightIndex,
    names: Option<Names>,
    notes: &mut Vec<String>,
) {
    let is_kept = |assumption: &&Assumption| names != Some(Names::Vilt) || assumption.part == Part::Encoder;
    notes.extend(described.assumptions.iter().filter(is_kept).map(ToString::to_string));
    notes.extend(described.notes.iter().cloned());
    let model = match names {
        Some(Names::Vilt) => without_decoder(&described.model),
        _ => described.model.clone(),
    };
    let of_input = index.summary.description.as_ref();
    let stated = of_input.and_then(|json| serde_json::from_str::<Description>(json).ok());
    let description = match stated {
        Some(stated) => Some(Description {
            model: ModelConfig::Vlc(model.clone()),
            ..stated
        }),
        // A file without settings may have another vocabulary than the published one.
        None if index.summary.hugging_face && described.tokenizer.len() <= model.vocab_size => Some(Description {
            model: ModelConfig::Vlc(model.clone()),
            ..described.to_description()
        }),
        None => None,
    };
    conversion.description = description.map(|description| {
        serde_json::to_string(&description)
            .unwrap_or_else(|error| unreachable!("texts and numbers are valid JSON: {error}"))
    });
    if names != Some(Names::Vilt) {
        return;
    }
    let eps = model.variant.layer_norm_eps;
    if eps != Variant::VILT.layer_norm_eps {
        notes.push(format!(
            "the layer norms of the encoder have ε = {eps:e}, which the file states for this program; ViLT's program computes with {:e}",
            Variant::VILT.layer_norm_eps
        ));
    }
    if conversion.description.is_none() {
        notes.push("the file has no vocabulary and no names of answers, because the input has none".into());
    }
    conversion.configuration = Some(configuration(described, &model));
}

fn without_decoder(model: &VlcConfig) -> VlcConfig {
    VlcConfig {
        backbone: Backbone {
            decoder_width: 0,
            decoder_depth: 0,
            decoder_heads: 0,
            ..model.backbone
        },
        ..model.clone()
    }
}

/// Returns the configuration of a model as ViLT's files have it. The image transform and, in the name of the backbone, the position table
/// are those of the model.
fn configuration(described: &DescribedWeights, model: &VlcConfig) -> Map<String, Value> {
    let b = &model.backbone;
    let sizes = format!("width{}_depth{}_patch{}", b.width, b.depth, b.patch_size);
    let vit = match (model.variant.positions, (b.width, b.depth, b.heads)) {
        (Positions::Learned, (768, 12, 12)) => format!("vit_base_patch{}_384", b.patch_size),
        (Positions::Learned, _) => format!("vit_{sizes}"),
        (Positions::Fixed, (768, 12, 12)) => format!("mae_vit_base_patch{}", b.patch_size),
        (Positions::Fixed, (1024, 24, 16)) => format!("mae_vit_large_patch{}", b.patch_size),
        (Positions::Fixed, (1280, 32, 16)) => format!("mae_vit_huge_patch{}", b.patch_size),
        (Positions::Fixed, _) => format!("mae_vit_{sizes}"),
    };
    let transform = match described.transform.keeps_proportions() {
        true => TransformKind::Pixelbert,
        false => TransformKind::MaeTest,
    };
    let heads = model.heads;
    let loss = |is_there: bool| u8::from(is_there);
    let entries = json!({
        "exp_name": "converted",
        "seed": 0,
        "loss_names": {
            "itm": loss(heads.itm && !heads.rank),
            "mlm": loss(heads.mlm),
            "mpp": 0,
            "vqa": loss(heads.vqa.is_some()),
            "nlvr2": loss(heads.nlvr2),
            "irtr": loss(heads.rank),
        },
        "train_transform_keys": [transform.name()],
        "val_transform_keys": [transform.name()],
        "image_size": described.format.size,
        "max_image_len": -1,
        "patch_size": b.patch_size,
        "vqav2_label_size": heads.vqa.unwrap_or(3129),
        "max_text_len": model.max_text_len,
        "tokenizer": PUBLISHED_TOKENIZER,
        "vocab_size": model.vocab_size,
        "vit": vit,
        "hidden_size": b.width,
        "num_heads": b.heads,
        "num_layers": b.depth,
        "mlp_ratio": 4,
        "drop_rate": 0.1,
    });
    match entries {
        Value::Object(entries) => entries,
        _ => Map::new(),
    }
}
