//! What the program prints: results on standard output, everything else as one line on standard error.

use std::io::{self, Write};

/// Why a command did not succeed.
#[derive(Debug)]
pub enum Failure {
    /// Something is wrong with the configuration, a file or the machine: exit status 1.
    Failed(String),
    /// The command line itself is wrong: exit status 2.
    Usage(String),
    /// A signal came and the work ended early, with everything saved: this exit status.
    Stopped(u8),
    /// The reader of standard output has gone away (`vlct … | head`).
    ReaderGone,
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Prints to standard output.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Err(Failure::ReaderGone),
        Err(e) => Err(Failure::Failed(format!("standard output: {e}"))),
    }
}

/// Prints one line, `kind: message`, to standard error.
pub fn complain(kind: &str, message: &str) {
    let line = message.split('\n').map(str::trim).collect::<Vec<_>>().join(" ");
    // Nothing can be done if standard error is closed too.
    let _ = writeln!(io::stderr(), "{kind}: {line}");
}

/// Prints a line about the work to standard error.
pub fn tell(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}
