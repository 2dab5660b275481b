//! JSONL: one JSON object per line.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::de::IgnoredAny;
use serde_json::Value;

use super::cells::{Cell, Cells, to_record};
use super::columns::{ColumnNames, Role, TableContents, with_columns};
use super::record::{MAX_ROW_BYTES, Record};
use crate::{PrepareError, Result};
use vlct_util::json;
use vlct_util::{at, open_file};

/// The objects of a file. Blank lines are skipped.
pub(super) struct Lines {
    reader: LineReader,
    columns: ColumnNames,
    contents: TableContents,
}

/// The lines of a file that are not blank.
struct LineReader {
    path: PathBuf,
    reader: BufReader<File>,
    line: Vec<u8>,
    line_number: u64,
}

/// Calls `check` with the keys of all objects of a file: an object may lack keys that other objects have. Keys for which `is_used`
/// returns false, and lines that are not JSON objects, are left out.
///
/// # Errors
/// Returns an error if no line is a JSON object, and the error of `check`. There is no such error if the file has no line.
pub(super) fn check_columns<T>(
    path: &Path,
    is_used: impl Fn(&str) -> bool,
    check: impl Fn(&[&str]) -> Result<T, String>,
) -> Result<Option<T>> {
    let mut reader = LineReader::open(path)?;
    let mut keys: BTreeSet<String> = BTreeSet::new();
    let mut first: Option<(u64, Vec<String>)> = None;
    let mut malformed = None;
    while let Some(line) = reader.advance()? {
        let object = line.and_then(|()| reader.parse_with(json::from_slice::<BTreeMap<String, IgnoredAny>>));
        let object = match object {
            Ok(object) => object,
            Err(error) => {
                malformed.get_or_insert(error);
                continue;
            }
        };
        first.get_or_insert_with(|| (reader.line_number, object.keys().cloned().collect()));
        for key in object.into_keys() {
            if !keys.contains(&key) && is_used(&key) {
                keys.insert(key);
            }
        }
    }
    let Some((line, first_keys)) = first else {
        return malformed.map_or(Ok(None), Err);
    };
    let names: Vec<&str> = keys.iter().map(String::as_str).collect();
    check(&names).map(Some).map_err(|reason| {
        let reason = with_columns(&reason, &first_keys);
        PrepareError::malformed(path, format!("line {line}: {reason}"))
    })
}

impl LineReader {
    fn open(path: &Path) -> Result<Self> {
        Ok(Self {
            path: path.to_path_buf(),
            reader: BufReader::new(open_file(path)?),
            line: Vec::new(),
            line_number: 0,
        })
    }

    /// Reads the next line that is not blank; an error if it is too long. Returns `None` at the end of the file.
    fn advance(&mut self) -> Result<Option<Result<()>>> {
        loop {
            self.line.clear();
            self.line_number += 1;
            let mut limited = Read::take(&mut self.reader, MAX_ROW_BYTES as u64 + 1);
            let read = limited
                .read_until(b'\n', &mut self.line)
                .map_err(at::<PrepareError>(&self.path))?;
            if read > MAX_ROW_BYTES {
                if !self.line.ends_with(b"\n") {
                    self.reader.skip_until(b'\n').map_err(at::<PrepareError>(&self.path))?;
                }
                return Ok(Some(Err(
                    self.error(" is too long; a line is one object, of at most 16 MiB")
                )));
            }
            if self.line_number == 1 && self.line.starts_with(b"\xef\xbb\xbf") {
                self.line.drain(..3);
            }
            if read == 0 {
                return Ok(None);
            }
            if !self.line.trim_ascii().is_empty() {
                return Ok(Some(Ok(())));
            }
        }
    }

    /// Parses the line as a JSON object.
    fn parse_with<T>(&self, parse: impl Fn(&[u8]) -> serde_json::Result<T>) -> Result<T> {
        parse(&self.line).map_err(|error| {
            let hint = match self.line.trim_ascii_start() {
                [b'[', ..] => "; the file is a list: write each of its objects on a line, with jq -c '.[]' for example",
                _ => "",
            };
            self.error(&format!(" is not a JSON object ({}){hint}", json::describe(&error)))
        })
    }

    fn error(&self, reason: &str) -> PrepareError {
        PrepareError::malformed_row(&self.path, format!("line {}{reason}", self.line_number))
    }
}

impl Lines {
    pub fn open(path: &Path, columns: &ColumnNames, contents: TableContents) -> Result<Self> {
        Ok(Self {
            reader: LineReader::open(path)?,
            columns: columns.clone(),
            contents,
        })
    }

    fn parse_record(&self) -> Result<Record> {
        let object = self
            .reader
            .parse_with(|line| json::entries(line, |key| self.columns.uses(key)))?;
        let positions = self.columns.positions(self.contents, object.keys().map(String::as_str));
        let name = |role: Role| {
            let position = positions[role as usize];
            position
                .and_then(|position| object.keys().nth(position))
                .cloned()
                .unwrap_or_default()
        };
        let mut cells = Cells::default();
        for ((cell, position), role) in cells.iter_mut().zip(positions).zip(Role::ALL) {
            if let Some(value) = position.and_then(|position| object.values().nth(position)) {
                *cell = value_cell(role, value);
            }
        }
        to_record(self.contents, self.reader.line_number, cells, name)
            .map_err(|reason| self.reader.error(&format!(", {reason}")))
    }
}

impl Iterator for Lines {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.reader.advance() {
            Ok(line) => line.map(|line| line.and_then(|()| self.parse_record())),
            Err(error) => Some(Err(error)),
        }
    }
}

fn value_cell(role: Role, value: &Value) -> Cell {
    match value {
        Value::Null => Cell::Null,
        Value::String(text) => Cell::Text(text.clone()),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(integer), _) => Cell::Number(integer.into()),
            (None, Some(integer)) => Cell::Number(integer.into()),
            (None, None) => number.as_f64().map_or(Cell::Null, Cell::of_float),
        },
        Value::Array(items) => {
            let items = items.iter().filter(|item| !item.is_null());
            let texts: Option<Vec<String>> = items.map(|item| item_text(role, item)).collect();
            texts.map_or(Cell::Other("a list whose items are not texts"), Cell::Texts)
        }
        Value::Bool(truth) => Cell::Truth(*truth),
        Value::Object(_) => match item_text(role, value) {
            Some(text) => Cell::Text(text),
            None => Cell::Other("an object"),
        },
    }
}

/// Returns the text of an item of a list: a text, an object with a text ([`Role::text_fields`]), a caption that is a number, or an answer
/// or label that is an integer.
fn item_text(role: Role, item: &Value) -> Option<String> {
    match item {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) if matches!(role, Role::Label | Role::Answer) => Some(number.as_i64()?.to_string()),
        Value::Number(number) if role == Role::Text => Some(number.to_string()),
        Value::Object(fields) => {
            let text = role.text_fields().iter().find_map(|field| fields.get(*field)?.as_str());
            text.map(str::to_string)
        }
        _ => None,
    }
}
