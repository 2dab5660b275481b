//! The rows of tables of all formats.

use std::fmt;

/// Maximum size in bytes of a row of a text file.
pub const MAX_ROW_BYTES: usize = 16 << 20;

/// File formats of tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableFormat {
    /// A JSON object per line.
    Jsonl,
    /// Comma-separated values; the first line names the columns.
    Csv,
    /// Tab-separated values; the first line names the columns.
    Tsv,
    /// Apache Parquet.
    Parquet,
}

impl TableFormat {
    /// Returns the name of a row in messages: its line, or its index in a Parquet file.
    pub fn row_name(self, row: u64) -> String {
        match self {
            Self::Jsonl | Self::Csv | Self::Tsv => format!("line {row}"),
            Self::Parquet => format!("row {row}"),
        }
    }

    /// Returns the extension of file names, without a dot.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Jsonl => "jsonl",
            Self::Csv => "csv",
            Self::Tsv => "tsv",
            Self::Parquet => "parquet",
        }
    }
}

impl fmt::Display for TableFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.extension())
    }
}

/// The source of the bytes of an image.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ImageSource {
    /// The path of an image file, as in the table.
    File(String),
    /// The bytes themselves, which the table holds.
    Bytes(Vec<u8>),
}

/// A question about an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// Text of the question.
    pub text: String,
    /// The answer, or the answers of all annotators; empty in a test split.
    pub answers: Vec<String>,
}

/// A row of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The first line of the row, counted from 1; in a Parquet file, the index of the row, counted from 0.
    pub row: u64,
    /// The source of the image, or of the left and the right image of a pair.
    pub images: [Option<ImageSource>; 2],
    /// The captions that are not blank; the text of a row with labels, or the statement about a pair, if it is not blank.
    pub captions: Vec<String>,
    /// The questions that are not blank.
    pub questions: Vec<Question>,
    /// The labels, trimmed and without repetitions; for a pair, whether the statement is true, as in the table. `None` if the value is
    /// missing, or if it is blank and there must be exactly one.
    pub labels: Option<Vec<String>>,
    /// Name of the image.
    pub image_id: Option<String>,
    /// The split of the row, as in the table.
    pub split: Option<String>,
}
