//! Plain values of a pickle as JSON, for hyper-parameters.

use serde_json::{Map, Value as Json};
use vlct_pickle::{Pickle, Ref, Value};

/// Maximum depth of nested values. Deeper values are null.
const MAX_DEPTH: usize = 8;
/// Maximum number of values. A pickle can refer to a value many times, so the number is not bounded by its size.
const MAX_VALUES: usize = 10_000;

/// Returns a value of a pickle as JSON. Keys that are not text are left out. A value that is neither plain data nor a container is null;
/// objects that behave as lists or dictionaries, such as those of the library sacred, become arrays and objects.
pub(super) fn of(pickle: &Pickle, value: Ref) -> Json {
    let mut converter = Converter {
        pickle,
        remaining: MAX_VALUES,
    };
    converter.convert(value, 0)
}

struct Converter<'p, 'a> {
    pickle: &'p Pickle<'a>,
    /// Number of values that may still be converted.
    remaining: usize,
}

impl Converter<'_, '_> {
    fn convert(&mut self, value: Ref, depth: usize) -> Json {
        if depth > MAX_DEPTH || self.remaining == 0 {
            return Json::Null;
        }
        self.remaining -= 1;
        if let Some(entries) = self.pickle.entries(value) {
            return self.object(&entries, depth);
        }
        match self.pickle.get(value) {
            Value::Bool(value) => (*value).into(),
            Value::Int(value) => i64::try_from(*value).map_or(Json::Null, Json::from),
            Value::Float(value) => (*value).into(),
            Value::Text(text) => Json::String(text.to_string()),
            Value::List(items) | Value::Tuple(items) | Value::Set(items) => self.array(items, depth),
            Value::Object(object) if !object.entries.is_empty() => self.object(&object.entries, depth),
            Value::Object(object) => self.array(&object.items, depth),
            Value::None
            | Value::HugeInt
            | Value::Bytes(_)
            | Value::Dict(_)
            | Value::Global { .. }
            | Value::Persistent(_) => Json::Null,
        }
    }

    fn array(&mut self, items: &[Ref], depth: usize) -> Json {
        let mut values = Vec::new();
        for item in items {
            if self.remaining == 0 {
                break;
            }
            values.push(self.convert(*item, depth + 1));
        }
        values.into()
    }

    fn object(&mut self, entries: &[(Ref, Ref)], depth: usize) -> Json {
        let mut values = Map::new();
        for (key, value) in entries {
            if self.remaining == 0 {
                break;
            }
            if let Some(key) = self.pickle.text(*key) {
                values.insert(key.to_owned(), self.convert(*value, depth + 1));
            }
        }
        values.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use vlct_pickle::Writer;

    fn convert(bytes: &[u8]) -> Json {
        let pickle = vlct_pickle::parse(bytes).expect("a pickle");
        of(&pickle, pickle.root())
    }

    #[test]
    fn converts_plain_values_and_omits_others() {
        let mut pickle = Writer::new();
        pickle.empty_dict();
        pickle.text("n").int(12).set_item().text("flag").bool(true).set_item();
        pickle.text("class").global("os", "system").set_item();
        pickle.int(3).text("not a text key").set_item();
        let got = convert(&pickle.finish());
        assert_eq!(got, json!({"n": 12, "flag": true, "class": null}));
    }

    #[test]
    fn cyclic_and_repeated_values_end() {
        // A list that contains itself.
        assert!(convert(b"\x80\x02]q\x00h\x00a.").is_array());
        // Ten lists, each of which contains the one before it a hundred times.
        let mut bytes = b"\x80\x02]q\x00".to_vec();
        for level in 1u8..=10 {
            bytes.extend([b']', b'q', level, b'(']);
            for _ in 0..100 {
                bytes.extend([b'h', level - 1]);
            }
            bytes.push(b'e');
        }
        bytes.push(b'.');
        assert!(convert(&bytes).is_array());
    }
}
