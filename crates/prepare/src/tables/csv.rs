//! CSV and TSV (RFC 4180): strict about quotes, and no row larger than [`MAX_ROW_BYTES`].
//!
//! The `csv` crate is lenient: it accepts rows of any length, and stray quotes, which can join many lines to one value.
//! [`StrictQuotes`] and [`LimitedReader`] therefore check the bytes before the crate parses them.

use std::cell::Cell as StdCell;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use csv::{ByteRecord, ErrorKind, Reader, ReaderBuilder, StringRecord};

use super::cells::{Cell, Cells, to_record};
use super::columns::{ColumnNames, Positions, Role, TableContents, with_columns};
use super::record::{MAX_ROW_BYTES, Record};
use crate::{PrepareError, Result};
use vlct_util::open_file;

type LimitedFile = LimitedReader<StrictQuotes<File>>;

/// Returns the columns of a file, and its reader after the first line.
fn open_reader(path: &Path, separator: u8) -> Result<(StringRecord, Reader<LimitedFile>, Allowance)> {
    let (file, allowance) = LimitedReader::new(StrictQuotes::new(open_file(path)?, separator));
    let mut reader = ReaderBuilder::new().delimiter(separator).from_reader(file);
    allowance.set(MAX_ROW_BYTES);
    let header = reader.headers().cloned().map_err(|error| csv_error(path, &error))?;
    Ok((header, reader, allowance))
}

/// Calls `check` with the columns of a file.
pub(super) fn check_columns<T>(path: &Path, separator: u8, check: impl Fn(&[&str]) -> Result<T, String>) -> Result<T> {
    let (header, _, _) = open_reader(path, separator)?;
    let names: Vec<&str> = header.iter().collect();
    check(&names).map_err(|reason| {
        let name = if separator == b',' { "CSV" } else { "TSV" };
        let reason = with_columns(&reason, &names);
        PrepareError::malformed(path, format!("{reason} ({name}: the first line names the columns)"))
    })
}

/// The rows of a file whose first line names the columns. Values that hold separators, quotes or line breaks are quoted, and quotes
/// in them are doubled.
pub(super) struct Rows {
    path: PathBuf,
    reader: Reader<LimitedFile>,
    allowance: Allowance,
    header: StringRecord,
    contents: TableContents,
    positions: Positions,
    row: ByteRecord,
}

impl Rows {
    pub fn open(path: &Path, separator: u8, columns: &ColumnNames, contents: TableContents) -> Result<Self> {
        let (header, reader, allowance) = open_reader(path, separator)?;
        Ok(Self {
            path: path.to_path_buf(),
            positions: columns.positions(contents, header.iter()),
            reader,
            allowance,
            header,
            contents,
            row: ByteRecord::new(),
        })
    }

    fn parse_record(&self) -> Result<Record> {
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
        to_record(self.contents, line, cells, name)
            .map_err(|reason| PrepareError::malformed(&self.path, format!("line {line}, {reason}")))
    }
}

impl Iterator for Rows {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        self.allowance.set(MAX_ROW_BYTES);
        match self.reader.read_byte_record(&mut self.row) {
            Ok(true) => Some(self.parse_record()),
            Ok(false) => None,
            Err(error) => Some(Err(csv_error(&self.path, &error))),
        }
    }
}

fn csv_error(path: &Path, error: &csv::Error) -> PrepareError {
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
    PrepareError::malformed(path, reason)
}

/// The error of a quote that is not closed, or is closed in the middle of a value.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct StrayQuote(String);

/// The position of the next byte relative to quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum QuoteState {
    /// At the beginning of a value.
    Begin,
    /// In an unquoted value.
    Plain,
    /// In a quoted value.
    Quoted,
    /// After a quote in a quoted value: the value ends, or another quote follows.
    Closed,
}

/// A reader that passes bytes through. For a stray quote, it returns a [`StrayQuote`] error, which names the line.
#[derive(Debug)]
struct StrictQuotes<R> {
    inner: R,
    separator: u8,
    state: QuoteState,
    line: u64,
    /// Line of the last opening quote.
    quote_line: u64,
    /// Number of bytes of the byte order mark that were read. From the first other byte on, it is the length of the mark.
    mark_bytes: usize,
}

impl<R: Read> StrictQuotes<R> {
    fn new(inner: R, separator: u8) -> Self {
        Self {
            inner,
            separator,
            state: QuoteState::Begin,
            line: 1,
            quote_line: 1,
            mark_bytes: 0,
        }
    }

    /// Updates the state with the next byte.
    fn advance(&mut self, byte: u8) -> io::Result<()> {
        const MARK: [u8; 3] = *b"\xef\xbb\xbf";
        if MARK.get(self.mark_bytes) == Some(&byte) {
            self.mark_bytes += 1;
            return Ok(());
        }
        self.mark_bytes = MARK.len();
        let ends_value = byte == self.separator || byte == b'\n' || byte == b'\r';
        self.state = match (self.state, byte) {
            (QuoteState::Begin, b'"') => {
                self.quote_line = self.line;
                QuoteState::Quoted
            }
            (QuoteState::Quoted, b'"') => QuoteState::Closed,
            (QuoteState::Closed, b'"') | (QuoteState::Quoted, _) => QuoteState::Quoted,
            (QuoteState::Closed, _) if !ends_value => return Err(self.error("is closed before the value ends")),
            _ if ends_value => QuoteState::Begin,
            _ => QuoteState::Plain,
        };
        self.line += u64::from(byte == b'\n');
        Ok(())
    }

    fn error(&self, what: &str) -> io::Error {
        let (quote_line, line) = (self.quote_line, self.line);
        io::Error::other(StrayQuote(format!(
            "line {line}: the quote that begins a value in line {quote_line} {what}; quote a value that begins with a quote, and double \
             the quotes in it"
        )))
    }
}

impl<R: Read> Read for StrictQuotes<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        if read == 0 && !buffer.is_empty() && self.state == QuoteState::Quoted {
            return Err(self.error("is not closed"));
        }
        buffer[..read].iter().try_for_each(|byte| self.advance(*byte))?;
        Ok(read)
    }
}

/// The number of bytes that a [`LimitedReader`] may still read.
#[derive(Clone, Debug)]
struct Allowance(Rc<StdCell<usize>>);

impl Allowance {
    fn set(&self, bytes: usize) {
        self.0.set(bytes);
    }
}

/// A reader whose reads fail once the allowance is used up.
#[derive(Debug)]
struct LimitedReader<R> {
    inner: R,
    allowance: Allowance,
}

impl<R: Read> LimitedReader<R> {
    /// Returns a reader with an allowance of 0 bytes, and the handle that sets the allowance.
    fn new(inner: R) -> (Self, Allowance) {
        let allowance = Allowance(Rc::new(StdCell::new(0)));
        let reader = Self {
            inner,
            allowance: allowance.clone(),
        };
        (reader, allowance)
    }
}

impl<R: Read> Read for LimitedReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let remaining = self.allowance.0.get();
        if remaining == 0 && !buffer.is_empty() {
            return Err(io::Error::other("a row is too long"));
        }
        let length = buffer.len().min(remaining);
        let read = self.inner.read(&mut buffer[..length])?;
        self.allowance.set(remaining - read);
        Ok(read)
    }
}
