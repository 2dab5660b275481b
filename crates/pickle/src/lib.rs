//! Python pickles, read as data.
//!
//! A pickle is a program for a stack machine that may name any Python callable and have it called. Nothing is called here: a
//! callable is a [`Value::Global`] (two words), a call is a [`Value::Object`] (callable, arguments, state), and whoever
//! reads the tree decides which few of them mean something. All opcodes of protocols 0 to 5 are understood.
//!
//! Values live in one flat list and refer to each other by [`Ref`], so that cycles need no care, deep nesting costs no stack, and
//! dropping is a loop. Work and memory are bounded by the limits below and by the bytes actually present.

mod input;
mod machine;
mod writer;

pub use machine::parse;
pub use writer::Writer;

use std::borrow::Cow;

/// Most values one pickle may create. A checkpoint of the huge model with its optimiser has about 100,000.
pub const MAX_VALUES: usize = 1 << 22;
/// Most references that all containers of one pickle may hold together.
pub const MAX_REFERENCES: usize = 1 << 24;
/// Most values (and, separately, marks) that may lie on the machine's stack at once.
pub const MAX_STACK: usize = 1 << 22;
/// Most entries of the memo.
pub const MAX_MEMO: usize = 1 << 22;
/// How deep [`Pickle::describe`] looks into nested values.
pub const MAX_DESCRIBED_DEPTH: usize = 8;
/// Longest text, in bytes, that [`Pickle::describe`] writes before it breaks off with an ellipsis.
pub const MAX_DESCRIPTION: usize = 4000;

/// What is wrong with a pickle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PickleError {
    /// The bytes end inside an instruction or before the final `STOP`.
    #[error("the pickle ends too early, at byte {offset}")]
    Truncated {
        /// Where the missing bytes should begin.
        offset: usize,
    },
    /// A byte that is no instruction of any protocol.
    #[error("byte {offset} of the pickle, {opcode:#04x}, is no instruction")]
    UnknownOpcode {
        /// Where it stands.
        offset: usize,
        /// The byte.
        opcode: u8,
    },
    /// A protocol newer than 5.
    #[error("the pickle uses protocol {0}; this reader knows 0 to 5")]
    Protocol(u8),
    /// An instruction takes a value that is not there.
    #[error("the instruction at byte {offset} of the pickle takes a value from an empty stack")]
    StackUnderflow {
        /// Where the instruction stands.
        offset: usize,
    },
    /// An instruction needs a mark on the stack.
    #[error("the instruction at byte {offset} of the pickle looks for a mark that was not set")]
    NoMark {
        /// Where the instruction stands.
        offset: usize,
    },
    /// A memo entry is read that was never written.
    #[error("the instruction at byte {offset} of the pickle reads memo entry {key}, which was not written")]
    NotInMemo {
        /// Where the instruction stands.
        offset: usize,
        /// The entry.
        key: u64,
    },
    /// An argument has the wrong form.
    #[error("the instruction at byte {offset} of the pickle has a malformed {what}")]
    Malformed {
        /// Where the instruction stands.
        offset: usize,
        /// Which argument.
        what: &'static str,
    },
    /// Items are added to something that cannot hold them.
    #[error("the instruction at byte {offset} of the pickle adds items to a value that holds none")]
    NotAContainer {
        /// Where the instruction stands.
        offset: usize,
    },
    /// Protocol 5 buffers that are kept outside the pickle.
    #[error("the instruction at byte {offset} of the pickle refers to a buffer outside the file")]
    OutOfBand {
        /// Where the instruction stands.
        offset: usize,
    },
    /// One of the limits is exceeded.
    #[error("the pickle has more than {limit} {what}")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
}

/// The place of a value in its [`Pickle`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ref(u32);

/// A value of a pickle; text and bytes borrow from the file where they can.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// An integer.
    Int(i128),
    /// An integer beyond 128 bits; its value is not kept.
    HugeInt,
    /// A floating-point number.
    Float(f64),
    /// A string. Python 2 byte strings are read as UTF-8; malformed parts become replacement characters.
    Text(Cow<'a, str>),
    /// `bytes` or `bytearray`.
    Bytes(Cow<'a, [u8]>),
    /// A list.
    List(Vec<Ref>),
    /// A tuple.
    Tuple(Vec<Ref>),
    /// A set or frozen set.
    Set(Vec<Ref>),
    /// A dictionary: keys and values in the order they were added, later ones winning.
    Dict(Vec<(Ref, Ref)>),
    /// A class or function, by name only.
    Global {
        /// The module, such as `torch._utils`.
        module: Cow<'a, str>,
        /// The name in the module, such as `_rebuild_tensor_v2`.
        name: Cow<'a, str>,
    },
    /// What a call would have returned.
    Object(Box<Object>),
    /// A reference to something outside the pickle, such as a tensor's storage.
    Persistent(Ref),
}

/// A call that was not made.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    /// The class or function.
    pub callable: Ref,
    /// The arguments, usually a tuple.
    pub arguments: Ref,
    /// What `BUILD` would have set as the object's state.
    pub state: Option<Ref>,
    /// Items appended to it, if it is like a list.
    pub items: Vec<Ref>,
    /// Entries added to it, if it is like a dictionary.
    pub entries: Vec<(Ref, Ref)>,
}

/// One pickle: all values and which of them is the result.
#[derive(Debug, Clone)]
pub struct Pickle<'a> {
    values: Vec<Value<'a>>,
    root: Ref,
    length: usize,
}

impl<'a> Pickle<'a> {
    /// The result.
    pub fn root(&self) -> Ref {
        self.root
    }

    /// Number of bytes the pickle takes, its `STOP` included. Another pickle may follow in the same file.
    pub fn length(&self) -> usize {
        self.length
    }

    /// The value at a place.
    pub fn get(&self, at: Ref) -> &Value<'a> {
        &self.values[at.0 as usize]
    }

    /// Every value, in the order of creation.
    pub fn values(&self) -> &[Value<'a>] {
        &self.values
    }

    /// The string at a place.
    pub fn text(&self, at: Ref) -> Option<&str> {
        match self.get(at) {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The integer at a place.
    pub fn int(&self, at: Ref) -> Option<i128> {
        match self.get(at) {
            Value::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// The integer at a place if it is a size or an index.
    pub fn size(&self, at: Ref) -> Option<usize> {
        self.int(at).and_then(|value| usize::try_from(value).ok())
    }

    /// The items of the tuple or list at a place.
    pub fn items(&self, at: Ref) -> Option<&[Ref]> {
        match self.get(at) {
            Value::Tuple(items) | Value::List(items) => Some(items),
            _ => None,
        }
    }

    /// Module and name of the class or function at a place.
    pub fn global(&self, at: Ref) -> Option<(&str, &str)> {
        match self.get(at) {
            Value::Global { module, name } => Some((module, name)),
            _ => None,
        }
    }

    /// The uncalled call at a place.
    pub fn object(&self, at: Ref) -> Option<&Object> {
        match self.get(at) {
            Value::Object(object) => Some(object),
            _ => None,
        }
    }

    /// `module.name` of what the object at a place would have called.
    pub fn callable(&self, at: Ref) -> Option<String> {
        let (module, name) = self.global(self.object(at)?.callable)?;
        Some(format!("{module}.{name}"))
    }

    /// The entries of the dictionary at a place: `dict`, `collections.OrderedDict` or `collections.defaultdict`.
    pub fn entries(&self, at: Ref) -> Option<Vec<(Ref, Ref)>> {
        match self.get(at) {
            Value::Dict(entries) => Some(entries.clone()),
            Value::Object(object) => match self.global(object.callable)? {
                ("collections", "OrderedDict" | "defaultdict") => {
                    // Python 2 passes the entries as the only argument, a list of pairs.
                    let pairs = match self.items(object.arguments) {
                        Some([list]) => self.items(*list).unwrap_or_default(),
                        _ => &[],
                    };
                    let given = pairs.iter().filter_map(|pair| match self.items(*pair) {
                        Some([key, value]) => Some((*key, *value)),
                        _ => None,
                    });
                    Some(given.chain(object.entries.iter().copied()).collect())
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// A short text for people: what a value is, nested values to a limited depth and length.
    pub fn describe(&self, at: Ref) -> String {
        let mut text = String::new();
        self.describe_into(&mut text, at, 0);
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

    fn describe_into(&self, out: &mut String, at: Ref, depth: usize) {
        use std::fmt::Write;
        if depth > MAX_DESCRIBED_DEPTH || out.len() > MAX_DESCRIPTION {
            out.push('…');
            return;
        }
        // Writing to a string cannot fail.
        let _ = match self.get(at) {
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
                if let Some(entries) = self.entries(at) {
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
                self.describe_list(out, arguments, depth);
                out.push(')');
                Ok(())
            }
        };
    }

    fn describe_items(&self, out: &mut String, items: &[Ref], depth: usize) {
        out.push('[');
        self.describe_list(out, items, depth);
        out.push(']');
    }

    fn describe_list(&self, out: &mut String, items: &[Ref], depth: usize) {
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

#[cfg(test)]
mod tests;
