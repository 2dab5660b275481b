//! WebDataset tars.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use super::{Own, SPLITS};
use crate::Result;
use crate::datasets::numbered;
use crate::plan::{Columns, Plan, RowSource, RowText};
use vlct_data::datasets::{CaptionDataset, Split, split_tars};
use vlct_data::manifest::Coverage;

/// Rows of one split.
struct Rows {
    dataset: Arc<CaptionDataset>,
    range: Range<usize>,
    split: &'static str,
}

pub(super) fn plan(own: &Own) -> Result<Plan> {
    let mut plan = Plan::default();
    for (split, tars) in SPLITS.into_iter().zip([Split::Train, Split::Val, Split::Test]) {
        let files = split_tars(&own.root, tars)?;
        if files.is_empty() || !own.wants(split) {
            continue;
        }
        let files = files.into_iter().map(|file| (0, file)).collect();
        let dataset = Arc::new(CaptionDataset::of_files(&[&own.name], files)?);
        let counts = dataset.tar_counts();
        plan.coverage.push(Coverage {
            part: split.to_string(),
            found: counts.samples + counts.without_caption,
            kept: counts.samples,
            annotated: counts.samples + counts.without_image,
            without_image: counts.without_image,
            examples: Vec::new(),
        });
        let count = dataset.rows();
        plan.files.extend(numbered(
            &own.prefix(split),
            count,
            own.rows_per_file,
            Columns::Captions,
            |range| Rows {
                dataset: dataset.clone(),
                range,
                split,
            },
        ));
    }
    own.refuse_nothing(
        &plan,
        "it has no .tar files with pictures and captions, nor folders train, val or test of such",
    )?;
    Ok(plan)
}

impl RowSource for Rows {
    fn rows(&self) -> usize {
        self.range.len()
    }

    fn label(&self, row: usize) -> String {
        match self.dataset.locate_row(self.range.start + row) {
            Ok(at) => self.dataset.row_name(&at),
            Err(error) => error.to_string(),
        }
    }

    fn text(&self, row: usize) -> Result<RowText<'_>> {
        let at = self.dataset.locate_row(self.range.start + row)?;
        Ok(RowText::Captions {
            captions: self.dataset.captions_at(&at)?,
            image_id: Cow::Owned(self.dataset.image_id_at(&at)?.unwrap_or_default()),
            split: Cow::Borrowed(self.split),
        })
    }

    fn pictures(&self, row: usize) -> Result<Vec<Vec<u8>>> {
        let at = self.dataset.locate_row(self.range.start + row)?;
        Ok(vec![self.dataset.image_at(&at)?.to_vec()])
    }
}
