//! A writer of pickles of protocol 2, which every version of PyTorch reads.

use std::collections::HashMap;

/// A pickle under construction. Each method appends the instructions that push a value, or that combine the topmost values.
///
/// ```
/// use vlct_pickle::Writer;
/// let mut writer = Writer::new();
/// writer.empty_dict().text("epoch").int(3).set_item();
/// let bytes = writer.finish();
/// let read = vlct_pickle::parse(&bytes).unwrap();
/// assert_eq!(read.describe(read.root()), "{epoch: 3}");
/// ```
#[derive(Debug, Clone)]
pub struct Writer {
    bytes: Vec<u8>,
    /// The memo entries of classes and functions, by module and name.
    globals: HashMap<(String, String), u32>,
}

impl Default for Writer {
    fn default() -> Self {
        Self::new()
    }
}

impl Writer {
    /// Creates an empty pickle.
    pub fn new() -> Self {
        Self {
            bytes: vec![0x80, 2],
            globals: HashMap::new(),
        }
    }

    /// Ends the pickle, whose result is the topmost value, and returns its bytes.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.push(b'.');
        self.bytes
    }

    fn op(&mut self, opcode: u8, argument: &[u8]) -> &mut Self {
        self.bytes.push(opcode);
        self.bytes.extend_from_slice(argument);
        self
    }

    /// Pushes `True` or `False`.
    pub fn bool(&mut self, value: bool) -> &mut Self {
        self.op(if value { 0x88 } else { 0x89 }, &[])
    }

    /// Pushes `None`.
    pub fn none(&mut self) -> &mut Self {
        self.op(b'N', &[])
    }

    /// Pushes an integer.
    pub fn int(&mut self, value: i64) -> &mut Self {
        if let Ok(small) = u8::try_from(value) {
            self.op(b'K', &[small])
        } else if let Ok(small) = u16::try_from(value) {
            self.op(b'M', &small.to_le_bytes())
        } else if let Ok(small) = i32::try_from(value) {
            self.op(b'J', &small.to_le_bytes())
        } else {
            self.op(0x8a, &[8]).append(&value.to_le_bytes())
        }
    }

    /// Pushes a floating-point number.
    pub fn float(&mut self, value: f64) -> &mut Self {
        self.op(b'G', &value.to_be_bytes())
    }

    /// Pushes a string.
    ///
    /// # Panics
    /// Panics if the text has 4 GiB or more, the limit of protocol 2.
    pub fn text(&mut self, value: &str) -> &mut Self {
        let length = u32::try_from(value.len()).expect("text of less than 4 GiB");
        self.op(b'X', &length.to_le_bytes()).append(value.as_bytes())
    }

    /// Pushes a class or function.
    pub fn global(&mut self, module: &str, name: &str) -> &mut Self {
        let key = (module.to_owned(), name.to_owned());
        if let Some(memo) = self.globals.get(&key).copied() {
            return self.op(b'j', &memo.to_le_bytes());
        }
        let memo = self.globals.len() as u32;
        self.globals.insert(key, memo);
        self.op(b'c', format!("{module}\n{name}\n").as_bytes())
            .op(b'r', &memo.to_le_bytes())
    }

    /// Pushes a mark for [`Writer::tuple`] and [`Writer::append_items`].
    pub fn mark(&mut self) -> &mut Self {
        self.op(b'(', &[])
    }

    /// Replaces the values above the last mark by a tuple of them.
    pub fn tuple(&mut self) -> &mut Self {
        self.op(b't', &[])
    }

    /// Pushes an empty tuple.
    pub fn empty_tuple(&mut self) -> &mut Self {
        self.op(b')', &[])
    }

    /// Pushes an empty list.
    pub fn empty_list(&mut self) -> &mut Self {
        self.op(b']', &[])
    }

    /// Appends the values above the last mark to the list below it.
    pub fn append_items(&mut self) -> &mut Self {
        self.op(b'e', &[])
    }

    /// Pushes an empty dictionary.
    pub fn empty_dict(&mut self) -> &mut Self {
        self.op(b'}', &[])
    }

    /// Inserts the topmost two values, a key and a value, into the dictionary below them.
    pub fn set_item(&mut self) -> &mut Self {
        self.op(b's', &[])
    }

    /// Replaces the topmost two values, a callable and a tuple of arguments, by a call.
    pub fn reduce(&mut self) -> &mut Self {
        self.op(b'R', &[])
    }

    /// Replaces the topmost value, an id, by a persistent reference.
    pub fn persistent(&mut self) -> &mut Self {
        self.op(b'Q', &[])
    }

    fn append(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }
}
