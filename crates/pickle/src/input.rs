//! A reader of opcodes and arguments, and parsers of the string literals of protocol 0.

use std::borrow::Cow;

use super::PickleError;

type Result<T> = std::result::Result<T, PickleError>;

/// The bytes of a pickle and the current position.
pub(super) struct Input<'a> {
    bytes: &'a [u8],
    position: usize,
    instruction_offset: usize,
}

impl<'a> Input<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            position: 0,
            instruction_offset: 0,
        }
    }

    /// Returns the number of bytes read.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Records that an instruction begins at the current position; errors report this offset.
    pub fn begin_instruction(&mut self) {
        self.instruction_offset = self.position;
    }

    /// Returns the offset of the current instruction.
    pub fn instruction_offset(&self) -> usize {
        self.instruction_offset
    }

    pub fn malformed(&self, what: &'static str) -> PickleError {
        PickleError::Malformed {
            offset: self.instruction_offset,
            what,
        }
    }

    fn truncated(&self) -> PickleError {
        PickleError::Truncated {
            offset: self.bytes.len(),
        }
    }

    /// Reads `length` bytes.
    pub fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let end = self.position.checked_add(length);
        let bytes = end.and_then(|end| self.bytes.get(self.position..end));
        let bytes = bytes.ok_or_else(|| self.truncated())?;
        self.position += length;
        Ok(bytes)
    }

    pub fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    /// Reads a line and returns it without LF or CR LF.
    pub fn line(&mut self) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.position..];
        let length = rest.iter().position(|b| *b == b'\n');
        let length = length.ok_or_else(|| self.truncated())?;
        self.position += length + 1;
        let line = &rest[..length];
        Ok(line.strip_suffix(b"\r").unwrap_or(line))
    }

    pub fn length_u32(&mut self) -> Result<usize> {
        let length = u32::from_le_bytes(self.array()?);
        usize::try_from(length).map_err(|_| self.malformed("length"))
    }

    pub fn length_i32(&mut self) -> Result<usize> {
        let length = i32::from_le_bytes(self.array()?);
        usize::try_from(length).map_err(|_| self.malformed("length"))
    }

    pub fn length_u64(&mut self) -> Result<usize> {
        let length = u64::from_le_bytes(self.array()?);
        usize::try_from(length).map_err(|_| self.malformed("length"))
    }
}

/// Parses a Python 2 string literal: `'…'` or `"…"` with backslash escapes.
pub(super) fn parse_quoted(line: &[u8]) -> Option<String> {
    let line = line.trim_ascii();
    let quote = *line.first().filter(|b| matches!(b, b'\'' | b'"'))?;
    let inner = line.get(1..)?.strip_suffix(&[quote])?;
    let mut bytes = Vec::with_capacity(inner.len());
    let mut rest = inner;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'\\' {
            bytes.push(*first);
            continue;
        }
        let (escape, after) = rest.split_first()?;
        rest = after;
        match escape {
            b'n' => bytes.push(b'\n'),
            b't' => bytes.push(b'\t'),
            b'r' => bytes.push(b'\r'),
            b'\\' | b'\'' | b'"' => bytes.push(*escape),
            b'x' => {
                bytes.push(u8::try_from(parse_hexadecimal(rest.get(..2)?)?).ok()?);
                rest = &rest[2..];
            }
            other => bytes.extend([b'\\', *other]),
        }
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Decodes Python's `raw-unicode-escape`: Latin-1 with the escapes `\uXXXX` and `\UXXXXXXXX` (hexadecimal digits).
pub(super) fn decode_raw_unicode(line: &[u8]) -> Option<Cow<'_, str>> {
    if line.is_ascii() && !line.contains(&b'\\') {
        return std::str::from_utf8(line).ok().map(Cow::Borrowed);
    }
    let mut text = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((first, after)) = rest.split_first() {
        let digits = match (first, after.first()) {
            (b'\\', Some(b'u')) => 4,
            (b'\\', Some(b'U')) => 8,
            _ => {
                text.push(char::from(*first));
                rest = after;
                continue;
            }
        };
        let code = parse_hexadecimal(after.get(1..1 + digits)?)?;
        text.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
        rest = &after[1 + digits..];
    }
    Some(Cow::Owned(text))
}

fn parse_hexadecimal(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0u32, |value, digit| {
        Some((value << 4) | char::from(*digit).to_digit(16)?)
    })
}
