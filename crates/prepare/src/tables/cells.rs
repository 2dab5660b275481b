//! Conversion of the values of a row to a [`Record`].

use std::path::Path;

use vlct_data::arrow::LabelKind;

use super::columns::{ROLES, Role, TableContents};
use super::record::{ImageSource, Question, Record};

/// Separator of labels in a text, for formats without lists.
const LABEL_SEPARATOR: char = '|';

/// The values of a row, in the order of [`Role::ALL`].
pub(super) type Cells = [Cell; ROLES];

/// A value of a row.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Cell {
    /// A missing value.
    #[default]
    Null,
    Text(String),
    Texts(Vec<String>),
    Number(i128),
    /// A number that is not an integer.
    Decimal(f64),
    Truth(bool),
    Bytes(Vec<u8>),
    /// An image as Hugging Face's datasets store it.
    Image {
        bytes: Option<Vec<u8>>,
        path: Option<String>,
    },
    /// A value that no role can use, with a description of its type.
    Other(&'static str),
}

impl Cell {
    /// Returns a floating-point number as an integer if it is whole. Tables have such numbers because pandas converts the integers of a
    /// column to them if one is missing; the missing one is not a number.
    pub fn of_float(value: f64) -> Self {
        // Up to 2^53, a float represents every integer exactly.
        if value.fract() == 0.0 && value.abs() <= 9_007_199_254_740_992.0 {
            Self::Number(value as i128)
        } else if value.is_nan() {
            Self::Null
        } else {
            Self::Decimal(value)
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Text(_) => "text",
            Self::Texts(_) => "a list of texts",
            Self::Number(_) => "a number",
            Self::Decimal(_) => "a number that is not an integer",
            Self::Truth(_) => "true or false",
            Self::Bytes(_) => "bytes",
            Self::Image { .. } => "an image",
            Self::Other(kind) => kind,
        }
    }
}

/// Returns the error of a column.
type ColumnError<'a> = &'a dyn Fn(Role, &str) -> String;

/// Converts the values of row `row` of a table with these contents to a record. `column_name` returns the name of a role's column, for
/// errors.
pub(super) fn to_record(
    contents: TableContents,
    row: u64,
    cells: Cells,
    column_name: impl Fn(Role) -> String,
) -> Result<Record, String> {
    let error: ColumnError<'_> = &|role, what| format!("column {:?} {what}", column_name(role));
    let [image, second_image, text, question, answer, label, id, split, file] = cells;
    let (image, file_name) = image_source(Role::Image, image, error)?;
    let image = match file {
        Cell::Text(file) if !file.trim().is_empty() => Some(in_directory(image, file)),
        _ => image,
    };
    let (second_image, _) = image_source(Role::SecondImage, second_image, error)?;
    let captions = match contents {
        TableContents::Texts => texts(Role::Text, text, error)?,
        TableContents::Labels(_) | TableContents::Pairs => single_text(Role::Text, text, error)?.into_iter().collect(),
    };
    let answers = texts(Role::Answer, answer, error)?;
    let question = single_text(Role::Question, question, error)?;
    let labels = match contents {
        TableContents::Texts => None,
        TableContents::Labels(LabelKind::Multiple) => labels(label, error)?,
        TableContents::Labels(LabelKind::Single) => single_label(label, "one label", error)?,
        TableContents::Pairs => single_label(label, "true or false", error)?,
    };
    Ok(Record {
        row,
        images: [image, second_image],
        captions,
        questions: Vec::from_iter(question.map(|text| Question { text, answers })),
        labels,
        image_id: name(id).or(file_name),
        split: single_text(Role::Split, split, error)?,
    })
}

/// Returns the source of the image `file`, whose directory, or path, is in another column.
fn in_directory(directory: Option<ImageSource>, file: String) -> ImageSource {
    match directory {
        Some(ImageSource::File(path)) if Path::new(&path).file_name() == Some(file.as_ref()) => ImageSource::File(path),
        Some(ImageSource::File(path)) => ImageSource::File(format!("{}/{file}", path.trim_end_matches('/'))),
        Some(bytes) => bytes,
        None => ImageSource::File(file),
    }
}

/// Returns the name of an image; `None` if the value is neither a text nor an integer. A name is not necessary.
fn name(cell: Cell) -> Option<String> {
    match cell {
        Cell::Number(number) => Some(number.to_string()),
        Cell::Text(text) if !text.trim().is_empty() => Some(text),
        Cell::Bytes(bytes) => String::from_utf8(bytes).ok().filter(|text| !text.trim().is_empty()),
        _ => None,
    }
}

fn type_error(role: Role, cell: &Cell, expected: &str, error: ColumnError<'_>) -> String {
    error(role, &format!("holds {}, not {expected}", cell.kind()))
}

/// Returns the source of an image, if the value is not empty, and the name that is stored with its bytes.
fn image_source(
    role: Role,
    cell: Cell,
    error: ColumnError<'_>,
) -> Result<(Option<ImageSource>, Option<String>), String> {
    Ok(match cell {
        Cell::Bytes(bytes) => (Some(ImageSource::Bytes(bytes)), None),
        Cell::Image {
            bytes: Some(bytes),
            path,
        } => (Some(ImageSource::Bytes(bytes)), path),
        Cell::Image {
            bytes: None,
            path: Some(path),
        } if !path.trim().is_empty() => (Some(ImageSource::File(path)), None),
        Cell::Text(path) if path.contains("://") => {
            let reason = format!("holds the URL {path:?}: download the images and give their paths");
            return Err(error(role, &reason));
        }
        Cell::Text(path) if !path.trim().is_empty() => (Some(ImageSource::File(path)), None),
        Cell::Null | Cell::Text(_) | Cell::Image { .. } => (None, None),
        other => return Err(type_error(role, &other, "the path of an image or its bytes", error)),
    })
}

/// Returns the texts that are not blank.
fn texts(role: Role, cell: Cell, error: ColumnError<'_>) -> Result<Vec<String>, String> {
    let mut texts = match cell {
        Cell::Null => Vec::new(),
        Cell::Text(text) => vec![text],
        Cell::Texts(texts) => texts,
        Cell::Number(number) => vec![number.to_string()],
        Cell::Decimal(number) if number.is_finite() => vec![number.to_string()],
        Cell::Bytes(bytes) => vec![String::from_utf8(bytes).map_err(|_| error(role, "is not UTF-8"))?],
        other => return Err(type_error(role, &other, "text or a list of texts", error)),
    };
    texts.retain(|text| !text.trim().is_empty());
    Ok(texts)
}

/// Returns the only text, if it is not blank.
fn single_text(role: Role, cell: Cell, error: ColumnError<'_>) -> Result<Option<String>, String> {
    match cell {
        Cell::Texts(_) => Err(type_error(role, &cell, "one text", error)),
        other => Ok(texts(role, other, error)?.pop()),
    }
}

/// Returns a list of the only label; `None` if the value is missing or blank.
fn single_label(cell: Cell, expected: &str, error: ColumnError<'_>) -> Result<Option<Vec<String>>, String> {
    let label = match cell {
        Cell::Truth(truth) => Some(truth.to_string()),
        Cell::Texts(_) | Cell::Decimal(_) | Cell::Other(_) | Cell::Image { .. } => {
            return Err(type_error(Role::Label, &cell, expected, error));
        }
        other => single_text(Role::Label, other, error)?,
    };
    Ok(label.map(|label| vec![label.trim().to_string()]))
}

/// Returns the distinct labels that are not blank; `None` if the value is missing.
fn labels(cell: Cell, error: ColumnError<'_>) -> Result<Option<Vec<String>>, String> {
    let all: Vec<String> = match cell {
        Cell::Null => return Ok(None),
        Cell::Truth(truth) => vec![truth.to_string()],
        Cell::Number(number) => vec![number.to_string()],
        Cell::Text(text) => text.split(LABEL_SEPARATOR).map(str::to_string).collect(),
        Cell::Texts(labels) => labels,
        other => {
            let expected = "a list of labels, or a text with | between labels";
            return Err(type_error(Role::Label, &other, expected, error));
        }
    };
    let mut labels: Vec<String> = Vec::with_capacity(all.len());
    for label in all {
        let label = label.trim();
        if !label.is_empty() && !labels.iter().any(|known| known == label) {
            labels.push(label.to_string());
        }
    }
    Ok(Some(labels))
}
