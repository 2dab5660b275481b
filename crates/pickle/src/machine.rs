//! The stack machine that turns the bytes of a pickle into values.

use std::borrow::Cow;
use std::collections::HashMap;

use super::input::{Input, decode_raw_unicode, parse_quoted};
use super::{Object, Pickle, PickleError, Ref, Value};

/// Maximum number of values of a pickle. A checkpoint of the huge model with its optimiser has about 100,000
/// values.
pub const MAX_VALUES: usize = 1 << 22;
/// Maximum number of references in all containers of a pickle together.
pub const MAX_REFERENCES: usize = 1 << 24;
/// Maximum number of values and, separately, of marks on the stack of the machine.
pub const MAX_STACK: usize = 1 << 22;
/// Maximum number of entries of the memo.
pub const MAX_MEMO: usize = 1 << 22;

type Result<T> = std::result::Result<T, PickleError>;

/// Reads the pickle at the beginning of `bytes`. Bytes after its `STOP` are ignored. No Python callable is called.
///
/// ```
/// // `{"epoch": 3, "hook": os.system("reboot")}` as Python writes it in protocol 0.
/// let bytes = b"(dS'epoch'\nI3\nsS'hook'\ncos\nsystem\n(S'reboot'\ntRs.";
/// let pickle = vlct_pickle::parse(bytes)?;
/// let entries = pickle.entries(pickle.root()).unwrap();
/// assert_eq!(pickle.int(entries[0].1), Some(3));
/// // The call is not executed.
/// assert_eq!(pickle.callable(entries[1].1).as_deref(), Some("os.system"));
/// # Ok::<(), vlct_pickle::PickleError>(())
/// ```
///
/// # Errors
/// Returns a [`PickleError`] if `bytes` does not begin with a valid pickle of protocol 0 to 5, or if the pickle exceeds a limit.
pub fn parse(bytes: &[u8]) -> Result<Pickle<'_>> {
    let mut machine = Machine {
        input: Input::new(bytes),
        values: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        references: 0,
    };
    let root = loop {
        if let Some(root) = machine.step()? {
            break root;
        }
    };
    Ok(Pickle {
        values: machine.values,
        root,
        length: machine.input.position(),
    })
}

struct Machine<'a> {
    input: Input<'a>,
    values: Vec<Value<'a>>,
    stack: Vec<Ref>,
    /// The height of the stack at each mark.
    marks: Vec<usize>,
    memo: HashMap<u64, Ref>,
    /// References in all containers together.
    references: usize,
}

impl<'a> Machine<'a> {
    /// Executes an instruction. Returns the root of the pickle if the instruction is `STOP`. Python's `pickletools` documents the opcodes.
    fn step(&mut self) -> Result<Option<Ref>> {
        self.input.begin_instruction();
        match self.input.byte()? {
            // Constants.
            b'N' => self.push(Value::None)?,
            0x88 => self.push(Value::Bool(true))?,
            0x89 => self.push(Value::Bool(false))?,

            // Numbers.
            b'K' => {
                let value = self.input.byte()?;
                self.push(Value::Int(value.into()))?;
            }
            b'M' => {
                let value = u16::from_le_bytes(self.input.array()?);
                self.push(Value::Int(value.into()))?;
            }
            b'J' => {
                let value = i32::from_le_bytes(self.input.array()?);
                self.push(Value::Int(value.into()))?;
            }
            0x8a => {
                let length = self.input.byte()?.into();
                self.push_long(length)?;
            }
            0x8b => {
                let length = self.input.length_i32()?;
                self.push_long(length)?;
            }
            b'I' => {
                let value = match self.input.line()? {
                    b"00" => Value::Bool(false),
                    b"01" => Value::Bool(true),
                    digits => self.parse_decimal(digits)?,
                };
                self.push(value)?;
            }
            b'L' => {
                let line = self.input.line()?;
                let value = self.parse_decimal(line.strip_suffix(b"L").unwrap_or(line))?;
                self.push(value)?;
            }
            b'F' => {
                let line = self.input.line()?;
                let value = std::str::from_utf8(line).ok().and_then(|text| text.trim().parse().ok());
                let value = value.ok_or_else(|| self.malformed("number"))?;
                self.push(Value::Float(value))?;
            }
            b'G' => {
                let value = f64::from_be_bytes(self.input.array()?);
                self.push(Value::Float(value))?;
            }

            // Strings and bytes.
            0x8c | b'U' => {
                let length = self.input.byte()?.into();
                self.push_text(length)?;
            }
            b'X' => {
                let length = self.input.length_u32()?;
                self.push_text(length)?;
            }
            b'T' => {
                let length = self.input.length_i32()?;
                self.push_text(length)?;
            }
            0x8d => {
                let length = self.input.length_u64()?;
                self.push_text(length)?;
            }
            b'S' => {
                let line = self.input.line()?;
                let text = parse_quoted(line).ok_or_else(|| self.malformed("string"))?;
                self.push(Value::Text(Cow::Owned(text)))?;
            }
            b'V' => {
                let line = self.input.line()?;
                let text = decode_raw_unicode(line).ok_or_else(|| self.malformed("string"))?;
                self.push(Value::Text(text))?;
            }
            b'C' => {
                let length = self.input.byte()?.into();
                self.push_bytes(length)?;
            }
            b'B' => {
                let length = self.input.length_u32()?;
                self.push_bytes(length)?;
            }
            0x8e | 0x96 => {
                let length = self.input.length_u64()?;
                self.push_bytes(length)?;
            }

            // Containers.
            b')' => self.push(Value::Tuple(Vec::new()))?,
            b']' => self.push(Value::List(Vec::new()))?,
            b'}' => self.push(Value::Dict(Vec::new()))?,
            0x8f => self.push(Value::Set(Vec::new()))?,
            opcode @ 0x85..=0x87 => {
                let items = self.pop_many(usize::from(opcode - 0x84))?;
                self.push(Value::Tuple(items))?;
            }
            b't' => {
                let items = self.pop_to_mark()?;
                self.push(Value::Tuple(items))?;
            }
            b'l' => {
                let items = self.pop_to_mark()?;
                self.push(Value::List(items))?;
            }
            b'd' => {
                let items = self.pop_to_mark()?;
                let entries = self.pairs(&items)?;
                self.push(Value::Dict(entries))?;
            }
            0x91 => {
                let items = self.pop_to_mark()?;
                self.push(Value::Set(items))?;
            }
            b'a' => {
                let items = self.pop_many(1)?;
                self.add_items(items)?;
            }
            b'e' | 0x90 => {
                let items = self.pop_to_mark()?;
                self.add_items(items)?;
            }
            b's' => {
                let items = self.pop_many(2)?;
                self.add_entries(&items)?;
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                self.add_entries(&items)?;
            }

            // Stack and memo.
            b'(' => {
                if self.marks.len() >= MAX_STACK {
                    return Err(too_many("marks", MAX_STACK));
                }
                self.marks.push(self.stack.len());
            }
            b'0' => {
                // As in Python, POP removes a mark if no value is above it.
                if self.marks.last() == Some(&self.stack.len()) {
                    self.marks.pop();
                } else {
                    self.pop()?;
                }
            }
            b'1' => {
                self.pop_to_mark()?;
            }
            b'2' => {
                let top = self.top()?;
                self.push_ref(top)?;
            }
            b'p' => {
                let key = self.read_memo_key()?;
                self.memoize(key)?;
            }
            b'q' => {
                let key = self.input.byte()?.into();
                self.memoize(key)?;
            }
            b'r' => {
                let key = u32::from_le_bytes(self.input.array()?).into();
                self.memoize(key)?;
            }
            0x94 => self.memoize(self.memo.len() as u64)?,
            b'g' => {
                let key = self.read_memo_key()?;
                self.push_memo(key)?;
            }
            b'h' => {
                let key = self.input.byte()?.into();
                self.push_memo(key)?;
            }
            b'j' => {
                let key = u32::from_le_bytes(self.input.array()?).into();
                self.push_memo(key)?;
            }

            // Callables and calls.
            b'c' => {
                let value = self.read_global()?;
                self.push(value)?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                match (&self.values[module.0 as usize], &self.values[name.0 as usize]) {
                    (Value::Text(module), Value::Text(name)) => {
                        let value = Value::Global {
                            module: module.clone(),
                            name: name.clone(),
                        };
                        self.push(value)?;
                    }
                    _ => return Err(self.malformed("name of a class or function")),
                }
            }
            opcode @ 0x82..=0x84 => {
                let code = match opcode {
                    0x82 => self.input.byte()?.into(),
                    0x83 => u16::from_le_bytes(self.input.array()?).into(),
                    _ => u32::from_le_bytes(self.input.array()?),
                };
                self.push(Value::Global {
                    module: Cow::Borrowed("copyreg"),
                    name: Cow::Owned(format!("extension {code}")),
                })?;
            }
            b'R' | 0x81 => {
                let (arguments, callable) = (self.pop()?, self.pop()?);
                self.push_object(callable, arguments)?;
            }
            0x92 => {
                // The arguments become the pair (positional, keywords).
                let (keywords, positional, callable) = (self.pop()?, self.pop()?, self.pop()?);
                self.count_references(2)?;
                let arguments = self.add(Value::Tuple(vec![positional, keywords]))?;
                self.push_object(callable, arguments)?;
            }
            b'i' => {
                let class = self.read_global()?;
                let items = self.pop_to_mark()?;
                let callable = self.add(class)?;
                let arguments = self.add(Value::Tuple(items))?;
                self.push_object(callable, arguments)?;
            }
            b'o' => {
                let mut items = self.pop_to_mark()?;
                if items.is_empty() {
                    return Err(self.underflow());
                }
                let callable = items.remove(0);
                let arguments = self.add(Value::Tuple(items))?;
                self.push_object(callable, arguments)?;
            }
            b'b' => {
                let state = self.pop()?;
                let target = self.top()?;
                // BUILD is ignored for values that are not calls, such as a class or a dictionary.
                if let Value::Object(object) = &mut self.values[target.0 as usize] {
                    object.state = Some(state);
                }
            }
            b'P' => {
                let line = self.input.line()?;
                let id = self.add(Value::Text(String::from_utf8_lossy(line)))?;
                self.push(Value::Persistent(id))?;
            }
            b'Q' => {
                let id = self.pop()?;
                self.push(Value::Persistent(id))?;
            }

            // Framing.
            0x80 => {
                let protocol = self.input.byte()?;
                if protocol > 5 {
                    return Err(PickleError::Protocol(protocol));
                }
            }
            0x95 => {
                // The length of a frame is not needed: every read checks that its bytes exist.
                self.input.array::<8>()?;
            }
            0x97 | 0x98 => {
                return Err(PickleError::OutOfBand {
                    offset: self.input.instruction_offset(),
                });
            }
            b'.' => return self.pop().map(Some),
            opcode => {
                return Err(PickleError::UnknownOpcode {
                    offset: self.input.instruction_offset(),
                    opcode,
                });
            }
        }
        Ok(None)
    }

    // Values.

    fn add(&mut self, value: Value<'a>) -> Result<Ref> {
        if self.values.len() >= MAX_VALUES {
            return Err(too_many("values", MAX_VALUES));
        }
        self.values.push(value);
        Ok(Ref((self.values.len() - 1) as u32))
    }

    fn push(&mut self, value: Value<'a>) -> Result<()> {
        let reference = self.add(value)?;
        self.push_ref(reference)
    }

    fn push_object(&mut self, callable: Ref, arguments: Ref) -> Result<()> {
        self.push(Value::Object(Box::new(Object {
            callable,
            arguments,
            state: None,
            items: Vec::new(),
            entries: Vec::new(),
        })))
    }

    fn push_text(&mut self, length: usize) -> Result<()> {
        let text = String::from_utf8_lossy(self.input.take(length)?);
        self.push(Value::Text(text))
    }

    fn push_bytes(&mut self, length: usize) -> Result<()> {
        let bytes = self.input.take(length)?;
        self.push(Value::Bytes(Cow::Borrowed(bytes)))
    }

    /// Reads a two's complement integer, least significant byte first, and pushes it.
    fn push_long(&mut self, length: usize) -> Result<()> {
        let bytes = self.input.take(length)?;
        let negative = bytes.last().is_some_and(|b| *b >= 0x80);
        let fill = if negative { 0xff } else { 0 };
        let (low, high) = bytes.split_at(bytes.len().min(16));
        let mut padded = [fill; 16];
        padded[..low.len()].copy_from_slice(low);
        let value = i128::from_le_bytes(padded);
        let fits = high.iter().all(|b| *b == fill) && (value < 0) == negative;
        self.push(if fits { Value::Int(value) } else { Value::HugeInt })
    }

    fn parse_decimal(&self, digits: &[u8]) -> Result<Value<'a>> {
        let text = std::str::from_utf8(digits).ok().map(str::trim);
        let text = text.ok_or_else(|| self.malformed("number"))?;
        if let Ok(value) = text.parse() {
            return Ok(Value::Int(value));
        }
        let magnitude = text.strip_prefix(['-', '+']).unwrap_or(text);
        if !magnitude.is_empty() && magnitude.bytes().all(|b| b.is_ascii_digit()) {
            Ok(Value::HugeInt)
        } else {
            Err(self.malformed("number"))
        }
    }

    fn read_global(&mut self) -> Result<Value<'a>> {
        let module = String::from_utf8_lossy(self.input.line()?);
        let name = String::from_utf8_lossy(self.input.line()?);
        Ok(Value::Global { module, name })
    }

    // Stack.

    fn push_ref(&mut self, reference: Ref) -> Result<()> {
        if self.stack.len() >= MAX_STACK {
            return Err(too_many("values on its stack", MAX_STACK));
        }
        self.stack.push(reference);
        Ok(())
    }

    /// Returns the number of values above the last mark, which can be popped.
    fn available(&self) -> usize {
        self.stack.len() - self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Result<Ref> {
        match self.stack.last() {
            Some(top) if self.available() > 0 => Ok(*top),
            _ => Err(self.underflow()),
        }
    }

    fn pop(&mut self) -> Result<Ref> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn pop_many(&mut self, count: usize) -> Result<Vec<Ref>> {
        if self.available() < count {
            return Err(self.underflow());
        }
        self.count_references(count)?;
        Ok(self.stack.split_off(self.stack.len() - count))
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Ref>> {
        let height = self.marks.pop().ok_or(PickleError::NoMark {
            offset: self.input.instruction_offset(),
        })?;
        self.count_references(self.stack.len() - height)?;
        // Copied, because `split_off(0)` would return a vector with the capacity of the whole stack.
        let items = self.stack[height..].to_vec();
        self.stack.truncate(height);
        Ok(items)
    }

    fn count_references(&mut self, count: usize) -> Result<()> {
        self.references += count;
        if self.references > MAX_REFERENCES {
            return Err(too_many("references", MAX_REFERENCES));
        }
        Ok(())
    }

    // Containers.

    fn pairs(&self, items: &[Ref]) -> Result<Vec<(Ref, Ref)>> {
        let (pairs, rest) = items.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(self.malformed("dictionary: a key without a value"));
        }
        Ok(pairs.iter().map(|[key, value]| (*key, *value)).collect())
    }

    fn add_items(&mut self, items: Vec<Ref>) -> Result<()> {
        let target = self.top()?;
        match &mut self.values[target.0 as usize] {
            Value::List(list) | Value::Set(list) => list.extend(items),
            Value::Object(object) => object.items.extend(items),
            _ => {
                return Err(PickleError::NotAContainer {
                    offset: self.input.instruction_offset(),
                });
            }
        }
        Ok(())
    }

    fn add_entries(&mut self, items: &[Ref]) -> Result<()> {
        let pairs = self.pairs(items)?;
        let target = self.top()?;
        match &mut self.values[target.0 as usize] {
            Value::Dict(entries) => entries.extend(pairs),
            Value::Object(object) => object.entries.extend(pairs),
            _ => {
                return Err(PickleError::NotAContainer {
                    offset: self.input.instruction_offset(),
                });
            }
        }
        Ok(())
    }

    // Memo.

    fn read_memo_key(&mut self) -> Result<u64> {
        let line = self.input.line()?;
        let key = std::str::from_utf8(line).ok().and_then(|text| text.trim().parse().ok());
        key.ok_or_else(|| self.malformed("memo entry"))
    }

    fn memoize(&mut self, key: u64) -> Result<()> {
        let top = self.top()?;
        self.memo.insert(key, top);
        if self.memo.len() > MAX_MEMO {
            return Err(too_many("memo entries", MAX_MEMO));
        }
        Ok(())
    }

    fn push_memo(&mut self, key: u64) -> Result<()> {
        let value = self.memo.get(&key).copied();
        let value = value.ok_or(PickleError::NotInMemo {
            offset: self.input.instruction_offset(),
            key,
        })?;
        self.push_ref(value)
    }

    // Errors.

    fn underflow(&self) -> PickleError {
        PickleError::StackUnderflow {
            offset: self.input.instruction_offset(),
        }
    }

    fn malformed(&self, what: &'static str) -> PickleError {
        self.input.malformed(what)
    }
}

fn too_many(what: &'static str, limit: usize) -> PickleError {
    PickleError::TooMany { what, limit }
}
