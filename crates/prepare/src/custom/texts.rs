//! Tables of images with captions or questions.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;

use super::dataset::SPLITS;
use super::images::{ImageLocation, Images};
use super::left_out::LeftOutRows;
use super::questions;
use super::row::Row;
use super::row_range::RowRange;
use super::tables::{Tables, split_index};
use crate::plan::{Plan, RowSource, RowText, Schema};
use crate::tables::{self, Record};
use crate::{PrepareError, Result};
use vlct_image::ImageError;
use vlct_util::text::counted;

/// Rows of one file: a range of the rows of a split.
struct Rows {
    rows: RowRange<Row>,
    images: Arc<Images>,
    split: &'static str,
    has_questions: bool,
}

pub(super) fn plan(tables: &Tables<'_>) -> Result<Plan> {
    let dataset = tables.dataset;
    let mut splits: [Vec<Row>; 3] = Default::default();
    let mut without_image: [LeftOutRows; 3] = Default::default();
    let mut plan = Plan::default();
    for table in 0..tables.len() {
        let records = tables.records(table, &mut plan.remarks)?;
        add_records(tables, table, records, &mut splits, &mut without_image);
    }
    let any_row = |predicate: fn(&Row) -> bool| splits.iter().flatten().any(predicate);
    let has_captions = any_row(|row| !row.captions.is_empty());
    let has_questions =
        any_row(|row| !row.table_questions.is_empty()) && (dataset.columns.question.is_some() || !has_captions);
    let images = Arc::new(tables.images());
    for ((split, rows), without_image) in SPLITS.into_iter().zip(&mut splits).zip(without_image) {
        if dataset.includes(split) {
            plan.remarks.extend(without_image.remark(split, "without an image"));
            remove_unusable_rows(split, rows, has_questions, &images, &mut plan);
        } else if !has_questions || split != SPLITS[0] {
            // The training split determines the ids of answers, even if it is not written.
            rows.clear();
        }
    }
    let schemas = if has_questions {
        questions::assign_ids(dataset, &mut splits, &mut plan)?.map(Schema::Questions)
    } else {
        [Schema::Captions; 3]
    };
    for ((split, rows), schema) in SPLITS.into_iter().zip(splits).zip(schemas) {
        if rows.is_empty() {
            continue;
        }
        let (count, rows) = (rows.len(), Arc::new(rows));
        plan.files.extend(dataset.files(split, count, schema, |range| Rows {
            rows: RowRange::new(&rows, range),
            images: images.clone(),
            split,
            has_questions,
        }));
    }
    Ok(plan)
}

/// Adds the records of table number `table` to their splits. Rows that name no image are counted instead.
fn add_records(
    tables: &Tables<'_>,
    table: usize,
    mut records: Vec<Record>,
    splits: &mut [Vec<Row>; 3],
    without_image: &mut [LeftOutRows; 3],
) {
    records.retain(|record| {
        if record.images[0].is_none() {
            without_image[split_index(record)].add(|| tables.row_name(table, record.row));
        }
        record.images[0].is_some()
    });
    for record in tables::join(records) {
        let split = split_index(&record);
        let [Some(image), _] = record.images else { continue };
        splits[split].push(Row {
            image: ImageLocation::new(image, table, record.row),
            captions: record.captions,
            table_questions: record.questions,
            questions: Vec::new(),
            image_id: record.image_id,
            image_number: 0,
        });
    }
}

/// Removes the rows of a split that have no text, and those whose image file does not exist. Adds the counts of both to the plan.
fn remove_unusable_rows(split: &str, rows: &mut Vec<Row>, has_questions: bool, images: &Images, plan: &mut Plan) {
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
        let images = counted(total - rows.len(), "image");
        plan.remarks
            .push(format!("{split}: left out {images} without a {what}"));
    }
    plan.coverage
        .push(images.remove_missing(split, rows, |row| std::slice::from_ref(&row.image)));
}

impl RowSource for Rows {
    fn rows(&self) -> usize {
        self.rows.len()
    }

    fn row_name(&self, row: usize) -> String {
        self.images.name(&self.rows.get(row).image)
    }

    fn text(&self, row: usize) -> Result<RowText<'_>> {
        let row = self.rows.get(row);
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
        let [image] = self.images.read([&self.rows.get(row).image])?;
        let no_image = || PrepareError::from(ImageError::Decode("the row has no image".into()));
        Ok(vec![image.ok_or_else(no_image)?])
    }

    fn image_files(&self, row: usize) -> Vec<PathBuf> {
        vec![self.images.file(&self.rows.get(row).image)]
    }
}
