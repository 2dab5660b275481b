//! The rows of a dataset as items without texts.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use super::dataset::{Answer, Dataset, Example};
use super::items::TableDataset;
use crate::{DataError, Result};

/// The rows of a dataset as items without texts. The image of an item is the only or the left image of its row.
#[derive(Clone, Debug)]
pub struct RowsOf(Arc<TableDataset>);

impl RowsOf {
    /// Wraps `dataset`.
    pub fn new(dataset: Arc<TableDataset>) -> Self {
        Self(dataset)
    }
}

impl Dataset for RowsOf {
    fn len(&self) -> usize {
        self.0.rows()
    }

    fn example(&self, item: usize) -> Result<Example<'_>> {
        let location = self.0.locate_row(item)?;
        let image = self.0.image_at(&location)?;
        Ok(Example {
            reading: self.0.reading_at(&location),
            images: [Some(Cow::Borrowed(image)), None],
            text: None,
            answer: Answer::None,
        })
    }

    fn rows(&self) -> usize {
        self.0.rows()
    }

    fn items_of(&self, row: usize) -> Result<Range<usize>> {
        self.0.locate_row(row)?;
        Ok(row..row + 1)
    }

    fn peers(&self, item: usize) -> Range<usize> {
        if item < self.len() { 0..self.len() } else { 0..0 }
    }

    fn subset(&self, item: usize) -> &str {
        match self.0.locate_row(item) {
            Ok(location) => self.0.subset_of_table(location.table),
            Err(_) => "",
        }
    }

    fn describe(&self, item: usize) -> String {
        match self.0.locate_row(item) {
            Ok(location) => self.0.row_name(&location),
            Err(error) => error.to_string(),
        }
    }

    fn error(&self, item: usize, reason: &str) -> DataError {
        match self.0.locate_row(item) {
            Ok(location) => self.0.row_error(&location, reason),
            Err(error) => error,
        }
    }
}
