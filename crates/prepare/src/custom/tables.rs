//! JSON lines, CSV, TSV and Parquet: rows that name a picture file or hold a picture.

use std::borrow::Cow;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use super::{Annotations, Own, SPLITS, questions, split_of};
use crate::datasets::{numbered, read_picture};
use crate::plan::{Columns, Plan, RowSource, RowText};
use crate::records::{self, Format, PackedPictures, Picture, Question};
use crate::{DataError, Result};
use vlct_data::arrow::AnsweredQuestion;
use vlct_data::manifest::Coverage;
use vlct_util::IoError;

/// A row to be written.
pub(super) struct Row {
    place: Place,
    captions: Vec<String>,
    pub asked: Vec<Question>,
    /// The same, with numbers and labels.
    pub questions: Vec<AnsweredQuestion>,
    image_id: Option<String>,
    /// Number of the picture in a file of questions.
    pub number: i64,
}

/// Where the picture of a row is.
enum Place {
    /// In a file; the path as the table has it.
    File(String),
    /// In row `row` of table number `table`.
    Packed { table: usize, row: u64 },
}

/// Rows of one split.
struct Rows {
    rows: Arc<Vec<Row>>,
    range: Range<usize>,
    tables: Arc<Tables>,
    split: &'static str,
    asks: bool,
}

/// What the rows of all splits need.
struct Tables {
    root: PathBuf,
    files: Vec<PathBuf>,
    /// The pictures that stand in them.
    packed: Vec<PackedPictures>,
}

pub(super) fn plan(own: &Own, format: Format) -> Result<Plan> {
    let annotations = match own.annotations.is_empty() {
        true => find(own, format)?,
        false => own.annotations.clone(),
    };
    let mut splits: [Vec<Row>; 3] = Default::default();
    for (table, Annotations { split, file }) in annotations.iter().enumerate() {
        read(own, format, table, split.as_deref(), file, &mut splits)?;
    }
    let mut plan = Plan::default();
    let any = |has: fn(&Row) -> bool| splits.iter().flatten().any(has);
    let has_captions = any(|row| !row.captions.is_empty());
    let asks = any(|row| !row.asked.is_empty()) && (own.columns.question.is_some() || !has_captions);
    for (split, rows) in SPLITS.into_iter().zip(&mut splits) {
        leave_out(own, split, rows, asks, &mut plan);
    }
    let kinds = match asks {
        true => questions::number(own, &mut splits, &mut plan)?.map(Columns::Questions),
        false => [Columns::Captions; 3],
    };
    let tables = Arc::new(Tables {
        root: own.root.clone(),
        packed: annotations
            .iter()
            .map(|table| PackedPictures::new(&table.file, &own.columns))
            .collect(),
        files: annotations.into_iter().map(|table| table.file).collect(),
    });
    for ((split, rows), columns) in SPLITS.into_iter().zip(splits).zip(kinds) {
        if rows.is_empty() {
            continue;
        }
        let (count, rows) = (rows.len(), Arc::new(rows));
        plan.files.extend(numbered(
            &own.prefix(split),
            count,
            own.rows_per_file,
            columns,
            |range| Rows {
                rows: rows.clone(),
                range,
                tables: tables.clone(),
                split,
                asks,
            },
        ));
    }
    own.refuse_nothing(
        &plan,
        "no row has both a picture that is there and a text; paths are relative to --root",
    )?;
    Ok(plan)
}

/// The tables in the root: `train.csv`, `val-00000-of-00002.parquet`, …, by name.
fn find(own: &Own, format: Format) -> Result<Vec<Annotations>> {
    let io = |source| {
        DataError::Io(IoError {
            path: own.root.clone(),
            source,
        })
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&own.root).map_err(io)? {
        let file = entry.map_err(io)?.path();
        let (Some(stem), Some(extension)) = (file.file_stem().and_then(|s| s.to_str()), file.extension()) else {
            continue;
        };
        let word = stem
            .split(|c: char| !c.is_ascii_alphabetic())
            .next()
            .unwrap_or_default();
        if extension == format.extension()
            && let Some(split) = split_of(word)
        {
            let split = Some(split.to_string());
            found.push(Annotations { split, file });
        }
    }
    if found.is_empty() {
        let ending = format.extension();
        return Err(DataError::Format {
            path: own.root.clone(),
            reason: format!("it has no train.{ending}; name the table with --annotations FILE.{ending}"),
        });
    }
    found.sort_by(|a, b| a.file.cmp(&b.file));
    Ok(found)
}

/// Reads a table into the rows of the splits.
fn read(
    own: &Own,
    format: Format,
    table: usize,
    split: Option<&str>,
    file: &PathBuf,
    splits: &mut [Vec<Row>; 3],
) -> Result<()> {
    let outline = records::outline(file, format, &own.columns)?;
    let mut places = Vec::new();
    let numbered = outline.zip(0u64..).map(|(record, row)| {
        let mut record = record?;
        if let Picture::Bytes(_) = record.picture {
            places.push(row);
        }
        let word = split.or(record.split.as_deref()).unwrap_or(SPLITS[0]);
        let known = split_of(word).ok_or_else(|| DataError::Format {
            path: file.clone(),
            reason: format!(
                "it has the split {word:?}; known are train, val and test, and words for them such as validation; rename it, or \
                 give the file with --annotations SPLIT=FILE"
            ),
        })?;
        record.split = Some(known.to_string());
        Ok(record)
    });
    let joined = records::join(numbered)?;
    // Rows that hold their picture are not joined: they keep their order.
    let mut packed = places.into_iter();
    for record in joined {
        let place = match record.picture {
            Picture::File(path) => Place::File(path),
            Picture::Bytes(_) => Place::Packed {
                table,
                row: packed.next().unwrap_or(u64::MAX),
            },
        };
        let known = record.split.as_deref();
        let number = SPLITS.iter().position(|split| Some(*split) == known).unwrap_or(0);
        splits[number].push(Row {
            place,
            captions: record.captions,
            asked: record.questions,
            questions: Vec::new(),
            image_id: record.image_id,
            number: 0,
        });
    }
    Ok(())
}

/// Leaves out rows without text, and those whose picture file is not there; says how many.
fn leave_out(own: &Own, split: &str, rows: &mut Vec<Row>, asks: bool, plan: &mut Plan) {
    if !own.wants(split) {
        // Answers of the training split are numbered whichever splits are wanted.
        match asks && split == SPLITS[0] {
            true => {}
            false => rows.clear(),
        }
        return;
    }
    if rows.is_empty() {
        return;
    }
    let total = rows.len();
    rows.retain(|row| match asks {
        true => !row.asked.is_empty(),
        false => !row.captions.is_empty(),
    });
    if rows.len() < total {
        let what = if asks { "question" } else { "caption" };
        plan.remarks.push(format!(
            "{split}: {} pictures have no {what} and were left out",
            total - rows.len()
        ));
    }
    let mut coverage = Coverage {
        part: split.to_string(),
        annotated: rows.len(),
        ..Coverage::default()
    };
    rows.retain(|row| match &row.place {
        Place::File(path) if !own.root.join(path).is_file() => {
            coverage.without_image += 1;
            if coverage.examples.len() < Coverage::EXAMPLES {
                coverage.examples.push(path.clone());
            }
            false
        }
        _ => true,
    });
    (coverage.found, coverage.kept) = (rows.len(), rows.len());
    plan.coverage.push(coverage);
}

impl Row {
    /// The number that the picture's name is, if it is one.
    pub fn id_number(&self) -> Option<i64> {
        self.image_id.as_deref()?.parse().ok()
    }
}

impl Rows {
    fn row(&self, row: usize) -> &Row {
        &self.rows[self.range.start + row]
    }
}

impl RowSource for Rows {
    fn rows(&self) -> usize {
        self.range.len()
    }

    fn label(&self, row: usize) -> String {
        match &self.row(row).place {
            Place::File(path) => self.tables.root.join(path).display().to_string(),
            Place::Packed { table, row } => format!("{}, row {row}", self.tables.files[*table].display()),
        }
    }

    fn text(&self, row: usize) -> Result<RowText<'_>> {
        let found = self.row(row);
        if self.asks {
            return Ok(RowText::Questions {
                questions: Cow::Borrowed(&found.questions),
                image_id: found.number,
                split: self.split,
            });
        }
        let image_id = match (&found.image_id, &found.place) {
            (Some(name), _) | (None, Place::File(name)) => Cow::Borrowed(name.as_str()),
            (None, Place::Packed { row, .. }) => Cow::Owned(row.to_string()),
        };
        Ok(RowText::Captions {
            captions: found
                .captions
                .iter()
                .map(|caption| Cow::Borrowed(caption.as_str()))
                .collect(),
            image_id,
            split: Cow::Borrowed(self.split),
        })
    }

    fn pictures(&self, row: usize) -> Result<Vec<Vec<u8>>> {
        let tables = &self.tables;
        let bytes = match &self.row(row).place {
            Place::File(path) => read_picture(&tables.root.join(path))?,
            Place::Packed { table, row } => match tables.packed[*table].picture(*row)? {
                Picture::Bytes(bytes) => bytes,
                Picture::File(path) => read_picture(&tables.root.join(path))?,
            },
        };
        Ok(vec![bytes])
    }
}
