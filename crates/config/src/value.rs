//! Untyped configuration values, their conversion from and to JSON and TOML, and their form as Python literals.

use std::fmt;

/// A value of a Python literal, a JSON document or a TOML file.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `None`; `null` in JSON, and the string `"None"` in TOML, which has no null.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A floating-point number.
    Float(f64),
    /// Text.
    Str(String),
    /// A list or tuple.
    List(Vec<Value>),
    /// A dictionary with unique string keys. The keys are in the order of the source, but those of a TOML table are sorted.
    Dict(Vec<(String, Value)>),
}

impl Value {
    /// Converts the value to JSON. Infinities and NaN, which JSON does not have, become strings.
    pub fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match self {
            Value::None => Json::Null,
            Value::Bool(b) => Json::Bool(*b),
            Value::Int(i) => Json::from(*i),
            Value::Float(f) => {
                serde_json::Number::from_f64(*f).map_or_else(|| Json::String(self.to_string()), Json::Number)
            }
            Value::Str(s) => Json::String(s.clone()),
            Value::List(items) => Json::Array(items.iter().map(Value::to_json).collect()),
            Value::Dict(entries) => Json::Object(entries.iter().map(|(k, v)| (k.clone(), v.to_json())).collect()),
        }
    }

    /// Converts a JSON document. Integers that do not fit into an `i64` become floats.
    pub fn from_json(json: &serde_json::Value) -> Self {
        use serde_json::Value as Json;
        match json {
            Json::Null => Value::None,
            Json::Bool(b) => Value::Bool(*b),
            Json::Number(n) => n
                .as_i64()
                .map(Value::Int)
                .unwrap_or_else(|| Value::Float(n.as_f64().unwrap_or(f64::NAN))),
            Json::String(s) => Value::Str(s.clone()),
            Json::Array(items) => Value::List(items.iter().map(Value::from_json).collect()),
            Json::Object(entries) => {
                Value::Dict(entries.iter().map(|(k, v)| (k.clone(), Value::from_json(v))).collect())
            }
        }
    }

    /// Converts the value to TOML.
    pub fn to_toml(&self) -> toml::Value {
        use toml::Value as Toml;
        match self {
            Value::None => Toml::String("None".into()),
            Value::Bool(b) => Toml::Boolean(*b),
            Value::Int(i) => Toml::Integer(*i),
            Value::Float(f) => Toml::Float(*f),
            Value::Str(s) => Toml::String(s.clone()),
            Value::List(items) => Toml::Array(items.iter().map(Value::to_toml).collect()),
            Value::Dict(entries) => Toml::Table(entries.iter().map(|(k, v)| (k.clone(), v.to_toml())).collect()),
        }
    }

    /// Converts a TOML value. `"None"` remains a string, because its meaning depends on the type of the key. A date becomes a string.
    pub fn from_toml(toml: &toml::Value) -> Self {
        use toml::Value as Toml;
        match toml {
            Toml::String(s) => Value::Str(s.clone()),
            Toml::Integer(i) => Value::Int(*i),
            Toml::Float(f) => Value::Float(*f),
            Toml::Boolean(b) => Value::Bool(*b),
            Toml::Datetime(d) => Value::Str(d.to_string()),
            Toml::Array(items) => Value::List(items.iter().map(Value::from_toml).collect()),
            Toml::Table(entries) => {
                Value::Dict(entries.iter().map(|(k, v)| (k.clone(), Value::from_toml(v))).collect())
            }
        }
    }
}

/// Parses TOML and returns the keys and values of the top level. An error is a message with the line number.
pub(crate) fn toml_entries(text: &str) -> Result<Vec<(String, Value)>, String> {
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| {
        let line = e
            .span()
            .map_or(1, |span| 1 + text[..span.start.min(text.len())].matches('\n').count());
        format!("line {line}: {}", e.message().replace('\n', " "))
    })?;
    Ok(table
        .iter()
        .map(|(key, value)| (key.clone(), Value::from_toml(value)))
        .collect())
}

/// Formats the value as a Python literal that parses to the same value. NaN, which has no literal, is `NaN`.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::None => f.write_str("None"),
            Value::Bool(true) => f.write_str("True"),
            Value::Bool(false) => f.write_str("False"),
            Value::Int(i) => write!(f, "{i}"),
            // Python has no literal for infinity, but a float literal that is too large has the value infinity.
            Value::Float(x) if x.is_infinite() => f.write_str(if *x > 0.0 { "1e999" } else { "-1e999" }),
            Value::Float(x) => write!(f, "{x:?}"),
            Value::Str(s) => write_str(f, s),
            Value::List(items) => {
                f.write_str("[")?;
                for (i, item) in items.iter().enumerate() {
                    if i > 0 {
                        f.write_str(", ")?;
                    }
                    write!(f, "{item}")?;
                }
                f.write_str("]")
            }
            Value::Dict(entries) => {
                f.write_str("{")?;
                for (i, (key, value)) in entries.iter().enumerate() {
                    if i > 0 {
                        f.write_str(", ")?;
                    }
                    write_str(f, key)?;
                    write!(f, ": {value}")?;
                }
                f.write_str("}")
            }
        }
    }
}

fn write_str(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    write!(f, "{quote}")?;
    for c in text.chars() {
        match c {
            '\\' => f.write_str("\\\\")?,
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            c if c == quote => write!(f, "\\{c}")?,
            c if c.is_control() => write!(f, "\\u{:04x}", c as u32)?,
            c => write!(f, "{c}")?,
        }
    }
    write!(f, "{quote}")
}
