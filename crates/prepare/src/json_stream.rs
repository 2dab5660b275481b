//! Reads JSON annotation files as a stream of values, so that memory never holds the whole file.
//!
//! A [`Scanner`] finds where each value ends, and only the values of interest are parsed. A value that cannot be used is left out and
//! counted; values that are not needed may be anything that Python writes.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::Path;

use serde::de::DeserializeOwned;
use vlct_util::json;

use crate::malformed::MalformedRows;
use crate::{PrepareError, Result};
use vlct_util::at;

/// Maximum size of an element in bytes. The largest of the published annotations have about 100 KB.
const MAX_ELEMENT: usize = 64 << 20;

/// Calls `each` with every element of the file's top-level array. Returns a remark about elements that are left out, because they have
/// another structure or `each` returns an error.
///
/// # Errors
/// Returns an error if the file is missing, cut short or not such JSON, or if at least half of the elements cannot be used.
pub fn for_each_element<T: DeserializeOwned>(
    path: &Path,
    each: impl FnMut(T) -> Result<(), String>,
) -> Result<Option<String>> {
    let mut elements = Elements::new(path, each);
    let mut scanner = Scanner::new(open(path)?);
    let scanned = scanner.array(&mut elements).and_then(|()| scanner.end());
    elements.finish(scanned)
}

/// Calls `each` with every element of the array `key` of the file's top-level object, like [`for_each_element`].
///
/// # Errors
/// Returns the errors of [`for_each_element`].
pub fn for_each_element_of_field<T: DeserializeOwned>(
    path: &Path,
    key: &'static str,
    each: impl FnMut(T) -> Result<(), String>,
) -> Result<Option<String>> {
    let mut elements = Elements::new(path, each);
    let mut scanner = Scanner::new(open(path)?);
    let scanned = scanner.field(key, &mut elements).and_then(|()| scanner.end());
    elements.finish(scanned)
}

/// Calls `each` with the value of every line that is not blank, like [`for_each_element`].
///
/// # Errors
/// Returns the errors of [`for_each_element`].
pub fn for_each_line<T: DeserializeOwned>(
    path: &Path,
    each: impl FnMut(T) -> Result<(), String>,
) -> Result<Option<String>> {
    let mut elements = Elements::new(path, each);
    let mut reader = open(path)?;
    let mut line = Vec::new();
    for number in 1u64.. {
        line.clear();
        let mut limited = Read::take(&mut reader, MAX_ELEMENT as u64 + 1);
        let read = limited.read_until(b'\n', &mut line).map_err(at::<PrepareError>(path))?;
        if read == 0 {
            break;
        }
        if read > MAX_ELEMENT {
            return Err(PrepareError::malformed(path, format!("line {number} is too long")));
        }
        if !line.trim_ascii().is_empty() {
            elements.add(&format!("line {number}"), &line)?;
        }
    }
    elements.finish(Ok(()))
}

fn open(path: &Path) -> Result<BufReader<File>> {
    let file = File::open(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => PrepareError::MissingAnnotations(path.to_path_buf()),
        _ => at(path)(error),
    })?;
    if file.metadata().map_err(at::<PrepareError>(path))?.is_dir() {
        let reason = "this is a directory, not an annotation file";
        return Err(PrepareError::malformed(path, reason));
    }
    let mut reader = BufReader::with_capacity(1 << 18, file);
    // A byte order mark.
    if reader
        .fill_buf()
        .map_err(at::<PrepareError>(path))?
        .starts_with(b"\xef\xbb\xbf")
    {
        reader.consume(3);
    }
    Ok(reader)
}

/// The elements of a file, which are passed to a function.
struct Elements<'a, T, F> {
    path: &'a Path,
    each: F,
    index: u64,
    malformed: MalformedRows,
    of: std::marker::PhantomData<T>,
}

impl<'a, T: DeserializeOwned, F: FnMut(T) -> Result<(), String>> Elements<'a, T, F> {
    fn new(path: &'a Path, each: F) -> Self {
        Self {
            path,
            each,
            index: 0,
            malformed: MalformedRows::default(),
            of: std::marker::PhantomData,
        }
    }

    /// Parses an element and passes it on. `name` is its name in messages.
    fn add(&mut self, name: &str, element: &[u8]) -> Result<()> {
        let parsed = json::from_slice(element)
            .map_err(|error| format!("not the annotation expected here: {}", json::describe(&error)));
        match parsed.and_then(&mut self.each) {
            Ok(()) => self.malformed.keep(),
            Err(reason) => {
                let error = PrepareError::malformed_row(self.path, format!("{name}: {reason}"));
                self.malformed.leave_out(error)?;
            }
        }
        Ok(())
    }

    /// Returns the remark about elements that were left out.
    fn finish(self, scanned: Result<(), ScanError>) -> Result<Option<String>> {
        match scanned {
            Ok(()) => self.malformed.remark(self.path),
            Err(ScanError::Of(error)) => Err(error),
            Err(ScanError::Io(error)) => Err(at(self.path)(error)),
            Err(ScanError::Truncated) => {
                let reason = "the file is cut short; download it again";
                Err(PrepareError::malformed(self.path, reason))
            }
            Err(ScanError::Structure(expected, position)) => {
                let reason = format!("not the annotations expected here: {expected} is missing at byte {position}");
                Err(PrepareError::malformed(self.path, reason))
            }
        }
    }
}

/// The reason why the structure of a file cannot be read.
enum ScanError {
    Io(std::io::Error),
    /// The file ends within a value.
    Truncated,
    /// Something else is at a position than what is expected there.
    Structure(String, u64),
    Of(PrepareError),
}

impl From<std::io::Error> for ScanError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

/// A receiver of the elements of an array.
trait Receive {
    fn receive(&mut self, element: &[u8]) -> Result<(), PrepareError>;
}

impl<T: DeserializeOwned, F: FnMut(T) -> Result<(), String>> Receive for Elements<'_, T, F> {
    fn receive(&mut self, element: &[u8]) -> Result<(), PrepareError> {
        let name = format!("entry {}", self.index);
        self.index += 1;
        self.add(&name, element)
    }
}

/// Divides JSON into values by brackets, commas and strings. It does not check the inner of values.
struct Scanner<R> {
    reader: R,
    /// Number of bytes that were read.
    position: u64,
    /// The value that was read last.
    value: Vec<u8>,
}

impl<R: BufRead> Scanner<R> {
    fn new(reader: R) -> Self {
        Self {
            reader,
            position: 0,
            value: Vec::new(),
        }
    }

    /// Passes the elements of the array that follows to `elements`.
    fn array(&mut self, elements: &mut impl Receive) -> Result<(), ScanError> {
        self.expect(b'[', "an array")?;
        if self.skip_if(b']')? {
            return Ok(());
        }
        loop {
            self.read_value(true)?;
            elements.receive(&self.value).map_err(ScanError::Of)?;
            if !self.skip_if(b',')? {
                return self.expect(b']', "a comma or the end of the array");
            }
        }
    }

    /// Passes the elements of the array `key` of the object that follows to `elements`.
    fn field(&mut self, key: &str, elements: &mut impl Receive) -> Result<(), ScanError> {
        let missing = || format!("an object with the key {key:?}");
        self.expect(b'{', &missing())?;
        let mut is_found = false;
        if !self.skip_if(b'}')? {
            loop {
                self.read_value(true)?;
                let is_key = json::from_slice::<String>(&self.value).is_ok_and(|name| name == key);
                self.expect(b':', "a colon after a key")?;
                if is_key && !is_found {
                    self.array(elements)?;
                    is_found = true;
                } else {
                    self.read_value(false)?;
                }
                if !self.skip_if(b',')? {
                    self.expect(b'}', "a comma or the end of the object")?;
                    break;
                }
            }
        }
        match is_found {
            true => Ok(()),
            false => Err(ScanError::Structure(format!("the key {key:?}"), self.position)),
        }
    }

    /// Checks that only white space follows.
    fn end(&mut self) -> Result<(), ScanError> {
        match self.peek()? {
            None => Ok(()),
            Some(_) => Err(ScanError::Structure("the end of the file".into(), self.position)),
        }
    }

    /// Returns the next byte that is not white space, without skipping it. Returns `None` at the end of the file.
    fn peek(&mut self) -> Result<Option<u8>, ScanError> {
        loop {
            let buffer = self.reader.fill_buf()?;
            if buffer.is_empty() {
                return Ok(None);
            }
            let blanks = buffer.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            let next = buffer.get(blanks).copied();
            self.reader.consume(blanks);
            self.position += blanks as u64;
            if next.is_some() {
                return Ok(next);
            }
        }
    }

    /// Skips `byte` if it is next.
    fn skip_if(&mut self, byte: u8) -> Result<bool, ScanError> {
        let next = self.peek()?.ok_or(ScanError::Truncated)?;
        if next == byte {
            self.reader.consume(1);
            self.position += 1;
        }
        Ok(next == byte)
    }

    fn expect(&mut self, byte: u8, what: &str) -> Result<(), ScanError> {
        match self.skip_if(byte)? {
            true => Ok(()),
            false => Err(ScanError::Structure(what.into(), self.position)),
        }
    }

    /// Reads the value that follows, into [`Self::value`] if it is kept.
    fn read_value(&mut self, is_kept: bool) -> Result<(), ScanError> {
        self.value.clear();
        self.peek()?;
        let (mut depth, mut in_string, mut is_escaped, start) = (0usize, false, false, self.position);
        loop {
            let buffer = self.reader.fill_buf()?;
            if buffer.is_empty() {
                return Err(ScanError::Truncated);
            }
            let (mut used, mut is_complete) = (0, false);
            while let Some(byte) = buffer.get(used).filter(|_| !is_complete) {
                if is_escaped {
                    is_escaped = false;
                    used += 1;
                } else if in_string {
                    let rest = &buffer[used..];
                    let special = rest.iter().position(|byte| matches!(byte, b'"' | b'\\'));
                    used += special.map_or(rest.len(), |position| position + 1);
                    if let Some(position) = special {
                        is_escaped = rest[position] == b'\\';
                        in_string = is_escaped;
                        is_complete = !in_string && depth == 0;
                    }
                } else {
                    match byte {
                        b'"' => in_string = true,
                        b'{' | b'[' => depth += 1,
                        // The end of a number or a word.
                        b'}' | b']' | b',' | b':' if depth == 0 => break,
                        blank if depth == 0 && blank.is_ascii_whitespace() => break,
                        b'}' | b']' => {
                            depth -= 1;
                            is_complete = depth == 0;
                        }
                        _ => {}
                    }
                    used += 1;
                }
            }
            is_complete |= used < buffer.len();
            if is_kept {
                self.value.extend_from_slice(&buffer[..used]);
            }
            self.reader.consume(used);
            self.position += used as u64;
            if self.value.len() > MAX_ELEMENT {
                return Err(ScanError::Structure("an element of at most 64 MiB".into(), start));
            }
            if is_complete {
                return match self.position > start {
                    true => Ok(()),
                    false => Err(ScanError::Structure("a value".into(), start)),
                };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// Reads a file with the given content, in parts of `part` bytes at a time.
    fn elements(text: &[u8], key: Option<&'static str>) -> (Vec<Value>, Result<Option<String>>) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let mut found = Vec::new();
        let each = |value: Value| match value {
            Value::Null => Err("it is null".to_string()),
            value => {
                found.push(value);
                Ok(())
            }
        };
        let result = match key {
            Some(key) => for_each_element_of_field(file.path(), key, each),
            None => for_each_element(file.path(), each),
        };
        (found, result)
    }

    #[test]
    fn finds_the_elements_of_an_array() {
        let text = br#" [1, "a,]\"[", {"b": [1, {"c": "}"}], "d": NaN} , [[]], -Infinity, true, "\ud83d", null ] "#;
        let (found, remark) = elements(text, None);
        assert_eq!(
            found,
            [
                json!(1),
                json!("a,]\"["),
                json!({"b": [1, {"c": "}"}], "d": null}),
                json!([[]]),
                json!(true),
                json!("\u{fffd}")
            ]
        );
        let remark = remark.unwrap().unwrap();
        assert!(
            remark.contains("left out 2 rows that cannot be used (entry 4: it is null; entry 7: it is null)"),
            "{remark}"
        );
        assert_eq!(elements(b"\xef\xbb\xbf[]", None).1.unwrap(), None);
    }

    #[test]
    fn finds_the_elements_of_a_field() {
        let text =
            br#"{"info": {"images": [7], "x": NaN}, "n": 1e999, "images": [2, 3], "type": "images", "images": [4]}"#;
        let (found, remark) = elements(text, Some("images"));
        assert_eq!((found, remark.unwrap()), (vec![json!(2), json!(3)], None));
        for (text, part) in [
            (&b"{\"image\": []}"[..], "the key \"images\" is missing"),
            (b"{\"images\": {}}", "an array is missing at byte 11"),
            (b"[]", "an object with the key \"images\""),
            (b"{\"images\": [1}", "a comma or the end of the array"),
            (b"{\"images\": [1]} x", "the end of the file"),
            (b"{\"images\": [1,]}", "a value is missing"),
            (b"{\"images\" [1]}", "a colon"),
            (b"{\"images\": [1, \"abc", "cut short"),
            (b"{\"images\": [1", "cut short"),
            (b"", "cut short"),
            (
                b"{\"images\": [null, 1]}",
                "entry 0: it is null (1 of 2 rows cannot be used)",
            ),
        ] {
            let message = elements(text, Some("images")).1.unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }

    proptest! {
        #[test]
        fn reads_any_json(text in any::<String>(), count in 0..40usize) {
            let element = json!({"text": text, "list": [text, {"text": text}]});
            let all = json!({"other": element, "images": vec![&element; count]});
            let (found, remark) = elements(all.to_string().as_bytes(), Some("images"));
            prop_assert_eq!(found, vec![element; count]);
            prop_assert_eq!(remark.unwrap(), None);
        }

        #[test]
        fn arbitrary_bytes_give_a_result_or_an_error(bytes in prop::collection::vec(
            prop::sample::select(&br#"{}[]":,\uNa1 "#[..]), 0..60)) {
            let _ = elements(&bytes, None);
            let _ = elements(&[&b"{\"images\": ["[..], &bytes].concat(), Some("images"));
        }
    }
}
