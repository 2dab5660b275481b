//! JSONL: one JSON object per line.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::columns::{Cell, Cells, ColumnNames, Role, to_record};
use super::record::{MAX_ROW_BYTES, Record};
use crate::{PrepareError, Result};
use vlct_util::{at, open_file};

/// The objects of a file. Blank lines are skipped.
pub(super) struct Lines {
    path: PathBuf,
    reader: BufReader<File>,
    columns: ColumnNames,
    line: Vec<u8>,
    line_number: u64,
    /// For each role, whether any object has a key for it.
    seen_roles: [bool; 6],
    /// The error of the first object that lacks a necessary key. It is returned at the end of the file unless another object has the key.
    missing_key: Option<PrepareError>,
}

impl Lines {
    pub fn open(path: &Path, columns: &ColumnNames) -> Result<Self> {
        Ok(Self {
            path: path.to_path_buf(),
            reader: BufReader::new(open_file(path)?),
            columns: columns.clone(),
            line: Vec::new(),
            line_number: 0,
            seen_roles: [false; 6],
            missing_key: None,
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
                return Err(self.error("is too long; a line is one object, of at most 16 MiB"));
            }
            if self.line_number == 1 && self.line.starts_with(b"\xef\xbb\xbf") {
                self.line.drain(..3);
            }
            if read == 0 || !self.line.trim_ascii().is_empty() {
                return Ok(read > 0);
            }
        }
    }

    fn parse_record(&mut self) -> Result<Record> {
        let object: Map<String, Value> = serde_json::from_slice(&self.line).map_err(|error| {
            let hint = match self.line.trim_ascii_start() {
                [b'[', ..] => "; the file is a list: write each of its objects on a line, with jq -c '.[]' for example",
                _ => "",
            };
            self.error(&format!("is not a JSON object ({error}){hint}"))
        })?;
        let names = object.keys().map(String::as_str);
        let positions = self.columns.positions(names.clone());
        if let Err(reason) = self.columns.check(&positions, names) {
            let error = self.error(&format!(": {reason}"));
            if positions[Role::Image as usize].is_none() {
                return Err(error);
            }
            self.missing_key.get_or_insert(error);
        }
        for (seen, position) in self.seen_roles.iter_mut().zip(positions) {
            *seen |= position.is_some();
        }
        let name = |role: Role| {
            let position = positions[role as usize];
            position
                .and_then(|position| object.keys().nth(position))
                .cloned()
                .unwrap_or_default()
        };
        let mut cells = Cells::default();
        for (cell, position) in cells.iter_mut().zip(positions) {
            if let Some(value) = position.and_then(|position| object.values().nth(position)) {
                *cell = value_cell(value);
            }
        }
        to_record(cells, name).map_err(|reason| self.error(&format!(", {reason}")))
    }

    fn error(&self, reason: &str) -> PrepareError {
        let space = if reason.starts_with([',', ':']) { "" } else { " " };
        PrepareError::malformed(&self.path, format!("line {}{space}{reason}", self.line_number))
    }
}

impl Iterator for Lines {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.advance() {
            Ok(true) => Some(self.parse_record()),
            Ok(false) => {
                let missing_key = self.missing_key.take()?;
                (!self.columns.necessary_columns_exist(self.seen_roles)).then_some(Err(missing_key))
            }
            Err(error) => Some(Err(error)),
        }
    }
}

fn value_cell(value: &Value) -> Cell {
    match value {
        Value::Null => Cell::Null,
        Value::String(text) => Cell::Text(text.clone()),
        Value::Number(number) => number
            .as_i64()
            .map_or(Cell::Other("a number that is not an integer"), Cell::Number),
        Value::Array(items) => {
            let texts: Option<Vec<String>> = items.iter().map(|item| item.as_str().map(str::to_string)).collect();
            texts.map_or(Cell::Other("a list whose items are not texts"), Cell::Texts)
        }
        Value::Bool(_) => Cell::Other("true or false"),
        Value::Object(_) => Cell::Other("an object"),
    }
}
