//! Custom datasets: tables of images and texts, WebDataset tars, images with files of captions, class directories.
//!
//! For every input format, a dataset is written as `NAME_{train,val,test}_{0, 1, …}.arrow`, which `datasets='["NAME"]'` reads.

mod dataset;
mod directories;
mod files;
mod imagefolder;
mod images;
mod labels;
mod left_out;
mod metadata;
mod pairs;
mod questions;
mod row;
mod row_range;
mod tables;
mod texts;
mod webdataset;

use crate::plan::Plan;
use crate::tables::TableContents;
use crate::{PrepareError, Result};
use dataset::SPLITS;
pub use dataset::{AnnotationTable, CustomDataset, InputFormat};
use tables::Tables;
use vlct_data::arrow::LabelKind;

impl CustomDataset {
    /// Checks what can be checked before any file is read.
    ///
    /// # Errors
    /// Returns an error if the name or a split is invalid, or if tables are given for a format without tables.
    pub fn check(&self) -> Result<()> {
        self.check_name()?;
        let is_unknown = |split: &&str| !SPLITS.contains(split);
        let named = self.splits.iter().flatten().map(String::as_str).find(is_unknown);
        if let Some(unknown) = named.or_else(|| self.annotations.iter().find_map(AnnotationTable::unknown_split)) {
            return Err(PrepareError::UnknownSplit {
                split: unknown.to_string(),
                known: SPLITS.to_vec(),
            });
        }
        if !matches!(self.format, InputFormat::Table(_)) && !self.annotations.is_empty() {
            return Err(PrepareError::UnexpectedAnnotations {
                format: self.format.name(),
            });
        }
        Ok(())
    }

    /// Reads the annotations and plans the files.
    ///
    /// # Errors
    /// Returns the errors of [`Self::check`], and an error if a file is missing or damaged.
    pub fn plan(&self) -> Result<Plan> {
        self.check()?;
        match self.format {
            InputFormat::Table(format) => plan_tables(&Tables::open(self, format)?),
            InputFormat::WebDataset => webdataset::plan(self),
            InputFormat::Files => files::plan(self),
            InputFormat::ImageFolder => match metadata::find(&self.root)? {
                Some((format, tables)) => plan_tables(&Tables::of_metadata(self, format, tables)?),
                None => imagefolder::plan(self),
            },
        }
    }
}

/// Plans the files of a dataset whose rows are in tables.
fn plan_tables(tables: &Tables<'_>) -> Result<Plan> {
    let (plan, needs) = match tables.contents {
        TableContents::Texts => (texts::plan(tables)?, "both a text and an image that exists"),
        TableContents::Labels(kind) => {
            let needs = match kind {
                LabelKind::Single => "a label, and a text or an image that exists",
                LabelKind::Multiple => "labels, and a text or an image that exists",
            };
            (labels::plan(tables, kind)?, needs)
        }
        TableContents::Pairs => (
            pairs::plan(tables)?,
            "two images that exist, a statement, and whether it is true",
        ),
    };
    if plan.rows() == 0 {
        let missing = plan.coverage.iter().flat_map(|coverage| &coverage.examples).next();
        return Err(PrepareError::NoUsableRow {
            root: tables.dataset.root.clone(),
            needs,
            missing: missing.cloned(),
            left_out: plan.remarks.into_iter().next(),
        });
    }
    Ok(plan)
}

#[cfg(test)]
mod tests;
