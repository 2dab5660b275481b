//! JSON as Python's `json` module writes it.
//!
//! Python writes `NaN`, `Infinity`, `-Infinity` and the escapes of single surrogates, none of which the standard allows. The readers of
//! this module first parse the bytes as standard JSON. Only if this fails, they replace the numbers by `null` and the surrogates by the
//! replacement character, and parse again.

use std::fmt;

use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};

/// What Python writes instead of a number.
const CONSTANTS: [&[u8]; 3] = [b"NaN", b"Infinity", b"-Infinity"];
/// The escape of the replacement character.
const REPLACEMENT: &[u8] = br"\ufffd";
/// Length of the escape of a UTF-16 code unit, `\uXXXX`.
const ESCAPE_LENGTH: usize = 6;

/// Parses a value.
///
/// # Errors
/// Returns an error if the bytes are not JSON, or the value has another structure than `T`.
pub fn from_slice<T: DeserializeOwned>(json: &[u8]) -> serde_json::Result<T> {
    serde_json::from_slice(json).or_else(|error| match standard(json) {
        Some(standard) => serde_json::from_slice(&standard),
        None => Err(error),
    })
}

/// Parses an object and returns the entries whose keys `is_wanted`, in order. Of entries with equal keys, the last counts. The values of
/// other keys are not interpreted.
///
/// # Errors
/// Returns an error if the bytes are not a JSON object.
pub fn entries(json: &[u8], is_wanted: impl Fn(&str) -> bool) -> serde_json::Result<Map<String, Value>> {
    let parse = |json: &[u8]| {
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        let entries = Entries(&is_wanted).deserialize(&mut deserializer)?;
        deserializer.end()?;
        Ok(entries)
    };
    parse(json).or_else(|error| match standard(json) {
        Some(standard) => parse(&standard),
        None => Err(error),
    })
}

/// Returns the texts of a value: a text, a number, which becomes its text, or a list of these. They are trimmed, and empty ones are left
/// out, as are other items of a list. `null` has no texts; `None` for other values.
pub fn texts(value: &Value) -> Option<Vec<String>> {
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.trim().to_string()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    let texts: Vec<String> = match value {
        Value::Null => Vec::new(),
        Value::Array(items) => items.iter().filter_map(text).collect(),
        other => vec![text(other)?],
    };
    Some(texts.into_iter().filter(|text| !text.is_empty()).collect())
}

/// Describes an error without its position, which means nothing where the JSON is a part of a file.
pub fn describe(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(end) => text[..end].to_string(),
        None => text,
    }
}

/// Deserialises the entries of an object whose keys are wanted.
struct Entries<'a, F>(&'a F);

impl<'de, F: Fn(&str) -> bool> DeserializeSeed<'de> for Entries<'_, F> {
    type Value = Map<String, Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, F: Fn(&str) -> bool> Visitor<'de> for Entries<'_, F> {
    type Value = Map<String, Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Self::Value, A::Error> {
        let mut entries = Map::new();
        while let Some(key) = object.next_key::<String>()? {
            if (self.0)(&key) {
                entries.insert(key, object.next_value()?);
            } else {
                object.next_value::<IgnoredAny>()?;
            }
        }
        Ok(entries)
    }
}

/// Returns standard JSON for JSON of Python; `None` if there is nothing to replace.
fn standard(json: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(json.len());
    let mut is_replaced = false;
    let mut rest = json;
    while let Some((first, after)) = rest.split_first() {
        if *first == b'"' {
            let (length, has_surrogate) = copy_string(rest, &mut out);
            is_replaced |= has_surrogate;
            rest = &rest[length..];
        } else if let Some(constant) = CONSTANTS.iter().find(|constant| rest.starts_with(constant)) {
            out.extend_from_slice(b"null");
            is_replaced = true;
            rest = &rest[constant.len()..];
        } else {
            out.push(*first);
            rest = after;
        }
    }
    is_replaced.then_some(out)
}

/// Copies the string at the beginning of `json`, with the quotes. Returns its length in `json`, and whether single surrogates were
/// replaced. A string that is not closed ends at the end of `json`.
fn copy_string(json: &[u8], out: &mut Vec<u8>) -> (usize, bool) {
    let is_low = |unit: Option<u16>| unit.is_some_and(|unit| (0xdc00..0xe000).contains(&unit));
    let (mut position, mut has_surrogate) = (1, false);
    out.push(b'"');
    while let Some(byte) = json.get(position) {
        let length = match (*byte, escaped_unit(&json[position..])) {
            (b'"', _) => {
                out.push(b'"');
                return (position + 1, has_surrogate);
            }
            (_, Some(unit)) => {
                let next = escaped_unit(&json[position + ESCAPE_LENGTH..]);
                match unit {
                    0xd800..0xdc00 if is_low(next) => 2 * ESCAPE_LENGTH,
                    0xd800..0xe000 => {
                        out.extend_from_slice(REPLACEMENT);
                        has_surrogate = true;
                        position += ESCAPE_LENGTH;
                        continue;
                    }
                    _ => ESCAPE_LENGTH,
                }
            }
            // The escaped byte may be a quote.
            (b'\\', None) => 2,
            (_, None) => 1,
        };
        let end = (position + length).min(json.len());
        out.extend_from_slice(&json[position..end]);
        position = end;
    }
    (json.len(), has_surrogate)
}

/// Returns the UTF-16 code unit of the escape `\uXXXX` at the beginning of `json`, if there is one.
fn escaped_unit(json: &[u8]) -> Option<u16> {
    let digits = json.strip_prefix(br"\u")?.get(..4)?;
    let is_hexadecimal = digits.iter().all(u8::is_ascii_hexdigit);
    let text = std::str::from_utf8(digits).ok().filter(|_| is_hexadecimal)?;
    u16::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn texts_are_texts_numbers_and_lists_of_these() {
        let expected = |texts: &[&str]| Some(texts.iter().map(|text| text.to_string()).collect::<Vec<_>>());
        assert_eq!(texts(&json!(" a dog ")), expected(&["a dog"]));
        assert_eq!(texts(&json!(7)), expected(&["7"]));
        assert_eq!(texts(&json!(2.5)), expected(&["2.5"]));
        assert_eq!(texts(&json!(["a", "", 3, null, {}, " "])), expected(&["a", "3"]));
        assert_eq!(texts(&json!(null)), expected(&[]));
        assert_eq!(texts(&json!(" ")), expected(&[]));
        assert_eq!(texts(&json!(true)), None);
        assert_eq!(texts(&json!({})), None);
    }

    #[test]
    fn reads_what_python_writes() {
        for (text, expected) in [
            (
                r#"{"a": NaN, "b": [Infinity, -Infinity, -1]}"#,
                json!({"a": null, "b": [null, null, -1]}),
            ),
            (r#""x \ud83d""#, json!("x \u{fffd}")),
            (
                r#""\ude00\ud83d\ud83d\ude00\\ud83d""#,
                json!("\u{fffd}\u{fffd}\u{1f600}\\ud83d"),
            ),
            (
                r#"{"NaN": "NaN \" Infinity", "k": NaN}"#,
                json!({"NaN": "NaN \" Infinity", "k": null}),
            ),
            (r#"[1.5, "\u00e9", true, null]"#, json!([1.5, "é", true, null])),
        ] {
            assert_eq!(from_slice::<Value>(text.as_bytes()).unwrap(), expected, "{text}");
        }
        for text in [
            "",
            "nan",
            "[NaN",
            "{\"a\": NaN",
            "\"\\ud83d",
            "[-Inf]",
            "\"\\",
            "\"\\u12",
        ] {
            assert!(from_slice::<Value>(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn reads_only_wanted_entries() {
        let text = br#"{"a": 1e999, "key": "x", "b": {"c": NaN}, "caption": "first", "caption": "\udc00 last"}"#;
        let entries = entries(text, |key| key == "caption" || key == "key").unwrap();
        assert_eq!(Value::Object(entries), json!({"key": "x", "caption": "\u{fffd} last"}));
        for text in [&b"[]"[..], b"", b"3", b"{\"a\": 1} 2", b"{\"a\": \xff}"] {
            assert!(super::entries(text, |_| false).is_err());
        }
        let error = super::entries(b"[]", |_| true).unwrap_err();
        assert_eq!(describe(&error), "invalid type: sequence, expected an object");
    }

    proptest! {
        #[test]
        fn standard_json_is_unchanged(text in any::<String>(), number in any::<i64>()) {
            let value = json!({"text": text.as_str(), "list": [text.as_str(), number, null], "Infinity": number});
            let bytes = serde_json::to_vec(&value).unwrap();
            prop_assert_eq!(standard(&bytes), None);
            prop_assert_eq!(from_slice::<Value>(&bytes).unwrap(), value);
        }

        #[test]
        fn arbitrary_bytes_give_a_result_or_an_error(bytes in prop::collection::vec(
            prop::sample::select(&br#"{}[]":,\ud83dNaNInfinity-e0 "#[..]), 0..60)) {
            let _ = from_slice::<Value>(&bytes);
            let _ = entries(&bytes, |_| true);
        }
    }
}
