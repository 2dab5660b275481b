//! Data of one's own: tables of images and texts, WebDataset tars, directories of classes.
//!
//! Whatever it comes from, it is written as `NAME_{train,val,test}_{0, 1, …}.arrow`, which `datasets='["NAME"]'` reads.

mod image_folder;
mod questions;
mod row;
mod tables;
mod webdataset;

use std::convert::Infallible;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::plan::{Plan, ROWS_PER_FILE};
use crate::published::Dataset;
use crate::tables::{ColumnNames, TableFormat};
use crate::{PrepareError, Result};
use vlct_data::datasets::{is_custom_name, is_published_file, names};

/// The splits that are written, in that order.
const SPLITS: [&str; 3] = ["train", "val", "test"];

/// A form that data of one's own can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputFormat {
    /// Tables that name image files, or hold images.
    Table(TableFormat),
    /// WebDataset tars.
    WebDataset,
    /// A directory for each class.
    ImageFolder,
}

impl InputFormat {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Table(TableFormat::Jsonl),
        Self::Table(TableFormat::Csv),
        Self::Table(TableFormat::Tsv),
        Self::Table(TableFormat::Parquet),
        Self::WebDataset,
        Self::ImageFolder,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Table(format) => format.extension(),
            Self::WebDataset => "webdataset",
            Self::ImageFolder => "imagefolder",
        }
    }
}

impl fmt::Display for InputFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A table and the split that its rows belong to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnnotationTable {
    /// The split; none if a column says it, or else `train`.
    pub split: Option<String>,
    /// The file.
    pub file: PathBuf,
}

impl FromStr for AnnotationTable {
    type Err = Infallible;

    /// `SPLIT=FILE` or `FILE`.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text.split_once('=') {
            Some((word, file)) if split_of(word).is_some() => Self {
                split: split_of(word).map(str::to_string),
                file: file.into(),
            },
            _ => Self {
                split: None,
                file: text.into(),
            },
        })
    }
}

/// Where data of one's own are and how they become rows.
#[derive(Clone, Debug)]
pub struct CustomDataset {
    /// The name that the data set gets.
    pub name: String,
    /// Form of the data.
    pub format: InputFormat,
    /// Directory of the images, or of the tars. Tables name images relative to it.
    pub root: PathBuf,
    /// The tables. If there are none: those in `root` whose names begin with that of a split.
    pub annotations: Vec<AnnotationTable>,
    /// The columns of the tables.
    pub columns: ColumnNames,
    /// How many questions of the training split must have an answer as their most frequent one for it to be numbered.
    pub min_answers: usize,
    /// The splits to write; all if not given.
    pub splits: Option<Vec<String>>,
    /// Rows per file.
    pub rows_per_file: usize,
}

impl CustomDataset {
    /// The data set `name` from `root`, with columns that have one of their usual names.
    pub fn new(name: impl Into<String>, format: InputFormat, root: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            format,
            root: root.into(),
            annotations: Vec::new(),
            columns: ColumnNames::default(),
            min_answers: 1,
            splits: None,
            rows_per_file: ROWS_PER_FILE,
        }
    }

    /// Reads the annotations, and returns what will be written.
    ///
    /// # Errors
    /// Returns an error if the name or a split is not allowed, or if a file is missing or damaged.
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
            InputFormat::ImageFolder => image_folder::plan(self),
        }
    }

    fn check_name(&self) -> Result<()> {
        let name = &self.name;
        if !is_custom_name(name) {
            return Err(PrepareError::InvalidName(name.clone()));
        }
        if names().any(|published| published == name)
            || Dataset::ALL.iter().any(|dataset| dataset.name() == name)
            || SPLITS.iter().any(|split| is_published_file(&self.prefix(split)))
        {
            return Err(PrepareError::PublishedName(name.clone()));
        }
        Ok(())
    }

    fn includes(&self, split: &str) -> bool {
        self.splits
            .as_ref()
            .is_none_or(|splits| splits.iter().any(|wanted| wanted == split))
    }

    /// Name of a split's files, without their numbers.
    fn prefix(&self, split: &str) -> String {
        format!("{}_{split}", self.name)
    }
}

/// The split that a word means.
fn split_of(word: &str) -> Option<&'static str> {
    match word.to_lowercase().as_str() {
        "train" | "training" | "restval" => Some("train"),
        "val" | "valid" | "validation" | "dev" => Some("val"),
        "test" | "testing" => Some("test"),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
