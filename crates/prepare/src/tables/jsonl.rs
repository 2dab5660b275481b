//! JSONL: one JSON object per line.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::cells::{Cell, Cells, to_record};
use super::columns::{ColumnNames, Role, TableContents, with_columns};
use super::record::{MAX_ROW_BYTES, Record};
use crate::{PrepareError, Result};
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
/// returns false are left out.
///
/// # Errors
/// Returns an error if a line is not a JSON object, and the error of `check`. There is no such error if the file has no object.
pub(super) fn check_columns<T>(
    path: &Path,
    is_used: impl Fn(&str) -> bool,
    check: impl Fn(&[&str]) -> Result<T, String>,
) -> Result<Option<T>> {
    let mut reader = LineReader::open(path)?;
    let mut keys: BTreeSet<String> = BTreeSet::new();
    let mut first: Option<(u64, Vec<String>)> = None;
    while reader.advance()? {
        let object: BTreeMap<String, IgnoredAny> = reader.parse()?;
        first.get_or_insert_with(|| (reader.line_number, object.keys().cloned().collect()));
        for key in object.into_keys() {
            if !keys.contains(&key) && is_used(&key) {
                keys.insert(key);
            }
        }
    }
    let Some((line, first_keys)) = first else {
        return Ok(None);
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

    /// Reads the next line that is not blank. Returns false at the end of the file.
    fn advance(&mut self) -> Result<bool> {
        loop {
            self.line.clear();
            self.line_number += 1;
            let mut limited = Read::take(&mut self.reader, MAX_ROW_BYTES as u64 + 1);
            let read = limited
                .read_until(b'\n', &mut self.line)
                .map_err(at::<PrepareError>(&self.path))?;
            if read > MAX_ROW_BYTES {
                return Err(self.error(" is too long; a line is one object, of at most 16 MiB"));
            }
            if self.line_number == 1 && self.line.starts_with(b"\xef\xbb\xbf") {
                self.line.drain(..3);
            }
            if read == 0 || !self.line.trim_ascii().is_empty() {
                return Ok(read > 0);
            }
        }
    }

    /// Parses the line as a JSON object.
    fn parse<'a, T: Deserialize<'a>>(&'a self) -> Result<T> {
        serde_json::from_slice(&self.line).map_err(|error| {
            let hint = match self.line.trim_ascii_start() {
                [b'[', ..] => "; the file is a list: write each of its objects on a line, with jq -c '.[]' for example",
                _ => "",
            };
            self.error(&format!(" is not a JSON object ({error}){hint}"))
        })
    }

    fn error(&self, reason: &str) -> PrepareError {
        PrepareError::malformed(&self.path, format!("line {}{reason}", self.line_number))
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
        let object: Map<String, Value> = self.reader.parse()?;
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
            Ok(true) => Some(self.parse_record()),
            Ok(false) => None,
            Err(error) => Some(Err(error)),
        }
    }
}

fn value_cell(role: Role, value: &Value) -> Cell {
    match value {
        Value::Null => Cell::Null,
        Value::String(text) => Cell::Text(text.clone()),
        Value::Number(number) => number
            .as_i64()
            .map_or(Cell::Other("a number that is not an integer"), Cell::Number),
        Value::Array(items) => {
            let texts: Option<Vec<String>> = items.iter().map(|item| item_text(role, item)).collect();
            texts.map_or(Cell::Other("a list whose items are not texts"), Cell::Texts)
        }
        Value::Bool(truth) => Cell::Truth(*truth),
        Value::Object(_) => Cell::Other("an object"),
    }
}

/// Returns the text of an item of a list. The items of lists of labels may also be integers.
fn item_text(role: Role, item: &Value) -> Option<String> {
    match item {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) if role == Role::Label => Some(number.as_i64()?.to_string()),
        _ => None,
    }
}
