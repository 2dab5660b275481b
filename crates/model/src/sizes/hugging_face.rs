//! Comparison of the configuration of a ViLT model of Hugging Face with its tensors.

use serde_json::Value;

use super::SizeError;
use crate::config::VlcConfig;
use crate::files::heads::Statements;

/// Keys of which one value is supported, with the reason for other values.
const SUPPORTED: [(&str, &str, &str); 2] = [
    ("model_type", "vilt", "only models of the type \"vilt\" are"),
    ("hidden_act", "gelu", "only \"gelu\" is"),
];

/// Checks that the configuration is that of a model with these sizes. Keys that it does not have are not checked.
///
/// # Errors
/// Returns [`SizeError::Contradiction`] or [`SizeError::Unsupported`] for the first value that is not.
pub(super) fn check(statements: &Statements, model: &VlcConfig) -> Result<(), SizeError> {
    for (key, value, supported) in SUPPORTED {
        if let Some(other) = statements.configured(key).filter(|stated| *stated != value) {
            return Err(SizeError::Unsupported {
                key,
                value: other.as_str().map_or_else(|| other.to_string(), str::to_owned),
                supported,
            });
        }
    }
    let unsupported = |key, value: &Value, supported| {
        Err(SizeError::Unsupported {
            key,
            value: value.to_string(),
            supported,
        })
    };
    let is_eps = |value: &Value| value.as_f64().is_some_and(|eps| eps > 0.0 && eps < 1.0);
    let b = &model.backbone;
    for (key, is_supported, supported) in [
        (
            "layer_norm_eps",
            &is_eps as &dyn Fn(&Value) -> bool,
            "it is not between 0 and 1",
        ),
        ("qkv_bias", &|value| *value == true, "only models with these biases are"),
        ("num_channels", &|value| *value == 3, "only images with 3 channels are"),
        (
            "intermediate_size",
            &|value| *value == 4 * b.width,
            "only 4 times hidden_size is",
        ),
    ] {
        if let Some(value) = statements.configured(key).filter(|value| !is_supported(value)) {
            return unsupported(key, value, supported);
        }
    }
    let sizes = [
        ("hidden_size", b.width),
        ("num_hidden_layers", b.depth),
        ("patch_size", b.patch_size),
        ("image_size", model.image_size),
        ("vocab_size", model.vocab_size),
        ("max_position_embeddings", model.max_text_len),
    ];
    for (key, found) in sizes {
        if let Some(stated) = statements.configured(key).filter(|stated| **stated != found) {
            return Err(contradiction(key, stated, found));
        }
    }
    let Some(labels) = statements.configured("id2label").and_then(Value::as_object) else {
        return Ok(());
    };
    if let Some(answers) = model.heads.vqa
        && (labels.len() != answers || (0..answers).any(|id| !labels.contains_key(&id.to_string())))
    {
        return Err(contradiction("id2label", &labels.len().into(), answers));
    }
    let is_true =
        |label: &Value| *label == true || label.as_str().is_some_and(|text| text.eq_ignore_ascii_case("true"));
    if let Some(label) = labels.get("0").filter(|label| model.heads.nlvr2 && is_true(label)) {
        return unsupported("id2label", label, "label 0 of pairs of images is False");
    }
    Ok(())
}

/// Checks the number of attention heads in the configuration of an encoder of this width.
///
/// # Errors
/// Returns [`SizeError::Unsupported`] if it is no number, or does not divide the width.
pub(super) fn check_heads(statements: &Statements, width: usize) -> Result<(), SizeError> {
    let is_valid = |value: &Value| {
        let heads = value.as_u64().and_then(|heads| usize::try_from(heads).ok());
        heads.is_some_and(|heads| heads > 0 && width.is_multiple_of(heads))
    };
    match statements
        .configured("num_attention_heads")
        .filter(|value| !is_valid(value))
    {
        None => Ok(()),
        Some(value) => Err(SizeError::Unsupported {
            key: "num_attention_heads",
            value: value.to_string(),
            supported: "it is not a number that divides the width",
        }),
    }
}

fn contradiction(key: &'static str, stated: &Value, found: usize) -> SizeError {
    SizeError::Contradiction {
        key,
        stated: stated.to_string(),
        found,
    }
}
