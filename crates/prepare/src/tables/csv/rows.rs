//! Divides a file into rows, and checks their quotes.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

use crate::tables::record::MAX_ROW_BYTES;

/// Size of the read buffer in bytes.
const BUFFER_BYTES: usize = 1 << 16;

/// How values are written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dialect {
    /// The separator of values.
    pub separator: u8,
    /// Whether quotes at the beginning and the end of a value delimit it.
    pub has_quotes: bool,
    /// Whether values begin after the blanks that follow a separator.
    pub has_blanks: bool,
}

/// A row.
#[derive(Debug)]
pub(super) struct Row {
    /// Its first line, from 1.
    pub line: u64,
    /// Its bytes. The last one, and only the last one outside quotes, is a line break.
    pub bytes: Vec<u8>,
    /// Whether quotes delimit a value with a separator or a line break.
    pub needs_quotes: bool,
}

/// A line of the file with its line break, or `None` if it is longer than a row may be.
type Line = Option<Vec<u8>>;

/// A reader of the rows of a file. Empty lines are skipped.
#[derive(Debug)]
pub(super) struct RowReader {
    reader: BufReader<File>,
    dialect: Dialect,
    /// The byte at the end of a line.
    line_break: u8,
    /// Lines that were read and given back.
    ahead: VecDeque<Line>,
    /// Number of the next line, from 1.
    next_line: u64,
}

impl RowReader {
    pub fn new(file: File, dialect: Dialect) -> io::Result<Self> {
        let mut reader = BufReader::with_capacity(BUFFER_BYTES, file);
        let first = reader.fill_buf()?;
        let has_mark = first.starts_with(b"\xef\xbb\xbf");
        // Programs for old versions of macOS end lines in a carriage return alone.
        let line_break = if first.contains(&b'\r') && !first.contains(&b'\n') {
            b'\r'
        } else {
            b'\n'
        };
        if has_mark {
            reader.consume(3);
        }
        Ok(Self {
            reader,
            dialect,
            line_break,
            ahead: VecDeque::new(),
            next_line: 1,
        })
    }

    /// Reads the next row; the reason if it is malformed. After a malformed row, reading continues in the line after its first line.
    /// Returns `None` at the end of the file.
    pub fn advance(&mut self) -> io::Result<Option<Result<Row, String>>> {
        loop {
            let line = self.next_line;
            let Some(first) = self.read_line()? else {
                return Ok(None);
            };
            let Some(bytes) = first else {
                return Ok(Some(Err(format!("line {line} is too long; a row has at most 16 MiB"))));
            };
            if bytes.iter().all(|byte| matches!(byte, b'\r' | b'\n')) {
                continue;
            }
            let has_quote = self.dialect.has_quotes && bytes.contains(&b'"');
            if has_quote || self.dialect.has_blanks {
                return self.finish_row(line, bytes).map(Some);
            }
            return Ok(Some(Ok(Row {
                line,
                bytes: with_line_break(bytes),
                needs_quotes: false,
            })));
        }
    }

    /// Reads the remaining lines of a row that begins with `first`, and checks its quotes.
    fn finish_row(&mut self, line: u64, first: Vec<u8>) -> io::Result<Result<Row, String>> {
        let mut quotes = Quotes::new(self.dialect, line);
        let mut row = Vec::with_capacity(first.len());
        let mut size = first.len();
        let mut result = quotes.add(&first, &mut row);
        let mut lines: Vec<Line> = Vec::new();
        while result.is_ok() && quotes.state == QuoteState::Quoted {
            result = match self.read_line()? {
                Some(Some(next)) if size + next.len() <= MAX_ROW_BYTES => {
                    size += next.len();
                    let result = quotes.add(&next, &mut row);
                    lines.push(Some(next));
                    result
                }
                Some(too_long) => {
                    lines.push(too_long);
                    Err(quotes.error("is not closed within 16 MiB"))
                }
                None => Err(quotes.error("is not closed")),
            };
        }
        Ok(match result {
            Ok(()) => Ok(Row {
                line,
                bytes: with_line_break(row),
                needs_quotes: quotes.needs_quotes,
            }),
            Err(reason) => {
                lines.into_iter().rev().for_each(|line| self.ahead.push_front(line));
                self.next_line = line + 1;
                Err(reason)
            }
        })
    }

    /// Reads the next line. Returns `None` at the end of the file.
    fn read_line(&mut self) -> io::Result<Option<Line>> {
        let line = match self.ahead.pop_front() {
            Some(line) => line,
            None => {
                let mut line = Vec::new();
                let mut limited = Read::take(&mut self.reader, MAX_ROW_BYTES as u64 + 1);
                if limited.read_until(self.line_break, &mut line)? == 0 {
                    return Ok(None);
                }
                if line.len() <= MAX_ROW_BYTES {
                    if self.line_break == b'\r' && line.ends_with(b"\r") {
                        line.pop();
                        line.push(b'\n');
                    }
                    Some(line)
                } else {
                    if line.last() != Some(&self.line_break) {
                        self.reader.skip_until(self.line_break)?;
                    }
                    None
                }
            }
        };
        self.next_line += 1;
        Ok(Some(line))
    }
}

/// Ends a row in `\n` instead of `\r\n` or the end of the file.
fn with_line_break(mut row: Vec<u8>) -> Vec<u8> {
    if row.ends_with(b"\n") {
        row.pop();
    }
    if row.ends_with(b"\r") {
        row.pop();
    }
    row.push(b'\n');
    row
}

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

/// A check of the quotes of a row.
struct Quotes {
    dialect: Dialect,
    state: QuoteState,
    line: u64,
    /// Line of the last opening quote.
    quote_line: u64,
    needs_quotes: bool,
}

impl Quotes {
    fn new(dialect: Dialect, line: u64) -> Self {
        Self {
            dialect,
            state: QuoteState::Begin,
            line,
            quote_line: line,
            needs_quotes: false,
        }
    }

    /// Checks the next line of the row, and appends it to `row`, without blanks that do not belong to values.
    fn add(&mut self, line: &[u8], row: &mut Vec<u8>) -> Result<(), String> {
        for byte in line {
            if self.state == QuoteState::Begin && *byte == b' ' && self.dialect.has_blanks {
                continue;
            }
            self.advance(*byte)?;
            row.push(*byte);
        }
        self.line += 1;
        Ok(())
    }

    fn advance(&mut self, byte: u8) -> Result<(), String> {
        let is_separator = byte == self.dialect.separator;
        let ends_value = is_separator || byte == b'\n' || byte == b'\r';
        self.needs_quotes |= self.state == QuoteState::Quoted && ends_value;
        self.state = match (self.state, byte) {
            (QuoteState::Begin, b'"') if self.dialect.has_quotes => {
                self.quote_line = self.line;
                QuoteState::Quoted
            }
            (QuoteState::Quoted, b'"') => QuoteState::Closed,
            (QuoteState::Closed, b'"') | (QuoteState::Quoted, _) => QuoteState::Quoted,
            (QuoteState::Closed, b' ') if self.dialect.has_blanks => QuoteState::Closed,
            (QuoteState::Closed, _) if !ends_value => return Err(self.error("is closed before the value ends")),
            _ if ends_value => QuoteState::Begin,
            _ => QuoteState::Plain,
        };
        Ok(())
    }

    fn error(&self, what: &str) -> String {
        let (quote_line, line) = (self.quote_line, self.line);
        format!(
            "line {line}: the quote that begins a value in line {quote_line} {what}; quote a value that begins with a quote, and double \
             the quotes in it"
        )
    }
}

/// Returns whether quotes delimit values in a file. They do not if a row is malformed with quotes, or if quotes join values although
/// every line has as many values as the first one without them.
pub(super) fn quotes_delimit_values(file: File, separator: u8) -> io::Result<bool> {
    let dialect = Dialect {
        separator,
        has_quotes: true,
        has_blanks: false,
    };
    let mut rows = RowReader::new(file, dialect)?;
    let separators = |line: &[u8]| line.iter().filter(|byte| **byte == separator).count();
    let (mut expected, mut needs_quotes, mut is_regular) = (None, false, true);
    while let Some(row) = rows.advance()? {
        let Ok(row) = row else { return Ok(false) };
        needs_quotes |= row.needs_quotes;
        let lines = row.bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        for count in lines.map(separators) {
            is_regular &= count == *expected.get_or_insert(count);
        }
    }
    Ok(!(needs_quotes && is_regular))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file.reopen().unwrap()
    }

    fn rows(bytes: &[u8], dialect: Dialect) -> Vec<Result<(u64, String), String>> {
        let mut reader = RowReader::new(file(bytes), dialect).unwrap();
        let mut rows = Vec::new();
        while let Some(row) = reader.advance().unwrap() {
            rows.push(row.map(|row| (row.line, String::from_utf8_lossy(&row.bytes).into_owned())));
        }
        rows
    }

    const CSV: Dialect = Dialect {
        separator: b',',
        has_quotes: true,
        has_blanks: false,
    };

    #[test]
    fn a_stray_quote_costs_its_line_only() {
        let read = rows(
            b"a,b\n\n1,\"x\ny\"\n2,\"x\n3,\"y\"\n4,\"x\" z\n5,q\"r\n6,\"open\n7,end",
            CSV,
        );
        let good = |line, text: &str| Ok((line, text.to_string()));
        let bad = |text: &str| Err::<(u64, String), _>(text.to_string());
        let advice = "quote a value that begins with a quote, and double the quotes in it";
        assert_eq!(
            read,
            [
                good(1, "a,b\n"),
                good(3, "1,\"x\ny\"\n"),
                bad(&format!(
                    "line 6: the quote that begins a value in line 5 is closed before the value ends; {advice}"
                )),
                good(6, "3,\"y\"\n"),
                bad(&format!(
                    "line 7: the quote that begins a value in line 7 is closed before the value ends; {advice}"
                )),
                good(8, "5,q\"r\n"),
                bad(&format!(
                    "line 11: the quote that begins a value in line 9 is not closed; {advice}"
                )),
                good(10, "7,end\n"),
            ]
        );
    }

    #[test]
    fn reads_other_line_breaks_and_blanks_after_separators() {
        let lines = |rows: Vec<Result<(u64, String), String>>| -> Vec<String> {
            rows.into_iter().map(|row| row.unwrap().1).collect()
        };
        assert_eq!(lines(rows(b"\xef\xbb\xbfa,b\r\n\r\n1,2", CSV)), ["a,b\n", "1,2\n"]);
        assert_eq!(
            lines(rows(b"a,b\r1,\"x\ry\"\r\r2,3\r", CSV)),
            ["a,b\n", "1,\"x\ny\"\n", "2,3\n"]
        );
        let blanks = Dialect {
            has_blanks: true,
            ..CSV
        };
        assert_eq!(
            lines(rows(b"a, b\n1,  \"x, y\" \n2, z w\n", blanks)),
            ["a,b\n", "1,\"x, y\" \n", "2,z w\n"]
        );
    }

    #[test]
    fn rows_that_are_too_long_are_malformed() {
        let long = [b"a,b\n".to_vec(), vec![b'x'; MAX_ROW_BYTES + 5], b"\n1,2\n".to_vec()].concat();
        let read = rows(&long, CSV);
        assert_eq!(read.len(), 3);
        assert!(read[1].as_ref().unwrap_err().starts_with("line 2 is too long"));
        assert_eq!(read[2], Ok((3, "1,2\n".into())));
        let open = [b"a,\"b\n".to_vec(), b"1,2\n".repeat(MAX_ROW_BYTES / 4)].concat();
        let read = rows(&open, CSV);
        assert!(read[0].as_ref().unwrap_err().contains("is not closed within 16 MiB"));
        assert_eq!(read.len(), 1 + MAX_ROW_BYTES / 4);
    }

    #[test]
    fn quotes_of_tsv_delimit_values_only_if_all_are_well_formed() {
        for (text, expected) in [
            ("a\tb\n1\t2\n", true),
            ("a\tb\n1\t\"x\"\"y\"\n", true),
            ("a\tb\n1\t\"x\ty\"\n", true),
            ("a\tb\n1\t\"x\ny\"\n", true),
            ("a\tb\n1\t\"x\" y\n", false),
            ("a\tb\n1\t\"x\n2\ty\n", false),
            // Each line has two values, so the second quote does not close the first one.
            ("a\tb\n1\t\"x\n2\ty\n3\tz\"\n", false),
        ] {
            assert_eq!(
                quotes_delimit_values(file(text.as_bytes()), b'\t').unwrap(),
                expected,
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn every_line_is_in_a_row_or_malformed(bytes in prop::collection::vec(
            prop::sample::select(&b"a\",\n\r "[..]), 0..80), has_quotes in any::<bool>(), has_blanks in any::<bool>()) {
            let read = rows(&bytes, Dialect { has_quotes, has_blanks, ..CSV });
            prop_assert!(read.len() <= bytes.len());
            let lines: Vec<u64> = read.iter().filter_map(|row| Some(row.as_ref().ok()?.0)).collect();
            prop_assert!(lines.is_sorted());
            for (_, row) in read.into_iter().flatten() {
                prop_assert!(row.ends_with('\n'));
                prop_assert!(has_quotes || row.matches('\n').count() == 1);
            }
        }
    }
}
