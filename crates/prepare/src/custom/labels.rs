//! Tables of images, texts or both, with class labels.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;

use super::dataset::SPLITS;
use super::images::{ImageLocation, Images};
use super::left_out::LeftOutRows;
use super::row_range::RowRange;
use super::tables::{Tables, split_index};
use crate::plan::{Plan, RowSource, RowText, Schema};
use crate::tables::Record;
use crate::{PrepareError, Result};
use vlct_data::arrow::LabelKind;

/// A row to be written.
struct Row {
    image: Option<ImageLocation>,
    text: Option<String>,
    /// The labels; `None` in a test split without labels.
    labels: Option<Vec<String>>,
    /// Name of the image, if the table has one.
    image_id: Option<String>,
    /// Number of the table, and the row in it.
    origin: (usize, u64),
}

/// The rows of a split, and the counts of those that are left out.
#[derive(Default)]
struct SplitRows {
    rows: Vec<Row>,
    empty: LeftOutRows,
    unlabelled: LeftOutRows,
}

/// Rows of one file: a range of the rows of a split.
struct Rows {
    rows: RowRange<Row>,
    images: Arc<Images>,
    split: &'static str,
}

pub(super) fn plan(tables: &Tables<'_>, kind: LabelKind) -> Result<Plan> {
    let mut splits: [SplitRows; 3] = Default::default();
    let mut plan = Plan::default();
    for table in 0..tables.len() {
        let records = tables.records(table, &mut plan.remarks)?;
        add_records(tables, table, records, &mut splits);
    }
    let images = Arc::new(tables.images());
    for (split, mut found) in SPLITS.into_iter().zip(splits) {
        plan.remarks
            .extend(found.empty.remark(split, "with neither an image nor a text"));
        plan.remarks.extend(found.unlabelled.remark(split, "without a label"));
        let coverage = images.remove_missing(split, &mut found.rows, |row| row.image.as_slice());
        if coverage.annotated > 0 {
            plan.coverage.push(coverage);
        }
        let mut rows = found.rows;
        let has_label = |row: &Row| row.labels.as_ref().is_some_and(|labels| !labels.is_empty());
        if is_test(split) && !rows.iter().any(has_label) {
            // In CSV, a missing list of labels and an empty one are the same.
            rows.iter_mut().for_each(|row| row.labels = None);
        }
        if rows.is_empty() {
            continue;
        }
        let (count, rows) = (rows.len(), Arc::new(rows));
        let files = tables.dataset.files(split, count, Schema::Labels(kind), |range| Rows {
            rows: RowRange::new(&rows, range),
            images: images.clone(),
            split,
        });
        plan.files.extend(files);
    }
    Ok(plan)
}

fn is_test(split: &str) -> bool {
    split == SPLITS[2]
}

/// Adds the records of table number `table` to their splits, or counts them as left out. Records of splits that are not written are
/// ignored.
fn add_records(tables: &Tables<'_>, table: usize, records: Vec<Record>, splits: &mut [SplitRows; 3]) {
    for record in records {
        let split = split_index(&record);
        if !tables.dataset.includes(SPLITS[split]) {
            continue;
        }
        let found = &mut splits[split];
        let [image, _] = record.images;
        let text = record.captions.into_iter().next();
        if image.is_none() && text.is_none() {
            found.empty.add(|| tables.row_name(table, record.row));
            continue;
        }
        if record.labels.is_none() && !is_test(SPLITS[split]) {
            found.unlabelled.add(|| tables.row_name(table, record.row));
            continue;
        }
        found.rows.push(Row {
            image: image.map(|image| ImageLocation::new(image, table, record.row)),
            text,
            labels: record.labels,
            image_id: record.image_id,
            origin: (table, record.row),
        });
    }
}

impl RowSource for Rows {
    fn rows(&self) -> usize {
        self.rows.len()
    }

    fn row_name(&self, row: usize) -> String {
        let row = self.rows.get(row);
        match &row.image {
            Some(image) => self.images.name(image),
            None => self.images.row_name(row.origin.0, row.origin.1),
        }
    }

    fn text(&self, row: usize) -> Result<RowText<'_>> {
        let row = self.rows.get(row);
        let image_id = match (&row.image_id, &row.image) {
            (Some(name), _) | (None, Some(ImageLocation::File(name))) => Some(Cow::Borrowed(name.as_str())),
            (None, Some(ImageLocation::Embedded { row, .. })) => Some(Cow::Owned(row.to_string())),
            (None, None) => None,
        };
        Ok(RowText::Labels {
            text: row.text.as_deref(),
            labels: row.labels.as_deref(),
            image_id,
            split: self.split,
        })
    }

    fn images(&self, row: usize) -> Result<Vec<Vec<u8>>> {
        let row = self.rows.get(row);
        let image = match &row.image {
            Some(location) => self.images.read([location])?[0].take(),
            None => None,
        };
        if image.is_none() && row.text.is_none() {
            return Err(PrepareError::EmptyRow);
        }
        Ok(Vec::from_iter(image))
    }

    fn image_files(&self, row: usize) -> Vec<PathBuf> {
        Vec::from_iter(self.rows.get(row).image.as_ref().map(|image| self.images.file(image)))
    }
}
