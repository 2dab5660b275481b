//! Sets a key of a configuration. Errors suggest a key or value where one is similar.

use vlct_util::text::nearest;

use crate::error::ConfigError;
use crate::literal;
use crate::table::{Config, KEYS, Key};
use crate::types::Range;
use crate::value::Value;

/// The reason why a value was not set.
enum SetError {
    /// No key or entry has this path.
    Unknown(String),
    /// The value does not have the type of the key or entry.
    Type {
        key: &'static Key,
        path: String,
        value: Value,
    },
    /// The value is not in the range of the key.
    Range {
        key: &'static Key,
        path: String,
        value: Value,
    },
}

impl Config {
    /// Sets the key `path`, or the entry `path` of a dictionary, such as `loss_names.itm`. A value that is a dictionary changes only
    /// the entries that it contains.
    ///
    /// # Errors
    /// Returns an error if there is no such key, or if the value has the wrong type or is out of range. The configuration is then
    /// unchanged.
    pub fn set(&mut self, path: &str, value: &Value) -> Result<(), ConfigError> {
        self.try_set(path, value).map_err(|error| match error {
            SetError::Unknown(path) => ConfigError::UnknownKey {
                nearest: nearest_key(&path),
                key: path,
            },
            SetError::Type { key, path, value } => wrong_type(key, path, &value),
            SetError::Range { key, path, value } => out_of_range(key, path, &value),
        })
    }

    /// Returns the value of a word `KEY=VALUE`. It is a Python literal, but for a key that is a text, a number is the text as typed, and
    /// for a key that is a list of texts, names separated by commas are a list, without quotes and with or without brackets.
    pub(crate) fn parse_value(path: &str, text: &str) -> Value {
        let value = literal::parse_value(text);
        let type_name = Key::find(path).map(|key| (key.type_name)());
        match (type_name.as_deref(), &value) {
            (Some("str"), Value::Int(_) | Value::Float(_) | Value::Bool(_)) => Value::Str(text.to_string()),
            (Some("list of str"), Value::Str(_) | Value::Int(_) | Value::Float(_)) => {
                let bare = match &value {
                    Value::Str(bare) => bare,
                    _ => text,
                };
                let inner = bare.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
                let names = inner.unwrap_or(bare).split(',').map(str::trim);
                Value::List(
                    names
                        .filter(|name| !name.is_empty())
                        .map(|name| Value::Str(name.into()))
                        .collect(),
                )
            }
            _ => value,
        }
    }

    /// Does the same as [`Config::set`], without suggestions in errors.
    fn try_set(&mut self, path: &str, value: &Value) -> Result<(), SetError> {
        let (name, entry) = match path.split_once('.') {
            Some((name, entry)) => (name, Some(entry)),
            None => (path, None),
        };
        let key = Key::find(name).ok_or_else(|| SetError::Unknown(path.into()))?;
        let error_fields = || (key, path.to_string(), value.clone());
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
            (Some(_), _, _) => return Err(SetError::Unknown(path.into())),
            (None, _, value) if key.range.allows(value) => value.clone(),
            _ => {
                let (key, path, value) = error_fields();
                return Err(SetError::Range { key, path, value });
            }
        };
        if (key.set)(self, &value) {
            return Ok(());
        }
        let (key, path, value) = error_fields();
        Err(SetError::Type { key, path, value })
    }
}

/// Sets `entry` in `entries`, the entries of the dictionary `key`, to `value`, which must be a number.
fn replace_entry(
    key: &'static Key,
    entries: &mut [(String, Value)],
    entry: &str,
    value: &Value,
) -> Result<(), SetError> {
    let path = format!("{}.{entry}", key.name);
    let Some(slot) = entries.iter_mut().find(|(name, _)| name == entry) else {
        return Err(SetError::Unknown(path));
    };
    let value = value.clone();
    if !matches!(value, Value::Int(_) | Value::Float(_)) {
        return Err(SetError::Type { key, path, value });
    }
    if !key.range.allows(&value) {
        return Err(SetError::Range { key, path, value });
    }
    slot.1 = value;
    Ok(())
}

/// Returns the key, or entry of a dictionary, that is most similar to `path`.
fn nearest_key(path: &str) -> String {
    let base = Config::default();
    let mut names: Vec<String> = Vec::new();
    for key in KEYS {
        names.push(key.name.into());
        if let Value::Dict(entries) = (key.get)(&base) {
            names.extend(entries.iter().map(|(entry, _)| format!("{}.{entry}", key.name)));
        }
    }
    // `itm` means `loss_names.itm`, but by edit distance other keys are more similar.
    let same_entry_name = names
        .iter()
        .find(|n| n.split_once('.').is_some_and(|(_, entry)| entry == path));
    same_entry_name
        .cloned()
        .unwrap_or_else(|| nearest(path, names.iter().map(String::as_str)).to_string())
}

fn out_of_range(key: &Key, path: String, value: &Value) -> ConfigError {
    let first_out_of_range = match value {
        Value::List(items) => items.iter().find(|v| !key.range.allows(v)),
        value => Some(value),
    };
    let hint = match (key.range, first_out_of_range) {
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
    let suggest = |candidate: &Value| {
        let mut trial = Config::default();
        trial
            .try_set(&path, candidate)
            .is_ok()
            .then(|| format!("; did you mean {candidate}?"))
    };
    let hint = match value {
        Value::Str(text) => match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" => suggest(&Value::Bool(true)),
            "false" | "no" | "off" => suggest(&Value::Bool(false)),
            "none" | "null" | "nil" | "" => suggest(&Value::None),
            // Suggests the number or list in a quoted string, else a list with this string as its only element.
            _ => literal::parse_python_literal(text)
                .and_then(|v| suggest(&v))
                .or_else(|| suggest(&Value::List(vec![value.clone()]))),
        },
        Value::None => suggest(&Value::Str(String::new())).map(|_| format!("; for empty text write {path}=")),
        Value::Int(0) => suggest(&Value::Bool(false)),
        Value::Int(1) => suggest(&Value::Bool(true)),
        _ => None,
    };
    let quoting_hint = || match (key.get)(&Config::default()) {
        Value::Str(_) if *value != Value::None => Some(format!(
            "; for text write {path}='\"{}\"'",
            value.to_string().replace('"', "\\\"")
        )),
        _ => None,
    };
    let hint = hint.or_else(quoting_hint).unwrap_or_default();
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
        fn rejected_values_do_not_change_the_configuration(key in 0..KEYS.len(), text in ".{0,12}") {
            let mut config = Config::default();
            if config.set(KEYS[key].name, &literal::parse_value(&text)).is_err() {
                prop_assert_eq!(config, Config::default());
            }
        }
    }
}
