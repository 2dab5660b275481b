//! What the files of an average state about their model.

use std::path::Path;

use serde_json::Value;
use vlct_checkpoint as checkpoint;
use vlct_model::files::{self, Style};
use vlct_model::sizes::GivenHeads;

use super::AverageError;
use crate::description::{DescribedWeights, Description};

/// What a weight file states about its model, as JSON in the form of a [`Description`].
pub(super) struct Stated {
    pub json: Value,
    /// Whether it follows from the settings beside a model of Hugging Face, which say nothing about the training.
    of_settings: bool,
}

impl Stated {
    /// Reads what the file `path` states, after the checksum of a checkpoint has been verified. Returns `None` if it states nothing.
    pub fn read(path: &Path) -> Result<Option<Self>, AverageError> {
        if checkpoint::read_description(path)?.is_some() {
            let json = checkpoint::load(path)?.description().cloned();
            return Ok(json.map(|json| Self {
                json,
                of_settings: false,
            }));
        }
        let mapped = files::map(path)?;
        let index = files::index(&mapped)?;
        let (description, of_settings) = match Description::of(path, &index)? {
            Some(description) => (description, false),
            None if index.summary.hugging_face && index.style == Style::Vlc => {
                let described = DescribedWeights::read(mapped.path(), &index, GivenHeads::default())?;
                (described.to_description(), true)
            }
            None => return Ok(None),
        };
        let json = serde_json::to_value(description);
        Ok(Some(Self {
            json: json.unwrap_or_else(|error| unreachable!("texts and numbers are valid JSON: {error}")),
            of_settings,
        }))
    }

    /// Returns the name of the first field in which two files differ. What settings do not say is not compared.
    pub fn difference(&self, other: &Self) -> Option<String> {
        if self.of_settings == other.of_settings {
            return first_difference(&self.json, &other.json);
        }
        let without_training = |json: &Value| {
            let mut json = json.clone();
            // Of tasks, only the answers of question answering are stated.
            let task = json.pointer("/task/vqa").is_none().then_some("/task");
            let fields = [
                "/weights",
                "/inputs/train_transform",
                "/inputs/max_text_len",
                "/inputs/reading",
            ];
            for field in fields.into_iter().chain(task) {
                json.pointer_mut(field).map(Value::take);
            }
            json
        };
        first_difference(&without_training(&self.json), &without_training(&other.json))
    }
}

/// Returns the name of the first field in which two descriptions differ.
fn first_difference(a: &Value, b: &Value) -> Option<String> {
    if a == b {
        return None;
    }
    let (Value::Object(a), Value::Object(b)) = (a, b) else {
        return Some("description".into());
    };
    let differs = |name: &&String| a.get(*name) != b.get(*name);
    let name = a.keys().chain(b.keys()).find(differs)?;
    match (&a[name], b.get(name)) {
        (a @ Value::Object(_), Some(b @ Value::Object(_))) => Some(format!("{name}.{}", first_difference(a, b)?)),
        _ => Some(name.clone()),
    }
}
