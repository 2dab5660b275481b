//! Output of predictions: aligned text, CSV or JSON.

use clap::Args;
use serde_json::{Value, json};
use vlct_predict::{PredictError, Record};

use crate::hints::with_hint;
use crate::output::{Failure, print};
use crate::values::parse_count;
use vlct_util::text::counted;

/// Options of the output.
#[derive(Args)]
pub struct FormatOptions {
    /// Number of answers per input
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = parse_count, help_heading = "Output")]
    pub top_k: usize,
    /// Print one JSON document per input, in the form of the pipelines of Hugging Face
    #[arg(long, conflicts_with = "csv", help_heading = "Output")]
    pub json: bool,
    /// Print comma-separated values with a header
    #[arg(long, help_heading = "Output")]
    pub csv: bool,
}

/// Maximum number of decimals of a percentage.
const MAX_DECIMALS: f32 = 12.0;

/// A value of a column.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// A text.
    Text(String),
    /// A probability, shown as a percentage.
    Probability(f32),
    /// Another number.
    Number(f32),
}

impl Cell {
    /// Formats the value. Probabilities are percentages with `decimals` decimals.
    fn for_people(&self, decimals: usize) -> String {
        match self {
            Self::Text(text) => vlct_util::text::one_line(&text),
            Self::Probability(value) => format!("{:.decimals$} %", 100.0 * value),
            Self::Number(value) => format!("{value:.3}"),
        }
    }

    fn for_csv(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Probability(value) | Self::Number(value) => value.to_string(),
        }
    }

    fn is_number(&self) -> bool {
        !matches!(self, Self::Text(_))
    }
}

/// The answer to one input.
pub struct Answer {
    /// The JSON document.
    pub json: Value,
    /// The rows of the table.
    pub rows: Vec<Vec<Cell>>,
}

impl Answer {
    /// Returns the answer.
    ///
    /// # Errors
    /// Returns [`PredictError::NotFinite`] if a number of the table is not finite.
    fn finite(self) -> Result<Self, PredictError> {
        let is_finite = |cell: &Cell| match cell {
            Cell::Text(_) => true,
            Cell::Probability(value) | Cell::Number(value) => value.is_finite(),
        };
        match self.rows.iter().flatten().all(is_finite) {
            true => Ok(self),
            false => Err(PredictError::NotFinite),
        }
    }
}

/// Returns a number with the shortest digits that give the same f32.
pub fn number(value: f32) -> Value {
    value
        .to_string()
        .parse::<f64>()
        .map_or(Value::Null, |value| json!(value))
}

/// Prints answers in the order of the inputs.
pub struct Printer {
    json: bool,
    csv: bool,
    columns: &'static [&'static str],
    many: bool,
    answered: usize,
    failed: usize,
}

impl Printer {
    /// Makes a printer of answers with these columns. With `many`, every answer names its input, and an error is printed in the place of
    /// the answer.
    pub fn new(options: &FormatOptions, columns: &'static [&'static str], many: bool) -> Result<Self, Failure> {
        let printer = Self {
            json: options.json,
            csv: options.csv,
            columns,
            many,
            answered: 0,
            failed: 0,
        };
        if printer.csv {
            let mut header: Vec<&str> = if many { vec!["images", "text"] } else { Vec::new() };
            header.extend(columns);
            header.extend(many.then_some("error"));
            print(&csv_line(header.iter().map(|name| name.to_string())))?;
        }
        Ok(printer)
    }

    /// Prints the answer to an input, or its error. `input` is the record, or an error if the line was not a record.
    pub fn print(&mut self, input: Option<&Record>, result: Result<Answer, PredictError>) -> Result<(), Failure> {
        let is_first = self.answered + self.failed == 0;
        let answer = match result.and_then(Answer::finite) {
            Ok(answer) => answer,
            Err(error) if !self.many => return Err(error.into()),
            Err(error) => {
                self.failed += 1;
                return print(&self.error(input, &error, is_first));
            }
        };
        self.answered += 1;
        print(&if self.json {
            format!("{}\n", answer.json)
        } else if self.csv {
            let row = |row: &Vec<Cell>| {
                let mut cells = if self.many { input_cells(input) } else { Vec::new() };
                cells.extend(row.iter().map(Cell::for_csv));
                cells.extend(self.many.then(String::new));
                csv_line(cells)
            };
            answer.rows.iter().map(row).collect()
        } else {
            let table = table(&answer.rows, if self.many { "  " } else { "" });
            match self.many {
                true => format!("{}{}\n{table}", separator(is_first), heading(input)),
                false => table,
            }
        })
    }

    fn error(&self, input: Option<&Record>, error: &PredictError, is_first: bool) -> String {
        let message = with_hint(error);
        if self.json {
            let mut document = json!({"error": message});
            if let Some(record) = input {
                document["images"] = record.images.iter().map(|image| image.display().to_string()).collect();
                document["text"] = record.text.clone().into();
            }
            format!("{document}\n")
        } else if self.csv {
            let mut cells = input_cells(input);
            cells.extend(self.columns.iter().map(|_| String::new()));
            cells.push(message);
            csv_line(cells)
        } else {
            let message = vlct_util::text::one_line(&message);
            format!("{}{}\n  error: {message}\n", separator(is_first), heading(input))
        }
    }

    /// Ends the output.
    ///
    /// # Errors
    /// Returns an error if inputs could not be answered.
    pub fn finish(self) -> Result<(), Failure> {
        match self.failed {
            0 if self.many && self.answered == 0 => Err(Failure::Failed("there is no input".into())),
            0 => Ok(()),
            failed => Err(Failure::Failed(format!(
                "{failed} of {} could not be answered; the output has the reasons",
                counted(failed + self.answered, "input")
            ))),
        }
    }
}

/// Returns an empty line between the answers to two inputs.
fn separator(is_first: bool) -> &'static str {
    if is_first { "" } else { "\n" }
}

/// Returns the images and the text of an input in one line.
fn heading(input: Option<&Record>) -> String {
    let Some(record) = input else {
        return "(not an input)".into();
    };
    let mut parts: Vec<String> = record.images.iter().map(|image| image.display().to_string()).collect();
    parts.extend(record.text.clone());
    vlct_util::text::one_line(&parts.join("  "))
}

fn input_cells(input: Option<&Record>) -> Vec<String> {
    let Some(record) = input else {
        return vec![String::new(), String::new()];
    };
    let images: Vec<String> = record.images.iter().map(|image| image.display().to_string()).collect();
    vec![images.join(" "), record.text.clone().unwrap_or_default()]
}

/// Returns the number of decimals of percentages with which the largest probability has two significant digits; at least 1.
fn decimals(rows: &[Vec<Cell>]) -> usize {
    let probability = |cell: &Cell| match cell {
        Cell::Probability(value) => *value,
        Cell::Text(_) | Cell::Number(_) => 0.0,
    };
    let largest = rows.iter().flatten().map(probability).fold(0.0, f32::max);
    if largest <= 0.0 {
        return 1;
    }
    let digits_before = (100.0 * largest).log10().floor();
    (1.0 - digits_before).clamp(1.0, MAX_DECIMALS) as usize
}

/// Aligns columns: texts to the left, numbers to the right.
fn table(rows: &[Vec<Cell>], indent: &str) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let decimals = decimals(rows);
    let text: Vec<Vec<String>> = rows
        .iter()
        .map(|row| row.iter().map(|cell| cell.for_people(decimals)).collect())
        .collect();
    let width = |column: usize| text.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for (row, cells) in text.iter().zip(rows) {
        let aligned: Vec<String> = (row.iter().zip(cells).zip(&widths))
            .map(|((text, cell), width)| match cell.is_number() {
                true => format!("{text:>width$}"),
                false => format!("{text:<width$}"),
            })
            .collect();
        out.push_str(indent);
        out.push_str(aligned.join("  ").trim_end());
        out.push('\n');
    }
    out
}

/// Returns a line of CSV. A value is quoted if it contains a comma, a quote or a line break.
fn csv_line(values: impl IntoIterator<Item = String>) -> String {
    let quoted = |value: String| match value.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", value.replace('"', "\"\"")),
        false => value,
    };
    let values: Vec<String> = values.into_iter().map(quoted).collect();
    format!("{}\n", values.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let row = |name: &str, score: f32| vec![Cell::Text(name.into()), Cell::Probability(score)];
        let rows = [row("yes", 0.125), row("a long answer", 1.0)];
        assert_eq!(table(&rows, ""), "yes             12.5 %\na long answer  100.0 %\n");
        assert_eq!(table(&[], ""), "");
        // If all probabilities are small, they have more digits.
        let small = [row("a", 0.00123), row("b", 0.00001)];
        assert_eq!(table(&small, ""), "a  0.12 %\nb  0.00 %\n");
        let tiny = [row("a", 4.2e-7), row("b", 0.0)];
        assert_eq!(table(&tiny, ""), "a  0.000042 %\nb  0.000000 %\n");
        assert_eq!(table(&[row("a", 0.0)], ""), "a  0.0 %\n");
    }

    #[test]
    fn values_with_commas_and_quotes_are_quoted() {
        let line = csv_line(["plain", "a, b", "say \"x\""].map(String::from));
        assert_eq!(line, "plain,\"a, b\",\"say \"\"x\"\"\"\n");
    }

    #[test]
    fn answers_that_are_not_finite_are_errors() {
        let answer = |value: f32| Answer {
            json: Value::Null,
            rows: vec![vec![Cell::Text("a".into()), Cell::Number(value)]],
        };
        assert!(answer(-3.5).finite().is_ok());
        assert!(answer(f32::NAN).finite().is_err() && answer(f32::INFINITY).finite().is_err());
    }

    #[test]
    fn numbers_have_the_shortest_digits() {
        assert_eq!(number(0.873).to_string(), "0.873");
        assert_eq!(number(1.0).to_string(), "1.0");
        assert_eq!(number(f32::NAN), Value::Null);
    }
}
