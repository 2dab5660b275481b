//! Counts the class labels of written files.

use std::path::Path;

use super::arrow_file::arrow_path;
use crate::Result;
use crate::plan::{Plan, Schema};
use vlct_data::arrow::{ArrowTable, LabelKind};
use vlct_data::datasets::LabelNames;
use vlct_data::manifest::LabelCounts;

/// Returns the labels of each split of a plan, counted in the written files.
///
/// # Errors
/// Returns an error if a file is missing or damaged.
pub(super) fn label_counts(plan: &Plan, out: &Path) -> Result<Vec<LabelCounts>> {
    let mut splits: Vec<LabelCounts> = Vec::new();
    for file in &plan.files {
        let Schema::Labels(kind) = file.schema else { continue };
        let table = ArrowTable::open(arrow_path(out, &file.name))?;
        if table.rows() == 0 {
            continue;
        }
        // All rows of a file belong to the same split.
        let part = table.string(0, "split")?.unwrap_or_default();
        let index = splits.iter().position(|split| split.part == part);
        let index = index.unwrap_or_else(|| {
            splits.push(LabelCounts {
                part: part.to_string(),
                several: kind == LabelKind::Multiple,
                ..LabelCounts::default()
            });
            splits.len() - 1
        });
        let split = &mut splits[index];
        let labels = LabelNames::of_table(&table)?;
        for (name, count) in labels.names.into_iter().zip(labels.counts) {
            *split.rows.entry(name).or_default() += count;
        }
        split.unlabelled += labels.unlabelled;
        for row in 0..table.rows() {
            split.without_image += u64::from(table.is_null(row, "image")?);
            split.without_text += u64::from(table.is_null(row, "text")?);
        }
    }
    Ok(splits)
}
