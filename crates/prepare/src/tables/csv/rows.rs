//! Divides a file into rows.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

use super::quotes::{Dialect, QuoteError, QuoteState, Quotes};
use crate::tables::record::MAX_ROW_BYTES;

/// Size of the read buffer in bytes.
const BUFFER_BYTES: usize = 1 << 16;

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
///
/// A quote that is not closed makes its row malformed, and the next row begins in the next line. Many such rows can follow each other, so
/// each line is read ahead once for all of them ([`Ahead`]).
#[derive(Debug)]
pub(super) struct RowReader {
    reader: BufReader<File>,
    dialect: Dialect,
    /// The byte at the end of a line.
    line_break: u8,
    ahead: Ahead,
    /// Number of the next line, from 1.
    next_line: u64,
}

/// Lines that were read ahead, to find the end of a quoted value.
#[derive(Debug, Default)]
struct Ahead {
    lines: VecDeque<Line>,
    /// Number of lines at the front in which a value that is quoted at their beginning does not end: they begin and end within quotes.
    inside: usize,
    /// Bytes of these lines.
    inside_bytes: usize,
    /// The last of these lines in which another quote is opened.
    last_opening: u64,
    /// What is wrong with the line after these, if a value is quoted at its beginning.
    reason: Option<QuoteError>,
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
            ahead: Ahead::default(),
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

    /// Reads the remaining lines of a row that begins with `first`, and checks its quotes. If the row is malformed, its other lines are
    /// read again.
    fn finish_row(&mut self, line: u64, first: Vec<u8>) -> io::Result<Result<Row, String>> {
        let mut quotes = Quotes::new(self.dialect, line);
        let mut row = Vec::with_capacity(first.len());
        if let Err(error) = quotes.add(&first, &mut row) {
            return Ok(Err(error.message()));
        }
        if quotes.state == QuoteState::Quoted {
            match self.find_end(first.len())? {
                // The lines are added to the row as they were found, without an error.
                Ok(lines) => {
                    for _ in 0..lines {
                        if let Some(Some(next)) = self.read_line()?
                            && let Err(error) = quotes.add(&next, &mut row)
                        {
                            return Ok(Err(error.message()));
                        }
                    }
                }
                Err(error) => {
                    let quote_line = error.quote_line.max(quotes.quote_line);
                    return Ok(Err(QuoteError { quote_line, ..error }.message()));
                }
            }
        }
        Ok(Ok(Row {
            line,
            bytes: with_line_break(row),
            needs_quotes: quotes.needs_quotes,
        }))
    }

    /// Returns the number of lines after which a value ends that is quoted at the end of a row's first line, of `size` bytes.
    fn find_end(&mut self, size: usize) -> io::Result<Result<usize, QuoteError>> {
        loop {
            let inside = self.ahead.inside;
            let line = self.next_line + inside as u64;
            let quote_line = self.ahead.last_opening;
            let error = |what| QuoteError { quote_line, line, what };
            if let Some(reason) = &self.ahead.reason {
                return Ok(Err(QuoteError {
                    quote_line: reason.quote_line.max(self.ahead.last_opening),
                    ..*reason
                }));
            }
            if inside == self.ahead.lines.len() {
                match self.read_next()? {
                    Some(next) => self.ahead.lines.push_back(next),
                    None => return Ok(Err(error("is not closed"))),
                }
            }
            let too_long = error("is not closed within 16 MiB");
            let Some(Some(next)) = self.ahead.lines.get(inside) else {
                return Ok(Err(too_long));
            };
            if size + self.ahead.inside_bytes + next.len() > MAX_ROW_BYTES {
                return Ok(Err(too_long));
            }
            match Quotes::check_quoted(self.dialect, line, next) {
                Ok(quotes) if quotes.state == QuoteState::Quoted => {
                    self.ahead.inside += 1;
                    self.ahead.inside_bytes += next.len();
                    self.ahead.last_opening = self.ahead.last_opening.max(quotes.quote_line);
                }
                Ok(_) => return Ok(Ok(inside + 1)),
                Err(reason) => self.ahead.reason = Some(reason),
            }
        }
    }

    /// Reads the next line. Returns `None` at the end of the file.
    fn read_line(&mut self) -> io::Result<Option<Line>> {
        let line = match self.ahead.take() {
            Some(line) => line,
            None => match self.read_next()? {
                Some(line) => line,
                None => return Ok(None),
            },
        };
        self.next_line += 1;
        Ok(Some(line))
    }

    /// Reads the line after those that were read ahead. Returns `None` at the end of the file.
    fn read_next(&mut self) -> io::Result<Option<Line>> {
        let mut line = Vec::new();
        let mut limited = Read::take(&mut self.reader, MAX_ROW_BYTES as u64 + 1);
        if limited.read_until(self.line_break, &mut line)? == 0 {
            return Ok(None);
        }
        if line.len() > MAX_ROW_BYTES {
            if line.last() != Some(&self.line_break) {
                self.reader.skip_until(self.line_break)?;
            }
            return Ok(Some(None));
        }
        if self.line_break == b'\r' && line.ends_with(b"\r") {
            line.pop();
            line.push(b'\n');
        }
        Ok(Some(Some(line)))
    }
}

impl Ahead {
    /// Takes the first line.
    fn take(&mut self) -> Option<Line> {
        let line = self.lines.pop_front()?;
        if self.inside > 0 {
            self.inside -= 1;
            self.inside_bytes -= line.as_ref().map_or(0, Vec::len);
        } else {
            // What is known is of this line.
            (self.last_opening, self.reason) = (0, None);
        }
        Some(line)
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

    /// Reads rows as [`RowReader`] does, but reads ahead anew for each row.
    fn rows_read_anew(text: &str, dialect: Dialect) -> Vec<Result<(u64, String), String>> {
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        let mut rows = Vec::new();
        let mut next = 0;
        while let Some(first) = lines.get(next) {
            next += 1;
            if first.trim_matches(['\r', '\n']).is_empty() {
                continue;
            }
            let line = next as u64;
            let (mut quotes, mut row) = (Quotes::new(dialect, line), Vec::new());
            let mut result = quotes.add(first.as_bytes(), &mut row);
            let mut end = next;
            while result.is_ok() && quotes.state == QuoteState::Quoted {
                result = match lines.get(end) {
                    Some(more) => quotes.add(more.as_bytes(), &mut row),
                    None => Err(quotes.error("is not closed")),
                };
                end += 1;
            }
            rows.push(match result {
                Ok(()) => {
                    next = end;
                    Ok((line, String::from_utf8(with_line_break(row)).unwrap()))
                }
                Err(error) => Err(error.message()),
            });
        }
        rows
    }

    #[test]
    fn many_rows_with_open_quotes_are_read_once() {
        // Outside quotes, each line opens one; within quotes, it closes one and opens another. Reading ahead anew for each of 100,000
        // rows would take minutes.
        let line = "00001.png\",\"a dog\n";
        let text = format!("image,caption\n{}", line.repeat(100_000));
        let read = rows(text.as_bytes(), CSV);
        assert_eq!(read.len(), 100_001);
        assert!(read[1..].iter().all(Result::is_err));
        let message = read[1].as_ref().unwrap_err();
        let part = "line 100002: the quote that begins a value in line 100001 is not closed";
        assert!(message.starts_with(part), "{message}");
        // A closed quote at the end makes all lines one row.
        let read = rows(format!("{text}00002.png\",b\n").as_bytes(), CSV);
        assert_eq!(read.len(), 2);
        // A row has at most 16 MiB, here less than the lines before the closed quote.
        let long = format!("{}\",\"{}\n", "x".repeat(1 << 20), "y".repeat(1 << 20)).repeat(12) + "x\",b\n";
        let read = rows(long.as_bytes(), CSV);
        assert_eq!(read.iter().filter(|row| row.is_err()).count(), 5);
        assert_eq!(read[5].as_ref().unwrap().0, 6);
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
        fn reading_ahead_once_gives_the_same_rows(
            text in prop::collection::vec(prop::sample::select(
                &["a", "\"", "\"", "\"\"", ",", "\n", "\n", "\",\"", " ", "x\",\"y\n"][..]), 0..40),
            has_blanks in any::<bool>(),
        ) {
            let text = text.concat();
            let dialect = Dialect { has_blanks, ..CSV };
            prop_assert_eq!(rows(text.as_bytes(), dialect), rows_read_anew(&text, dialect));
        }

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
