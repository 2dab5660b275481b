//! Sets a key of a configuration to a value, or explains why it cannot be set.

use vlct_util::text::nearest;

use super::error::ConfigError;
use super::literal;
use super::table::{Config, KEYS, Key};
use super::types::Range;
use super::value::Value;

/// Why a value was not set.
enum Refusal {
    /// There is no such key or entry.
    Unknown(String),
    /// The key (or entry) has another type.
    Type {
        key: &'static Key,
        path: String,
        value: Value,
    },
    /// The key does not allow the value.
    Range {
        key: &'static Key,
        path: String,
        value: Value,
    },
}

impl Config {
    /// Sets the key (or entry of a dictionary, `loss_names.itm`) `path`. A dictionary changes the entries that it names
    /// and leaves the others.
    ///
    /// # Errors
    /// Returns an error if there is no such key, or if the value has the wrong type or is out of range. The configuration is then
    /// unchanged.
    pub fn set(&mut self, path: &str, value: &Value) -> Result<(), ConfigError> {
        self.try_set(path, value).map_err(|refusal| match refusal {
            Refusal::Unknown(path) => ConfigError::UnknownKey {
                nearest: nearest_key(&path),
                key: path,
            },
            Refusal::Type { key, path, value } => wrong_type(key, path, &value),
            Refusal::Range { key, path, value } => out_of_range(key, path, &value),
        })
    }

    /// [`Config::set`] without the work of explaining.
    fn try_set(&mut self, path: &str, value: &Value) -> Result<(), Refusal> {
        let (name, entry) = match path.split_once('.') {
            Some((name, entry)) => (name, Some(entry)),
            None => (path, None),
        };
        let key = Key::find(name).ok_or_else(|| Refusal::Unknown(path.into()))?;
        let refused = || (key, path.to_string(), value.clone());
        let value = match (entry, (key.get)(self), value) {
            (Some(entry), Value::Dict(mut entries), value) => {
                replace_entry(key, &mut entries, entry, value)?;
                Value::Dict(entries)
            }
            (None, Value::Dict(mut entries), Value::Dict(changes)) => {
                for (entry, value) in changes {
                    replace_entry(key, &mut entries, entry, value)?;
                }
                Value::Dict(entries)
            }
            (Some(_), _, _) => return Err(Refusal::Unknown(path.into())),
            (None, _, value) if key.range.allows(value) => value.clone(),
            _ => {
                let (key, path, value) = refused();
                return Err(Refusal::Range { key, path, value });
            }
        };
        if (key.set)(self, &value) {
            return Ok(());
        }
        let (key, path, value) = refused();
        Err(Refusal::Type { key, path, value })
    }
}

/// Puts `value` in the place of `entry` of the dictionary `key`, whose entries are numbers.
fn replace_entry(
    key: &'static Key,
    entries: &mut [(String, Value)],
    entry: &str,
    value: &Value,
) -> Result<(), Refusal> {
    let path = format!("{}.{entry}", key.name);
    let Some(place) = entries.iter_mut().find(|(name, _)| name == entry) else {
        return Err(Refusal::Unknown(path));
    };
    let value = value.clone();
    if !matches!(value, Value::Int(_) | Value::Float(_)) {
        return Err(Refusal::Type { key, path, value });
    }
    if !key.range.allows(&value) {
        return Err(Refusal::Range { key, path, value });
    }
    place.1 = value;
    Ok(())
}

/// The key, or entry of a dictionary, closest to `path`.
fn nearest_key(path: &str) -> String {
    let base = Config::default();
    let mut names: Vec<String> = Vec::new();
    for key in KEYS {
        names.push(key.name.into());
        if let Value::Dict(entries) = (key.get)(&base) {
            names.extend(entries.iter().map(|(entry, _)| format!("{}.{entry}", key.name)));
        }
    }
    // An entry without its dictionary (`itm`) is far from `loss_names.itm` by its letters.
    let by_entry = names
        .iter()
        .find(|n| n.split_once('.').is_some_and(|(_, entry)| entry == path));
    by_entry
        .cloned()
        .unwrap_or_else(|| nearest(path, names.iter().map(String::as_str)).to_string())
}

fn out_of_range(key: &Key, path: String, value: &Value) -> ConfigError {
    let first_refused = match value {
        Value::List(items) => items.iter().find(|v| !key.range.allows(v)),
        value => Some(value),
    };
    let hint = match (key.range, first_refused) {
        (Range::OneOf(words) | Range::OneOfOrName(words), Some(Value::Str(word))) => {
            format!(
                "; did you mean {}?",
                Value::Str(nearest(word, words.iter().copied()).into())
            )
        }
        _ => String::new(),
    };
    ConfigError::OutOfRange {
        key: path,
        value: value.to_string(),
        range: key.range.to_string(),
        hint,
    }
}

fn wrong_type(key: &Key, path: String, value: &Value) -> ConfigError {
    let expected = if path.contains('.') {
        "number".into()
    } else {
        (key.type_name)()
    };
    let fits = |candidate: &Value| {
        let mut trial = Config::default();
        trial
            .try_set(&path, candidate)
            .is_ok()
            .then(|| format!("; did you mean {candidate}?"))
    };
    let hint = match value {
        Value::Str(text) => match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" => fits(&Value::Bool(true)),
            "false" | "no" | "off" => fits(&Value::Bool(false)),
            "none" | "null" | "nil" | "" => fits(&Value::None),
            // A number or list in quotes; else perhaps a list of one.
            _ => literal::parse_literal(text)
                .and_then(|v| fits(&v))
                .or_else(|| fits(&Value::List(vec![value.clone()]))),
        },
        Value::None => fits(&Value::Str(String::new())).map(|_| format!("; to leave it empty write {path}=")),
        Value::Int(0) => fits(&Value::Bool(false)),
        Value::Int(1) => fits(&Value::Bool(true)),
        _ => None,
    };
    let as_text = || match (key.get)(&Config::default()) {
        Value::Str(_) if *value != Value::None => Some(format!(
            "; to give it as text write {path}='\"{}\"'",
            value.to_string().replace('"', "\\\"")
        )),
        _ => None,
    };
    let hint = hint.or_else(as_text).unwrap_or_default();
    ConfigError::WrongType {
        key: path,
        value: value.to_string(),
        expected,
        hint,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rejected_values_change_nothing(key in 0..KEYS.len(), text in ".{0,12}") {
            let mut config = Config::default();
            if config.set(KEYS[key].name, &literal::parse(&text)).is_err() {
                prop_assert_eq!(config, Config::default());
            }
        }
    }
}
