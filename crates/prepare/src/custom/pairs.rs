//! Tables of pairs of images with statements.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::dataset::SPLITS;
use super::images::{ImageLocation, Images};
use super::left_out::LeftOutRows;
use super::row_range::RowRange;
use super::tables::{Tables, split_index};
use crate::plan::{Plan, RowSource, RowText, Schema};
use crate::tables::{Record, normal_path};
use crate::{PrepareError, Result};
use vlct_image::ImageError;
use vlct_util::text::quoted;

/// A pair of images with its statements.
struct Row {
    /// The left and the right image.
    images: [ImageLocation; 2],
    statements: Vec<(String, bool)>,
    /// Name of the pair.
    identifier: String,
}

/// A statement of a table about a pair.
struct Statement {
    images: [ImageLocation; 2],
    text: String,
    truth: Option<bool>,
    identifier: Option<String>,
    /// The table and the row of the statement.
    origin: (usize, u64),
}

/// The statements of a split, and the counts of those that are left out.
#[derive(Default)]
struct SplitStatements {
    statements: Vec<Statement>,
    without_images: LeftOutRows,
    without_text: LeftOutRows,
    without_truth: LeftOutRows,
    unclear: LeftOutRows,
}

/// Rows of one file: a range of the rows of a split.
struct Rows {
    rows: RowRange<Row>,
    images: Arc<Images>,
    has_truths: bool,
}

pub(super) fn plan(tables: &Tables<'_>) -> Result<Plan> {
    let mut splits: [SplitStatements; 3] = Default::default();
    let mut plan = Plan::default();
    for table in 0..tables.len() {
        let records = tables.records(table, &mut plan.remarks)?;
        add_records(tables, table, records, &mut splits);
    }
    let images = Arc::new(tables.images());
    for (split, mut found) in SPLITS.into_iter().zip(splits) {
        // A test split without any truth is written without truths.
        let has_truths = split != SPLITS[2] || found.statements.iter().any(|statement| statement.truth.is_some());
        if has_truths {
            found.statements.retain(|statement| {
                if statement.truth.is_none() {
                    let (table, row) = statement.origin;
                    found.without_truth.add(|| tables.row_name(table, row));
                }
                statement.truth.is_some()
            });
        }
        for (left_out, reason) in [
            (&found.without_images, "with fewer than two images"),
            (&found.without_text, "without a statement"),
            (&found.without_truth, "without a truth"),
            (&found.unclear, "whose truth is neither true, yes, 1 nor false, no, 0"),
        ] {
            plan.remarks.extend(left_out.remark(split, reason));
        }
        let mut rows = join(found.statements);
        if rows.is_empty() {
            continue;
        }
        plan.coverage
            .push(images.remove_missing(split, &mut rows, |row| &row.images));
        if rows.is_empty() {
            continue;
        }
        let (count, rows) = (rows.len(), Arc::new(rows));
        let files = tables.dataset.files(split, count, Schema::ImagePairs, |range| Rows {
            rows: RowRange::new(&rows, range),
            images: images.clone(),
            has_truths,
        });
        plan.files.extend(files);
    }
    Ok(plan)
}

/// Adds the statements of table number `table` to their splits, or counts them as left out. Records of splits that are not written
/// are ignored.
fn add_records(tables: &Tables<'_>, table: usize, records: Vec<Record>, splits: &mut [SplitStatements; 3]) {
    for record in records {
        let split = split_index(&record);
        if !tables.dataset.includes(SPLITS[split]) {
            continue;
        }
        let found = &mut splits[split];
        let row_name = || tables.row_name(table, record.row);
        let [Some(left), Some(right)] = record.images else {
            found.without_images.add(row_name);
            continue;
        };
        let Some(text) = record.captions.into_iter().next() else {
            found.without_text.add(row_name);
            continue;
        };
        let word = record.labels.and_then(|labels| labels.into_iter().next());
        let truth = match word {
            None => None,
            Some(word) => match truth_of(&word) {
                Some(truth) => Some(truth),
                None => {
                    found.unclear.add(|| format!("{}: {}", row_name(), quoted(&word)));
                    continue;
                }
            },
        };
        found.statements.push(Statement {
            images: [left, right].map(|image| ImageLocation::new(image, table, record.row)),
            text,
            truth,
            identifier: record.image_id,
            origin: (table, record.row),
        });
    }
}

/// Returns whether a word means true or false; `None` for other words.
fn truth_of(word: &str) -> Option<bool> {
    match word.to_lowercase().as_str() {
        "true" | "yes" | "1" => Some(true),
        "false" | "no" | "0" => Some(false),
        _ => None,
    }
}

/// Joins statements about the same two image files. A pair has the name that its first statement with a name has; by default, the paths
/// of its images, or the row of the table that holds its images.
fn join(statements: Vec<Statement>) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    let mut has_name: Vec<bool> = Vec::new();
    let mut indices: HashMap<[PathBuf; 2], usize> = HashMap::new();
    for statement in statements {
        // Of a test split without truths, only the texts are written.
        let sentence = (statement.text, statement.truth.unwrap_or_default());
        let index = match &statement.images {
            [ImageLocation::File(left), ImageLocation::File(right)] => {
                let files = [left, right].map(|path| normal_path(path));
                *indices.entry(files).or_insert(rows.len())
            }
            _ => rows.len(),
        };
        match (rows.get_mut(index), statement.identifier) {
            (Some(row), identifier) => {
                row.statements.push(sentence);
                if let (Some(name), false) = (identifier, has_name[index]) {
                    row.identifier = name;
                    has_name[index] = true;
                }
            }
            (None, identifier) => {
                has_name.push(identifier.is_some());
                rows.push(Row {
                    identifier: identifier.unwrap_or_else(|| match &statement.images {
                        [ImageLocation::File(left), ImageLocation::File(right)] => format!("{left} {right}"),
                        _ => statement.origin.1.to_string(),
                    }),
                    images: statement.images,
                    statements: vec![sentence],
                });
            }
        }
    }
    rows
}

impl RowSource for Rows {
    fn rows(&self) -> usize {
        self.rows.len()
    }

    fn row_name(&self, row: usize) -> String {
        let [left, right] = &self.rows.get(row).images;
        format!("{}, {}", self.images.name(left), self.images.name(right))
    }

    fn text(&self, row: usize) -> Result<RowText<'_>> {
        let row = self.rows.get(row);
        Ok(RowText::ImagePair {
            sentences: Cow::from(&row.statements),
            has_truths: self.has_truths,
            identifier: &row.identifier,
        })
    }

    fn images(&self, row: usize) -> Result<Vec<Vec<u8>>> {
        let [left, right] = &self.rows.get(row).images;
        match self.images.read([left, right])? {
            [Some(left), Some(right)] => Ok(vec![left, right]),
            _ => Err(PrepareError::from(ImageError::Decode(
                "the row has fewer than two images".into(),
            ))),
        }
    }

    fn image_files(&self, row: usize) -> Vec<PathBuf> {
        let images = &self.rows.get(row).images;
        images.iter().map(|image| self.images.file(image)).collect()
    }
}
