//! Custom datasets: tables of images and texts, WebDataset tars, class directories.
//!
//! For every input format, a dataset is written as `NAME_{train,val,test}_{0, 1, …}.arrow`, which `datasets='["NAME"]'` reads.

mod dataset;
mod imagefolder;
mod questions;
mod row;
mod tables;
mod webdataset;

use crate::plan::Plan;
use crate::{PrepareError, Result};
use dataset::SPLITS;
pub use dataset::{AnnotationTable, CustomDataset, InputFormat};

impl CustomDataset {
    /// Reads the annotations and plans the files.
    ///
    /// # Errors
    /// Returns an error if the name or a split is invalid, or if a file is missing or damaged.
    pub fn plan(&self) -> Result<Plan> {
        self.check_name()?;
        if let Some(unknown) = self
            .splits
            .iter()
            .flatten()
            .find(|split| !SPLITS.contains(&split.as_str()))
        {
            return Err(PrepareError::UnknownSplit {
                split: unknown.clone(),
                known: SPLITS.to_vec(),
            });
        }
        if !matches!(self.format, InputFormat::Table(_)) && !self.annotations.is_empty() {
            return Err(PrepareError::UnexpectedAnnotations {
                format: self.format.name(),
            });
        }
        match self.format {
            InputFormat::Table(format) => tables::plan(self, format),
            InputFormat::WebDataset => webdataset::plan(self),
            InputFormat::ImageFolder => imagefolder::plan(self),
        }
    }
}

#[cfg(test)]
mod tests;
