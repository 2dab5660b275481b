//! CSV and TSV (RFC 4180): strict about quotes, and no row larger than [`MAX_ROW_BYTES`].
//!
//! The `csv` crate is lenient: it accepts rows of any length, and stray quotes, which can join many lines to one value. [`Rows`]
//! therefore passes it one row at a time, after [`RowReader`] has divided the file into rows and checked their quotes.
//!
//! [`MAX_ROW_BYTES`]: super::MAX_ROW_BYTES

mod quotes;
mod rows;

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use csv::{ByteRecord, Reader, ReaderBuilder, StringRecord, Terminator};

use super::cells::{Cell, Cells, to_record};
use super::columns::{ColumnNames, Positions, Role, TableContents, with_columns};
use super::record::{MAX_ROW_BYTES, Record};
use crate::{PrepareError, Result};
use quotes::Dialect;
use rows::{RowReader, quotes_delimit_values};
use vlct_util::text::counted;
use vlct_util::{at, open_file};

/// A file after its first row.
struct Table {
    path: PathBuf,
    /// The names of the columns: the values of the first row.
    header: StringRecord,
    rows: RowReader,
    parser: Parser,
    /// Whether blanks beside values do not belong to them.
    has_blanks: bool,
}

impl Table {
    /// Opens a file whose values have `separator` between them, or another one if the first line does not have it.
    fn open(path: &Path, separator: u8) -> Result<Self> {
        let io_error = at::<PrepareError>(path);
        let separator = separator_of(open_file(path)?, separator).map_err(&io_error)?;
        let has_quotes = separator != b'\t' || quotes_delimit_values(open_file(path)?, separator).map_err(&io_error)?;
        let mut dialect = Dialect {
            separator,
            has_quotes,
            has_blanks: false,
        };
        let table = Self::with_dialect(path, dialect)?;
        // In `image, caption`, the blank belongs to neither name, and so do the blanks beside the values.
        dialect.has_blanks = table
            .header
            .iter()
            .any(|name| name.starts_with(' ') || name.ends_with(' '));
        if dialect.has_blanks {
            return Self::with_dialect(path, dialect);
        }
        Ok(table)
    }

    fn with_dialect(path: &Path, dialect: Dialect) -> Result<Self> {
        let mut rows = RowReader::new(open_file(path)?, dialect).map_err(at::<PrepareError>(path))?;
        let mut parser = Parser::new(&dialect);
        let mut header = ByteRecord::new();
        let malformed = |reason: &str| PrepareError::malformed(path, reason);
        match rows.advance().map_err(at::<PrepareError>(path))? {
            Some(Ok(row)) => parser.parse(&row.bytes, &mut header),
            Some(Err(reason)) => return Err(malformed(&reason)),
            None => return Err(malformed("it is empty; the first line names the columns")),
        }
        let header = StringRecord::from_byte_record(header);
        Ok(Self {
            path: path.to_path_buf(),
            header: header.map_err(|_| malformed("its first line is not UTF-8; write the file as UTF-8"))?,
            rows,
            parser,
            has_blanks: dialect.has_blanks,
        })
    }

    /// Reads the values of the next row into `values`, and returns its line. The error is of the row, or of the whole file.
    fn advance(&mut self, values: &mut ByteRecord) -> Result<Option<Result<u64>>> {
        let of_row = |reason: String| Ok(Some(Err(PrepareError::malformed_row(&self.path, reason))));
        let row = match self.rows.advance().map_err(at::<PrepareError>(&self.path))? {
            Some(Ok(row)) => row,
            Some(Err(reason)) => return of_row(reason),
            None => return Ok(None),
        };
        self.parser.parse(&row.bytes, values);
        let (line, count, expected) = (row.line, values.len(), self.header.len());
        // A separator at the end of a row is followed by no value.
        let has_more = values.iter().skip(expected).any(|value| !value.trim_ascii().is_empty());
        if count < expected || has_more {
            return of_row(format!(
                "line {line} has {}, the first line {expected}; quote values that hold separators",
                counted(count, "value")
            ));
        }
        Ok(Some(Ok(line)))
    }
}

/// Returns the separator of a file: `usual` if its first line has it outside quotes, or else the most frequent of comma, semicolon and tab.
/// Where the decimal separator is a comma, spreadsheets write CSV with semicolons.
fn separator_of(file: File, usual: u8) -> io::Result<u8> {
    let mut line = Vec::new();
    BufReader::new(file.take(MAX_ROW_BYTES as u64)).read_until(b'\n', &mut line)?;
    let line = line.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let outside_quotes = line.split(|byte| *byte == b'"').step_by(2).flatten();
    let count = |separator: u8| outside_quotes.clone().filter(|byte| **byte == separator).count();
    let others = [b'\t', b';', b','].map(|separator| (count(separator), separator));
    Ok(match others.into_iter().max_by_key(|(count, _)| *count) {
        Some((1.., other)) if count(usual) == 0 => other,
        _ => usual,
    })
}

/// The `csv` crate's parser of single rows.
struct Parser {
    /// The row.
    input: SharedBytes,
    reader: Reader<Input>,
}

/// Bytes, and the position of the next one to read.
type SharedBytes = Rc<RefCell<Cursor<Vec<u8>>>>;

/// A reader of shared bytes.
struct Input(SharedBytes);

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.borrow_mut().read(buffer)
    }
}

impl Parser {
    fn new(dialect: &Dialect) -> Self {
        let input = SharedBytes::default();
        let reader = ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .delimiter(dialect.separator)
            .quoting(dialect.has_quotes)
            .terminator(Terminator::Any(b'\n'))
            .from_reader(Input(input.clone()));
        Self { input, reader }
    }

    /// Parses one row with well-formed quotes, which ends in a line break. The reader therefore reads all of it, and never comes to the
    /// end of its input.
    fn parse(&mut self, row: &[u8], values: &mut ByteRecord) {
        {
            let mut input = self.input.borrow_mut();
            input.set_position(0);
            input.get_mut().clear();
            input.get_mut().extend_from_slice(row);
        }
        if !matches!(self.reader.read_byte_record(values), Ok(true)) {
            values.clear();
        }
    }
}

/// Calls `check` with the columns of a file.
pub(super) fn check_columns<T>(path: &Path, separator: u8, check: impl Fn(&[&str]) -> Result<T, String>) -> Result<T> {
    let table = Table::open(path, separator)?;
    let names: Vec<&str> = table.header.iter().collect();
    check(&names).map_err(|reason| {
        let name = if separator == b',' { "CSV" } else { "TSV" };
        let reason = with_columns(&reason, &names);
        PrepareError::malformed(path, format!("{reason} ({name}: the first line names the columns)"))
    })
}

/// The rows of a file whose first line names the columns. Values that hold separators, quotes or line breaks are quoted, and quotes
/// in them are doubled; in TSV, quotes may also be characters as any other.
pub(super) struct Rows {
    table: Table,
    contents: TableContents,
    positions: Positions,
    values: ByteRecord,
}

impl Rows {
    pub fn open(path: &Path, separator: u8, columns: &ColumnNames, contents: TableContents) -> Result<Self> {
        let table = Table::open(path, separator)?;
        Ok(Self {
            positions: columns.positions(contents, table.header.iter()),
            table,
            contents,
            values: ByteRecord::new(),
        })
    }

    fn parse_record(&self, line: u64) -> Result<Record> {
        let name = |role: Role| match self.positions[role as usize] {
            Some(position) => self.table.header.get(position).unwrap_or_default().to_string(),
            None => String::new(),
        };
        let mut cells = Cells::default();
        for (cell, position) in cells.iter_mut().zip(self.positions) {
            if let Some(bytes) = position.and_then(|position| self.values.get(position)) {
                let bytes = match self.table.has_blanks {
                    true => bytes.trim_ascii(),
                    false => bytes,
                };
                *cell = match std::str::from_utf8(bytes) {
                    Ok(text) => Cell::Text(text.to_string()),
                    Err(_) => Cell::Other("text that is not UTF-8"),
                };
            }
        }
        to_record(self.contents, line, cells, name)
            .map_err(|reason| PrepareError::malformed_row(&self.table.path, format!("line {line}, {reason}")))
    }
}

impl Iterator for Rows {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.table.advance(&mut self.values) {
            Ok(row) => row.map(|line| line.and_then(|line| self.parse_record(line))),
            Err(error) => Some(Err(error)),
        }
    }
}
