//! Comparison of the configuration of a ViLT model of Hugging Face with its tensors.

use serde_json::Value;

use super::SizeError;
use crate::config::VlcConfig;
use crate::files::heads::Statements;

/// Checks that the configuration is that of a model with these sizes. Keys that it does not have are not checked.
///
/// # Errors
/// Returns [`SizeError::Contradiction`] or [`SizeError::Unsupported`] for the first value that is not.
pub(super) fn check(statements: &Statements, model: &VlcConfig) -> Result<(), SizeError> {
    let b = &model.backbone;
    let unsupported = |key, value: &Value, supported| {
        let value = value.to_string();
        Err(SizeError::Unsupported { key, value, supported })
    };
    type IsSupported<'f> = &'f dyn Fn(&Value) -> bool;
    let is_vilt: IsSupported = &|value| *value == "vilt";
    let is_eps: IsSupported = &|value| value.as_f64().is_some_and(|eps| eps > 0.0 && eps < 1.0);
    for (key, is_supported, supported) in [
        ("model_type", is_vilt, "only \"vilt\" is"),
        ("hidden_act", &|value| *value == "gelu", "only \"gelu\" is"),
        ("layer_norm_eps", is_eps, "it is not between 0 and 1"),
        ("qkv_bias", &|value| *value == true, "only true is"),
        ("num_channels", &|value| *value == 3, "only 3 is"),
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
