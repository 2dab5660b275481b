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

/// A number with commas between thousands.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number of bytes for people.
pub fn size(bytes: u64) -> String {
    let units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} bytes"),
        _ => format!("{value:.1} {}", units[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        assert_eq!(
            ["0", "999", "1,000", "12,345,678"].map(str::to_string),
            [0, 999, 1000, 12_345_678].map(grouped)
        );
        assert_eq!(
            [size(1023), size(1024), size(3 << 30)],
            ["1023 bytes", "1.0 KiB", "3.0 GiB"]
        );
    }
}
