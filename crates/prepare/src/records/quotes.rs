//! A reader that looks at the quotes of CSV as they pass by: the parser behind it takes what a stray one swallows for a value.

use std::io::{self, Read};

/// What is wrong with a quote.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct StrayQuote(String);

/// Where in a row the bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// At the beginning of a value.
    Begin,
    /// In a value without quotes around it.
    Plain,
    /// In a value with quotes around it.
    Quoted,
    /// Behind a quote in such a value: its end, or the first of two.
    Closed,
}

/// Passes bytes on until a quote is not closed, or closed where the value goes on (RFC 4180); then every read is an error that says
/// in which line.
#[derive(Debug)]
pub(super) struct Quotes<R> {
    inner: R,
    separator: u8,
    state: State,
    line: u64,
    opened: u64,
    /// Bytes so far, up to the length of a byte order mark.
    start: usize,
}

impl<R: Read> Quotes<R> {
    pub fn new(inner: R, separator: u8) -> Self {
        Self {
            inner,
            separator,
            state: State::Begin,
            line: 1,
            opened: 1,
            start: 0,
        }
    }

    fn pass(&mut self, byte: u8) -> io::Result<()> {
        const MARK: [u8; 3] = *b"\xef\xbb\xbf";
        if MARK.get(self.start) == Some(&byte) {
            self.start += 1;
            return Ok(());
        }
        self.start = MARK.len();
        let ends_value = byte == self.separator || byte == b'\n' || byte == b'\r';
        self.state = match (self.state, byte) {
            (State::Begin, b'"') => {
                self.opened = self.line;
                State::Quoted
            }
            (State::Quoted, b'"') => State::Closed,
            (State::Closed, b'"') | (State::Quoted, _) => State::Quoted,
            (State::Closed, _) if !ends_value => return Err(self.error("is closed before the value ends")),
            _ if ends_value => State::Begin,
            _ => State::Plain,
        };
        self.line += u64::from(byte == b'\n');
        Ok(())
    }

    fn error(&self, what: &str) -> io::Error {
        let (opened, line) = (self.opened, self.line);
        io::Error::other(StrayQuote(format!(
            "line {line}: the quote that begins a value in line {opened} {what}; a value that begins with a quote has to stand in \
             quotes, those in it doubled"
        )))
    }
}

impl<R: Read> Read for Quotes<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        if read == 0 && !buffer.is_empty() && self.state == State::Quoted {
            return Err(self.error("is not closed"));
        }
        buffer[..read].iter().try_for_each(|byte| self.pass(*byte))?;
        Ok(read)
    }
}
