//! Types that the published datasets share: their raw files, and rows of one image each.

use std::path::{Path, PathBuf};

use crate::image_files::{ImageListing, ImageSearch, ListedImage, read_image};
use crate::plan::{ROWS_PER_FILE, RowSource, RowText};
use crate::{PrepareError, Result};
use vlct_data::answers::Vocabulary;

/// The raw files of a published dataset, and how to convert them to rows.
#[derive(Clone, Debug)]
pub struct RawDataset {
    /// The directory of the unpacked downloads.
    pub root: PathBuf,
    /// The seed of the order of rows.
    pub seed: u64,
    /// The splits to write; `None` for all.
    pub splits: Option<Vec<String>>,
    /// Rows per file of the datasets that are written as numbered files.
    pub rows_per_file: usize,
    /// The vocabulary of the answers to Visual Genome's questions; `None` for the vocabulary in `root`.
    pub vocabulary: Option<Vocabulary>,
}

impl RawDataset {
    /// Describes the downloads in `root`, with all splits and the original's number of rows per file.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            seed: 0,
            splits: None,
            rows_per_file: ROWS_PER_FILE,
            vocabulary: None,
        }
    }

    /// Returns the splits to write, in the order of `splits`, which are all splits of the dataset.
    ///
    /// # Errors
    /// Returns an error if [`Self::splits`] has a split that is not in `splits`.
    pub(super) fn splits_to_write(&self, splits: &[&'static str]) -> Result<Vec<&'static str>> {
        let Some(names) = &self.splits else {
            return Ok(splits.to_vec());
        };
        if let Some(unknown) = names.iter().find(|name| !splits.contains(&name.as_str())) {
            return Err(PrepareError::UnknownSplit {
                split: unknown.clone(),
                known: splits.to_vec(),
            });
        }
        Ok(splits
            .iter()
            .copied()
            .filter(|split| names.iter().any(|name| name == split))
            .collect())
    }

    pub(super) fn search(&self) -> ImageSearch<'_> {
        ImageSearch {
            root: &self.root,
            seed: self.seed,
            allows_missing: self.splits.is_some(),
        }
    }
}

/// The annotations of listed images.
pub(super) trait RowTexts: Send + Sync {
    /// Returns the content of an image's row except the image.
    fn text<'a>(&'a self, image: &'a ListedImage) -> RowText<'a>;
}

/// Rows of listed images, one image per row.
pub(super) struct ListedRows<T> {
    pub listing: ImageListing,
    pub annotations: T,
}

impl<T: RowTexts> RowSource for ListedRows<T> {
    fn rows(&self) -> usize {
        self.listing.images.len()
    }

    fn row_name(&self, row: usize) -> String {
        self.listing.path(row).display().to_string()
    }

    fn text(&self, row: usize) -> Result<RowText<'_>> {
        Ok(self.annotations.text(&self.listing.images[row]))
    }

    fn images(&self, row: usize) -> Result<Vec<Vec<u8>>> {
        Ok(vec![read_image(&self.listing.path(row))?])
    }

    fn image_files(&self, row: usize) -> Vec<PathBuf> {
        vec![self.listing.path(row)]
    }
}

/// Returns an error if `rows` is 0: no image has an annotation, probably because the root is the wrong directory.
pub(super) fn require_rows(directory: &Path, rows: usize, annotations: &str) -> Result<()> {
    if rows == 0 {
        return Err(PrepareError::NoAnnotatedImage {
            directory: directory.to_path_buf(),
            annotations: annotations.to_string(),
        });
    }
    Ok(())
}
