//! Reads WebDataset tars.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use super::dataset::{CustomDataset, SPLITS};
use crate::Result;
use crate::plan::{Plan, RowSource, RowText, Schema};
use vlct_data::datasets::{Contents, Dataset, Split, TableDataset, split_tars};
use vlct_data::manifest::Coverage;

/// Rows of one file: a range of the samples of a split.
struct Rows {
    samples: Arc<TableDataset>,
    range: Range<usize>,
    split: &'static str,
}

pub(super) fn plan(dataset: &CustomDataset) -> Result<Plan> {
    let mut plan = Plan::default();
    for (split, tar_split) in SPLITS.into_iter().zip([Split::Train, Split::Val, Split::Test]) {
        let files = split_tars(&dataset.root, tar_split)?;
        if files.is_empty() || !dataset.includes(split) {
            continue;
        }
        // All files belong to the only dataset, whose index is 0.
        let files = files.into_iter().map(|file| (0, file)).collect();
        let samples = Arc::new(TableDataset::of_files(Contents::Captions, &[&dataset.name], files)?);
        let counts = samples.tar_counts();
        plan.coverage.push(Coverage {
            part: split.to_string(),
            found: counts.samples + counts.without_caption,
            kept: counts.samples,
            annotated: counts.samples + counts.without_image,
            without_image: counts.without_image,
            examples: Vec::new(),
        });
        let count = samples.rows();
        plan.files
            .extend(dataset.files(split, count, Schema::Captions, |range| Rows {
                samples: samples.clone(),
                range,
                split,
            }));
    }
    dataset.require_rows(
        plan,
        ".tar files with images and captions, nor directories train, val or test with such files",
    )
}

impl RowSource for Rows {
    fn rows(&self) -> usize {
        self.range.len()
    }

    fn row_name(&self, row: usize) -> String {
        match self.samples.locate_row(self.range.start + row) {
            Ok(location) => self.samples.row_name(&location),
            Err(error) => error.to_string(),
        }
    }

    fn text(&self, row: usize) -> Result<RowText<'_>> {
        let location = self.samples.locate_row(self.range.start + row)?;
        Ok(RowText::Captions {
            captions: self.samples.texts_at(&location)?,
            image_id: Cow::Owned(self.samples.image_id_at(&location)?.unwrap_or_default()),
            split: Cow::Borrowed(self.split),
        })
    }

    fn images(&self, row: usize) -> Result<Vec<Vec<u8>>> {
        let location = self.samples.locate_row(self.range.start + row)?;
        Ok(vec![self.samples.image_at(&location)?.to_vec()])
    }
}
