//! The description of a custom dataset: input format, tables and splits.

use std::convert::Infallible;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::str::FromStr;

use crate::plan::{Plan, PlannedFile, ROWS_PER_FILE, RowSource, Schema};
use crate::published::Dataset;
use crate::tables::{ColumnNames, TableFormat};
use crate::{PrepareError, Result};
use vlct_data::datasets::{NAMES, is_custom_name, is_published_file};

/// The splits, in the order of writing.
pub(super) const SPLITS: [&str; 3] = ["train", "val", "test"];

/// Input formats of custom datasets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputFormat {
    /// Tables that name image files, or hold images.
    Table(TableFormat),
    /// WebDataset tars.
    WebDataset,
    /// Images with captions in files beside them.
    Files,
    /// One directory of images per class, whose name is the caption; or Hugging Face's tables `metadata.jsonl`, `.csv` or `.parquet`.
    ImageFolder,
}

impl InputFormat {
    /// All input formats.
    pub const ALL: [Self; 7] = [
        Self::Table(TableFormat::Jsonl),
        Self::Table(TableFormat::Csv),
        Self::Table(TableFormat::Tsv),
        Self::Table(TableFormat::Parquet),
        Self::WebDataset,
        Self::Files,
        Self::ImageFolder,
    ];

    /// Returns the name of the format.
    pub fn name(self) -> &'static str {
        match self {
            Self::Table(format) => format.extension(),
            Self::WebDataset => "webdataset",
            Self::Files => "files",
            Self::ImageFolder => "imagefolder",
        }
    }
}

impl fmt::Display for InputFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A table and the split of its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnnotationTable {
    /// The split of all rows; `None` if the table has a column with the split of each row. Without this column, the split is `train`.
    pub split: Option<String>,
    /// Path of the table.
    pub file: PathBuf,
}

impl AnnotationTable {
    /// Returns the word before `=` in `WORD=FILE` if it is not a split, and the whole is not a file.
    pub(super) fn unknown_split(&self) -> Option<&str> {
        let (word, _) = self.file.to_str()?.split_once('=')?;
        (self.split.is_none() && !word.contains(std::path::is_separator) && !self.file.exists()).then_some(word)
    }
}

impl FromStr for AnnotationTable {
    type Err = Infallible;

    /// Parses `SPLIT=FILE` or `FILE`.
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

/// A custom dataset: the location of its data, and how to convert them to rows.
#[derive(Clone, Debug)]
pub struct CustomDataset {
    /// Name under which training reads the dataset.
    pub name: String,
    /// Format of the data.
    pub format: InputFormat,
    /// Directory of the images, or of the tars. Paths of images in tables are relative to it.
    pub root: PathBuf,
    /// The tables. If this list is empty, the tables in `root` whose names begin with the name of a split are read.
    pub annotations: Vec<AnnotationTable>,
    /// The names of the columns of the tables.
    pub columns: ColumnNames,
    /// An answer is in the vocabulary if it is the majority answer of at least this many questions of the training split.
    pub min_answers: usize,
    /// The splits to write; `None` for all.
    pub splits: Option<Vec<String>>,
    /// Rows per file.
    pub rows_per_file: usize,
}

impl CustomDataset {
    /// Describes the dataset `name` in `root`, with all splits and the usual names of columns.
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

    pub(super) fn check_name(&self) -> Result<()> {
        let name = &self.name;
        if !is_custom_name(name) {
            return Err(PrepareError::InvalidName(name.clone()));
        }
        if NAMES.contains(&name.as_str())
            || Dataset::ALL.iter().any(|dataset| dataset.name() == name)
            || SPLITS.iter().any(|split| is_published_file(&self.prefix(split)))
        {
            return Err(PrepareError::PublishedName(name.clone()));
        }
        Ok(())
    }

    pub(super) fn includes(&self, split: &str) -> bool {
        self.splits
            .as_ref()
            .is_none_or(|splits| splits.iter().any(|included| included == split))
    }

    /// Returns the name of a split's files without their numbers.
    fn prefix(&self, split: &str) -> String {
        format!("{}_{split}", self.name)
    }

    /// Divides the rows of a split among numbered files.
    pub(super) fn files<R: RowSource + 'static>(
        &self,
        split: &str,
        rows: usize,
        schema: Schema,
        source: impl Fn(Range<usize>) -> R,
    ) -> Vec<PlannedFile> {
        PlannedFile::series(&self.prefix(split), rows, self.rows_per_file, schema, source)
    }

    /// Returns the plan, or an error if it has no rows because `what` is missing.
    pub(super) fn require_rows(&self, plan: Plan, what: impl Into<String>) -> Result<Plan> {
        if plan.rows() == 0 {
            let (root, what) = (self.root.clone(), what.into());
            return Err(PrepareError::NothingToWrite { root, what });
        }
        Ok(plan)
    }
}

/// Returns the split that `word` names; `dev`, for example, is `val`.
pub(super) fn split_of(word: &str) -> Option<&'static str> {
    match word.to_lowercase().as_str() {
        "train" | "training" | "restval" => Some("train"),
        "val" | "valid" | "validation" | "dev" => Some("val"),
        "test" | "testing" => Some("test"),
        _ => None,
    }
}
