//! The values of a pickle.

use std::borrow::Cow;

/// Maximum depth of nested values in the text of [`Pickle::describe`].
pub const MAX_DESCRIBED_DEPTH: usize = 8;
/// Maximum length, in bytes, of the text of [`Pickle::describe`] before the ellipsis.
pub const MAX_DESCRIPTION: usize = 4000;

/// The index of a value in its [`Pickle`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ref(pub(crate) u32);

/// A value of a pickle. Text and bytes borrow from the file where possible.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// An integer of at most 128 bits.
    Int(i128),
    /// An integer beyond 128 bits; its value is not kept.
    HugeInt,
    /// A floating-point number.
    Float(f64),
    /// A string. Python 2 byte strings are read as UTF-8; invalid bytes become replacement characters.
    Text(Cow<'a, str>),
    /// `bytes` or `bytearray`.
    Bytes(Cow<'a, [u8]>),
    /// A list.
    List(Vec<Ref>),
    /// A tuple.
    Tuple(Vec<Ref>),
    /// A set or frozen set.
    Set(Vec<Ref>),
    /// A dictionary: keys and values in the order in which they were added. If a key occurs more than once, its last entry
    /// counts.
    Dict(Vec<(Ref, Ref)>),
    /// A class or function, by name.
    Global {
        /// The module, such as `torch._utils`.
        module: Cow<'a, str>,
        /// The name in the module, such as `_rebuild_tensor_v2`.
        name: Cow<'a, str>,
    },
    /// The result of a call that was not executed.
    Object(Box<Object>),
    /// The id of something outside the pickle, such as a tensor's storage.
    Persistent(Ref),
}

/// A call that was not executed.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    /// The class or function.
    pub callable: Ref,
    /// The arguments, usually a tuple.
    pub arguments: Ref,
    /// The state that `BUILD` would set.
    pub state: Option<Ref>,
    /// Items that would be appended to the result of the call.
    pub items: Vec<Ref>,
    /// Entries that would be added to the result of the call.
    pub entries: Vec<(Ref, Ref)>,
}

/// The values of a pickle. One of them, the root, is the value that unpickling would return.
#[derive(Debug, Clone)]
pub struct Pickle<'a> {
    pub(crate) values: Vec<Value<'a>>,
    pub(crate) root: Ref,
    pub(crate) length: usize,
}

impl<'a> Pickle<'a> {
    /// Returns the value that unpickling would return.
    pub fn root(&self) -> Ref {
        self.root
    }

    /// Returns the length of the pickle in bytes, including `STOP`. Another pickle may follow in the same file.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Returns the value of a reference.
    pub fn get(&self, reference: Ref) -> &Value<'a> {
        &self.values[reference.0 as usize]
    }

    /// Returns all values in the order of creation.
    pub fn values(&self) -> &[Value<'a>] {
        &self.values
    }

    /// Returns the text of a string, or `None` for other values.
    pub fn text(&self, reference: Ref) -> Option<&str> {
        match self.get(reference) {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Returns the value of an integer, or `None` for other values.
    pub fn int(&self, reference: Ref) -> Option<i128> {
        match self.get(reference) {
            Value::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// Returns the value of an integer that fits `usize`, or `None` for other values.
    pub fn size(&self, reference: Ref) -> Option<usize> {
        self.int(reference).and_then(|value| usize::try_from(value).ok())
    }

    /// Returns the items of a tuple or list, or `None` for other values.
    pub fn items(&self, reference: Ref) -> Option<&[Ref]> {
        match self.get(reference) {
            Value::Tuple(items) | Value::List(items) => Some(items),
            _ => None,
        }
    }

    /// Returns the module and name of a class or function, or `None` for other values.
    pub fn global(&self, reference: Ref) -> Option<(&str, &str)> {
        match self.get(reference) {
            Value::Global { module, name } => Some((module, name)),
            _ => None,
        }
    }

    /// Returns an object, or `None` for other values.
    pub fn object(&self, reference: Ref) -> Option<&Object> {
        match self.get(reference) {
            Value::Object(object) => Some(object),
            _ => None,
        }
    }

    /// Returns `module.name` of the callable of an object, or `None` for other values.
    pub fn callable(&self, reference: Ref) -> Option<String> {
        let (module, name) = self.global(self.object(reference)?.callable)?;
        Some(format!("{module}.{name}"))
    }

    /// Returns the entries of a `dict`, `collections.OrderedDict` or `collections.defaultdict`, or `None` for other values.
    pub fn entries(&self, reference: Ref) -> Option<Vec<(Ref, Ref)>> {
        match self.get(reference) {
            Value::Dict(entries) => Some(entries.clone()),
            Value::Object(object) => match self.global(object.callable)? {
                ("collections", "OrderedDict" | "defaultdict") => {
                    // Python 2 passes the entries as the only argument, a list of pairs.
                    let pairs = match self.items(object.arguments) {
                        Some([list]) => self.items(*list).unwrap_or_default(),
                        _ => &[],
                    };
                    let from_arguments = pairs.iter().filter_map(|pair| match self.items(*pair) {
                        Some([key, value]) => Some((*key, *value)),
                        _ => None,
                    });
                    Some(from_arguments.chain(object.entries.iter().copied()).collect())
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// Returns a description of a value for messages, to a depth of [`MAX_DESCRIBED_DEPTH`] and with at most about
    /// [`MAX_DESCRIPTION`] bytes.
    pub fn describe(&self, reference: Ref) -> String {
        let mut text = String::new();
        self.describe_into(&mut text, reference, 0);
        if text.len() > MAX_DESCRIPTION {
            let end = (0..=MAX_DESCRIPTION)
                .rev()
                .find(|i| text.is_char_boundary(*i))
                .unwrap_or(0);
            text.truncate(end);
            text.push('…');
        }
        text
    }

    fn describe_into(&self, out: &mut String, reference: Ref, depth: usize) {
        use std::fmt::Write;
        if depth > MAX_DESCRIBED_DEPTH || out.len() > MAX_DESCRIPTION {
            out.push('…');
            return;
        }
        // Writing to a string cannot fail.
        let _ = match self.get(reference) {
            Value::None => write!(out, "none"),
            Value::Bool(value) => write!(out, "{value}"),
            Value::Int(value) => write!(out, "{value}"),
            Value::HugeInt => write!(out, "a huge integer"),
            Value::Float(value) => write!(out, "{value}"),
            Value::Text(text) => {
                let shown: String = text.chars().take(MAX_DESCRIPTION).collect();
                write!(out, "{shown:?}")
            }
            Value::Bytes(bytes) => write!(out, "{} bytes", bytes.len()),
            Value::List(items) | Value::Tuple(items) | Value::Set(items) => {
                return self.describe_items(out, items, depth);
            }
            Value::Dict(entries) => return self.describe_entries(out, entries, depth),
            Value::Global { module, name } => write!(out, "{module}.{name}"),
            Value::Persistent(_) => write!(out, "a storage"),
            Value::Object(object) => {
                if let Some(entries) = self.entries(reference) {
                    return self.describe_entries(out, &entries, depth);
                }
                if !object.items.is_empty() {
                    return self.describe_items(out, &object.items, depth);
                }
                let Some((module, name)) = self.global(object.callable) else {
                    out.push_str("an object");
                    return;
                };
                if module == "torch._utils" && name.starts_with("_rebuild") {
                    out.push_str("a tensor");
                    return;
                }
                let _ = write!(out, "{module}.{name}(");
                let arguments = self.items(object.arguments).unwrap_or_default();
                self.describe_comma_separated(out, arguments, depth);
                out.push(')');
                Ok(())
            }
        };
    }

    fn describe_items(&self, out: &mut String, items: &[Ref], depth: usize) {
        out.push('[');
        self.describe_comma_separated(out, items, depth);
        out.push(']');
    }

    fn describe_comma_separated(&self, out: &mut String, items: &[Ref], depth: usize) {
        for (i, item) in items.iter().enumerate() {
            if out.len() > MAX_DESCRIPTION {
                break;
            }
            if i > 0 {
                out.push_str(", ");
            }
            self.describe_into(out, *item, depth + 1);
        }
    }

    fn describe_entries(&self, out: &mut String, entries: &[(Ref, Ref)], depth: usize) {
        out.push('{');
        for (i, (key, value)) in entries.iter().enumerate() {
            if out.len() > MAX_DESCRIPTION {
                break;
            }
            if i > 0 {
                out.push_str(", ");
            }
            match self.text(*key) {
                Some(text) => out.extend(text.chars().take(MAX_DESCRIPTION)),
                None => self.describe_into(out, *key, depth + 1),
            }
            out.push_str(": ");
            self.describe_into(out, *value, depth + 1);
        }
        out.push('}');
    }
}
