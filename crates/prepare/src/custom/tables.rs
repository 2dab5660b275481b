//! Reads tables (JSONL, CSV, TSV and Parquet) whose rows name an image file or hold an image.

use std::borrow::Cow;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::dataset::{AnnotationTable, CustomDataset, SPLITS, split_of};
use super::questions;
use super::row::{ImageLocation, Row};
use crate::image_files::read_image;
use crate::plan::{Plan, RowSource, RowText, Schema};
use crate::tables::{self, EmbeddedImages, ImageSource, TableFormat};
use crate::{PrepareError, Result};
use vlct_data::manifest::Coverage;
use vlct_util::at;

/// Rows of one file: a range of the rows of a split.
struct Rows {
    rows: Arc<Vec<Row>>,
    range: Range<usize>,
    images: Arc<Images>,
    split: &'static str,
    has_questions: bool,
}

/// The images of the rows of all splits.
struct Images {
    /// Directory of the image files.
    root: PathBuf,
    /// Paths of the tables, indexed by the `table` of [`ImageLocation::Embedded`].
    tables: Vec<PathBuf>,
    /// The images in each table.
    embedded: Vec<EmbeddedImages>,
}

pub(super) fn plan(dataset: &CustomDataset, format: TableFormat) -> Result<Plan> {
    let annotations = if dataset.annotations.is_empty() {
        find_tables(&dataset.root, format)?
    } else {
        dataset.annotations.clone()
    };
    let mut splits: [Vec<Row>; 3] = Default::default();
    for (table, annotations) in annotations.iter().enumerate() {
        read_table(dataset, format, table, annotations, &mut splits)?;
    }
    let mut plan = Plan::default();
    let any_row = |predicate: fn(&Row) -> bool| splits.iter().flatten().any(predicate);
    let has_captions = any_row(|row| !row.captions.is_empty());
    let has_questions =
        any_row(|row| !row.table_questions.is_empty()) && (dataset.columns.question.is_some() || !has_captions);
    for (split, rows) in SPLITS.into_iter().zip(&mut splits) {
        remove_unusable_rows(dataset, split, rows, has_questions, &mut plan);
    }
    let schemas = if has_questions {
        questions::assign_ids(dataset, &mut splits, &mut plan)?.map(Schema::Questions)
    } else {
        [Schema::Captions; 3]
    };
    let embedded = |table: &AnnotationTable| EmbeddedImages::new(&table.file, &dataset.columns);
    let images = Arc::new(Images {
        root: dataset.root.clone(),
        embedded: annotations.iter().map(embedded).collect(),
        tables: annotations.into_iter().map(|table| table.file).collect(),
    });
    for ((split, rows), schema) in SPLITS.into_iter().zip(splits).zip(schemas) {
        if rows.is_empty() {
            continue;
        }
        let (count, rows) = (rows.len(), Arc::new(rows));
        plan.files.extend(dataset.files(split, count, schema, |range| Rows {
            rows: rows.clone(),
            range,
            images: images.clone(),
            split,
            has_questions,
        }));
    }
    if plan.rows() == 0 {
        let missing = plan.coverage.iter().flat_map(|coverage| &coverage.examples).next();
        return Err(PrepareError::NoUsableRow {
            root: dataset.root.clone(),
            missing: missing.cloned(),
        });
    }
    Ok(plan)
}

/// Lists the tables in `root` whose names begin with the name of a split, such as `val-00000-of-00002.parquet`, sorted by path.
fn find_tables(root: &Path, format: TableFormat) -> Result<Vec<AnnotationTable>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root).map_err(at::<PrepareError>(root))? {
        let file = entry.map_err(at::<PrepareError>(root))?.path();
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
            found.push(AnnotationTable { split, file });
        }
    }
    if found.is_empty() {
        return Err(PrepareError::MissingTable {
            root: root.to_path_buf(),
            extension: format.extension(),
        });
    }
    found.sort_by(|a, b| a.file.cmp(&b.file));
    Ok(found)
}

/// Reads table number `table` and adds its rows to their splits.
fn read_table(
    dataset: &CustomDataset,
    format: TableFormat,
    table: usize,
    AnnotationTable { split, file }: &AnnotationTable,
    splits: &mut [Vec<Row>; 3],
) -> Result<()> {
    let records = tables::read_without_images(file, format, &dataset.columns)?;
    let mut embedded_rows = Vec::new();
    let records = records.zip(0u64..).map(|(record, row)| {
        let mut record = record?;
        if let ImageSource::Bytes(_) = record.image {
            embedded_rows.push(row);
        }
        let word = split.as_deref().or(record.split.as_deref()).unwrap_or(SPLITS[0]);
        let split = split_of(word).ok_or_else(|| PrepareError::UnknownRowSplit {
            path: file.clone(),
            split: word.to_string(),
        })?;
        record.split = Some(split.to_string());
        Ok(record)
    });
    let joined = tables::join(records)?;
    // Rows that hold their image are not joined and keep their order, so they get the numbers in `embedded_rows` in order.
    let mut embedded_rows = embedded_rows.into_iter();
    for record in joined {
        let image = match record.image {
            ImageSource::File(path) => ImageLocation::File(path),
            ImageSource::Bytes(_) => ImageLocation::Embedded {
                table,
                row: embedded_rows.next().unwrap_or(u64::MAX),
            },
        };
        let split = record.split.as_deref();
        let split = SPLITS.iter().position(|known| Some(*known) == split).unwrap_or(0);
        splits[split].push(Row {
            image,
            captions: record.captions,
            table_questions: record.questions,
            questions: Vec::new(),
            image_id: record.image_id,
            image_number: 0,
        });
    }
    Ok(())
}

/// Removes the rows of a split that have no text, and those whose image file does not exist. Adds the counts of both to the plan. If
/// the split is not written, removes all of its rows instead.
fn remove_unusable_rows(
    dataset: &CustomDataset,
    split: &str,
    rows: &mut Vec<Row>,
    has_questions: bool,
    plan: &mut Plan,
) {
    if !dataset.includes(split) {
        // The training split determines the ids of answers, even if it is not written.
        if !has_questions || split != SPLITS[0] {
            rows.clear();
        }
        return;
    }
    if rows.is_empty() {
        return;
    }
    let total = rows.len();
    rows.retain(|row| {
        if has_questions {
            !row.table_questions.is_empty()
        } else {
            !row.captions.is_empty()
        }
    });
    if rows.len() < total {
        let what = if has_questions { "question" } else { "caption" };
        plan.remarks.push(format!(
            "{split}: {} images have no {what} and were left out",
            total - rows.len()
        ));
    }
    let mut coverage = Coverage {
        part: split.to_string(),
        annotated: rows.len(),
        ..Coverage::default()
    };
    rows.retain(|row| match &row.image {
        ImageLocation::File(path) if !dataset.root.join(path).is_file() => {
            coverage.without_image += 1;
            if coverage.examples.len() < Coverage::MAX_EXAMPLES {
                coverage.examples.push(path.clone());
            }
            false
        }
        _ => true,
    });
    (coverage.found, coverage.kept) = (rows.len(), rows.len());
    plan.coverage.push(coverage);
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

    fn row_name(&self, row: usize) -> String {
        match &self.row(row).image {
            ImageLocation::File(path) => self.images.root.join(path).display().to_string(),
            ImageLocation::Embedded { table, row } => format!("{}, row {row}", self.images.tables[*table].display()),
        }
    }

    fn text(&self, row: usize) -> Result<RowText<'_>> {
        let row = self.row(row);
        if self.has_questions {
            return Ok(RowText::Questions {
                questions: Cow::Borrowed(&row.questions),
                image_id: row.image_number,
                split: self.split,
            });
        }
        let image_id = match (&row.image_id, &row.image) {
            (Some(name), _) | (None, ImageLocation::File(name)) => Cow::Borrowed(name.as_str()),
            (None, ImageLocation::Embedded { row, .. }) => Cow::Owned(row.to_string()),
        };
        Ok(RowText::Captions {
            captions: row
                .captions
                .iter()
                .map(|caption| Cow::Borrowed(caption.as_str()))
                .collect(),
            image_id,
            split: Cow::Borrowed(self.split),
        })
    }

    fn images(&self, row: usize) -> Result<Vec<Vec<u8>>> {
        let images = &self.images;
        let bytes = match &self.row(row).image {
            ImageLocation::File(path) => read_image(&images.root.join(path))?,
            ImageLocation::Embedded { table, row } => match images.embedded[*table].image(*row)? {
                ImageSource::Bytes(bytes) => bytes,
                ImageSource::File(path) => read_image(&images.root.join(path))?,
            },
        };
        Ok(vec![bytes])
    }
}
