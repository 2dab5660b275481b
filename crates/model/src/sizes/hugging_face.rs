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
    let b = &model.backbone;
    let sizes = [
        ("hidden_size", b.width),
        ("num_hidden_layers", b.depth),
        ("num_attention_heads", b.heads),
        ("intermediate_size", 4 * b.width),
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
    let labels = statements.configured("id2label").and_then(Value::as_object);
    match (model.heads.vqa, labels) {
        (Some(answers), Some(labels)) if labels.len() != answers => {
            Err(contradiction("id2label", &labels.len().into(), answers))
        }
        _ => Ok(()),
    }
}

fn contradiction(key: &'static str, stated: &Value, found: usize) -> SizeError {
    SizeError::Contradiction {
        key,
        stated: stated.to_string(),
        found,
    }
}
