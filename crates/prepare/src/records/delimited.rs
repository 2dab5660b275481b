//! CSV and TSV.

use std::fs::File;
use std::path::{Path, PathBuf};

use csv::{ByteRecord, ErrorKind, Reader, ReaderBuilder, StringRecord};

use super::columns::{Cell, Cells, Columns, Positions, Role, record};
use super::metered::{Allowance, Metered};
use super::quotes::{Quotes, StrayQuote};
use super::{MAX_ROW, Record, format_error, open_file};
use crate::{DataError, Result};

/// The rows of a file whose first line names the columns. Values with separators, quotes or line breaks stand in double
/// quotes, quotes in them are doubled (RFC 4180).
pub(super) struct Rows {
    path: PathBuf,
    reader: Reader<Metered<Quotes<File>>>,
    allowance: Allowance,
    header: StringRecord,
    positions: Positions,
    row: ByteRecord,
}

impl Rows {
    pub fn open(path: &Path, separator: u8, columns: &Columns) -> Result<Self> {
        let (file, allowance) = Metered::new(Quotes::new(open_file(path)?, separator));
        let mut reader = ReaderBuilder::new().delimiter(separator).from_reader(file);
        allowance.renew(MAX_ROW);
        let header = reader.headers().cloned().map_err(|error| explain(path, &error))?;
        let positions = columns.find(header.iter()).map_err(|reason| {
            let name = if separator == b',' { "CSV" } else { "TSV" };
            format_error(path, format!("{reason} ({name}: the first line names the columns)"))
        })?;
        Ok(Self {
            path: path.to_path_buf(),
            reader,
            allowance,
            header,
            positions,
            row: ByteRecord::new(),
        })
    }

    fn record(&self) -> Result<Record> {
        let line = self.row.position().map_or(0, |position| position.line());
        let name = |role: Role| match self.positions[role as usize] {
            Some(position) => self.header.get(position).unwrap_or_default().to_string(),
            None => String::new(),
        };
        let mut cells = Cells::default();
        for (cell, position) in cells.iter_mut().zip(self.positions) {
            if let Some(bytes) = position.and_then(|position| self.row.get(position)) {
                *cell = match std::str::from_utf8(bytes) {
                    Ok(text) => Cell::Text(text.to_string()),
                    Err(_) => Cell::Other("text that is not UTF-8"),
                };
            }
        }
        record(cells, name).map_err(|reason| format_error(&self.path, format!("line {line}, {reason}")))
    }
}

impl Iterator for Rows {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        self.allowance.renew(MAX_ROW);
        match self.reader.read_byte_record(&mut self.row) {
            Ok(true) => Some(self.record()),
            Ok(false) => None,
            Err(error) => Some(Err(explain(&self.path, &error))),
        }
    }
}

fn explain(path: &Path, error: &csv::Error) -> DataError {
    let reason = match error.kind() {
        ErrorKind::UnequalLengths { pos, expected_len, len } => {
            let line = pos.as_ref().map_or(0, |position| position.line());
            format!("line {line} has {len} values, the first line {expected_len}; quote values that hold separators")
        }
        ErrorKind::Utf8 { .. } => "its first line is not UTF-8; write the file as UTF-8".into(),
        ErrorKind::Io(error) if error.get_ref().is_some_and(|error| error.is::<StrayQuote>()) => error.to_string(),
        ErrorKind::Io(_) => format!("it cannot be read ({error}; a quote that is not closed makes a row too long)"),
        _ => format!("it cannot be read: {error}"),
    };
    format_error(path, reason)
}
