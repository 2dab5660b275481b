//! `vlct inspect --sheet`: writes a contact sheet of rows sampled at equal intervals.

use std::io::Write;
use std::path::{Path, PathBuf};

use vlct_data::arrow::ArrowTable;
use vlct_data::datasets::Table;
use vlct_image::sheet::{Cell, contact_sheet, thumbnail};
use vlct_image::{decode_with, encode_png};
use vlct_util::{IoError, at, atomic};

use super::tables::label_kind;
use crate::output::Failure;

/// Number of cells side by side on the sheet.
const CELLS_PER_LINE: u32 = 8;

/// Returns the first image and the first text of a table row. With labels, these come before the text. If the image cannot be
/// decoded, the text is the error.
fn cell(table: &Table, row: usize) -> Result<Cell, Failure> {
    let (bytes, text) = match table {
        Table::Arrow(table) => arrow_cell(table, row)?,
        Table::Tar(table) => {
            let captions = table.captions(row)?;
            let text = captions.first().map(|caption| caption.to_string());
            (Some(table.image(row)?), text.unwrap_or_default())
        }
    };
    // Files that record nothing, tars among them, are drawn as stored.
    let reading = table.reading().unwrap_or_default();
    let decoded = bytes.map(|bytes| decode_with(bytes, reading).and_then(|decoded| thumbnail(&decoded.image)));
    Ok(match decoded {
        Some(Ok(image)) => Cell {
            image: Some(image),
            text,
        },
        Some(Err(error)) => Cell {
            image: None,
            text: error.to_string(),
        },
        None => Cell { image: None, text },
    })
}

/// Returns the first image and the text of a row of an Arrow file.
fn arrow_cell(table: &ArrowTable, row: usize) -> Result<(Option<&[u8]>, String), Failure> {
    if let Some(kind) = label_kind(table)? {
        let (image, text) = table.image_and_text(row)?;
        let labels = table.labels(row, kind)?.unwrap_or_default().join(", ");
        let parts = [labels.as_str(), text.unwrap_or_default()];
        let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        return Ok((image, parts.join(": ")));
    }
    let image_column = ["image", "image_0"]
        .into_iter()
        .find(|column| table.has_typed_column(column));
    let texts = if table.has_typed_column(table.caption_column()) {
        table.captions(row)?
    } else if table.has_typed_column("questions") {
        table.texts(row, "questions")?
    } else {
        Vec::new()
    };
    let text = texts.first().map(|text| text.to_string()).unwrap_or_default();
    let image = match image_column {
        Some(column) if !table.is_null(row, column)? => Some(table.image(row, column)?),
        _ => None,
    };
    Ok((image, text))
}

/// Writes the PNG file `out` with `count` rows, sampled at equal intervals from all rows of `files`. If there are fewer rows, writes
/// all. Returns the number of rows written.
pub fn write(files: &[PathBuf], count: usize, out: &Path) -> Result<usize, Failure> {
    let tables: Vec<Table> = files
        .iter()
        .map(|path| Table::open_compressed(path))
        .collect::<Result<_, _>>()?;
    let rows: usize = tables.iter().map(Table::rows).sum();
    let count = count.min(rows);
    let locate = |index: usize| {
        let mut row = (index as u128 * rows as u128 / count as u128) as usize;
        tables.iter().find_map(|table| {
            let found = (row < table.rows()).then_some((table, row));
            row = row.saturating_sub(table.rows());
            found
        })
    };
    let cells: Vec<Cell> = (0..count)
        .filter_map(locate)
        .map(|(table, row)| cell(table, row))
        .collect::<Result<_, _>>()?;
    if cells.is_empty() {
        return Err(Failure::Failed("there are no rows for a contact sheet".into()));
    }
    let sheet = encode_png(&contact_sheet(&cells, CELLS_PER_LINE))?;
    atomic::write(out, |file| file.write_all(&sheet)).map_err(at::<IoError>(out))?;
    Ok(count)
}
