//! Checks the quotes of rows.

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

/// The position of the next byte relative to quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QuoteState {
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
pub(super) struct Quotes {
    dialect: Dialect,
    pub state: QuoteState,
    line: u64,
    /// Line of the last opening quote.
    pub quote_line: u64,
    /// Whether quotes delimit a value with a separator or a line break.
    pub needs_quotes: bool,
}

/// A quote that is not closed, or not at the end of its value.
#[derive(Clone, Copy, Debug)]
pub(super) struct QuoteError {
    /// Line of the opening quote.
    pub quote_line: u64,
    /// Line in which it should be closed.
    pub line: u64,
    /// What is wrong with it.
    pub what: &'static str,
}

impl QuoteError {
    /// Returns the reason why a row is malformed.
    pub fn message(&self) -> String {
        let Self { quote_line, line, what } = self;
        format!(
            "line {line}: the quote that begins a value in line {quote_line} {what}; quote a value that begins with a quote, and double \
             the quotes in it"
        )
    }
}

impl Quotes {
    /// Begins a row at `line`.
    pub fn new(dialect: Dialect, line: u64) -> Self {
        Self {
            dialect,
            state: QuoteState::Begin,
            line,
            quote_line: line,
            needs_quotes: false,
        }
    }

    /// Checks the next line of the row, and appends it to `row`, without blanks that do not belong to values.
    pub fn add(&mut self, line: &[u8], row: &mut Vec<u8>) -> Result<(), QuoteError> {
        self.for_each(line, |byte| row.push(byte))
    }

    /// Checks a line that begins within a quoted value.
    pub fn check_quoted(dialect: Dialect, number: u64, line: &[u8]) -> Result<Self, QuoteError> {
        let mut quotes = Self {
            state: QuoteState::Quoted,
            quote_line: 0,
            ..Self::new(dialect, number)
        };
        quotes.for_each(line, |_| {})?;
        Ok(quotes)
    }

    fn for_each(&mut self, line: &[u8], mut action: impl FnMut(u8)) -> Result<(), QuoteError> {
        for byte in line {
            if self.state == QuoteState::Begin && *byte == b' ' && self.dialect.has_blanks {
                continue;
            }
            self.advance(*byte)?;
            action(*byte);
        }
        self.line += 1;
        Ok(())
    }

    fn advance(&mut self, byte: u8) -> Result<(), QuoteError> {
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

    /// Returns an error about the last opening quote.
    pub fn error(&self, what: &'static str) -> QuoteError {
        QuoteError {
            quote_line: self.quote_line,
            line: self.line,
            what,
        }
    }
}
