//! The class labels of a split, with their numbers of rows.

use std::collections::BTreeMap;
use std::path::Path;

use super::contents::Contents;
use super::items::TableDataset;
use crate::arrow::{ArrowTable, LabelKind};
use crate::{DataError, Result};

/// The distinct class labels of rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelNames {
    /// The labels, sorted by their bytes.
    pub names: Vec<String>,
    /// Number of rows of each label.
    pub counts: Vec<u64>,
    /// Number of rows whose labels are null. A row with an empty list of labels does not count.
    pub unlabelled: u64,
    /// Whether a row may have any number of labels (column `labels`) instead of exactly one (column `label`).
    pub several: bool,
}

/// The labels of several files.
#[derive(Default)]
struct Collector<'a> {
    counts: BTreeMap<String, u64>,
    unlabelled: u64,
    /// The kind of labels of the first file, with its path.
    kind: Option<(LabelKind, &'a Path)>,
}

impl<'a> Collector<'a> {
    fn read(&mut self, table: &'a ArrowTable) -> Result<()> {
        let no_labels = || DataError::format(table.path(), "it has no column label or labels");
        let kind = table.label_kind()?.ok_or_else(no_labels)?;
        let (first_kind, first_path) = *self.kind.get_or_insert((kind, table.path()));
        if kind != first_kind {
            let (column, first) = (kind.column(), first_kind.column());
            return Err(DataError::format(
                table.path(),
                format!("it has a column {column}, but {} has {first}", first_path.display()),
            ));
        }
        table.for_each_row(|row| {
            let Some(labels) = table.labels(row, kind)? else {
                self.unlabelled += 1;
                return Ok(());
            };
            for label in labels {
                match self.counts.get_mut(label) {
                    Some(count) => *count += 1,
                    None => drop(self.counts.insert(label.to_string(), 1)),
                }
            }
            Ok(())
        })
    }

    fn finish(self) -> LabelNames {
        let (names, counts) = self.counts.into_iter().unzip();
        LabelNames {
            names,
            counts,
            unlabelled: self.unlabelled,
            several: matches!(self.kind, Some((LabelKind::Multiple, _))),
        }
    }
}

impl LabelNames {
    /// Collects the labels of one file. Images are not read.
    ///
    /// # Errors
    /// Returns [`DataError::Format`] if the file has no column of labels, or a value is damaged.
    pub fn of_table(table: &ArrowTable) -> Result<Self> {
        let mut collector = Collector::default();
        collector.read(table)?;
        Ok(collector.finish())
    }
}

impl TableDataset {
    /// Collects the labels of all rows. Images are not read.
    ///
    /// # Errors
    /// Returns [`DataError::Invalid`] if the dataset does not have labels, [`DataError::Format`] if some files have one label per row
    /// and others several, or a value is damaged.
    pub fn label_names(&self) -> Result<LabelNames> {
        if self.contents() != Contents::Labels {
            return Err(DataError::Invalid(format!(
                "{} has {}, not labels",
                self.names(),
                self.contents()
            )));
        }
        let mut collector = Collector::default();
        for file in self.files() {
            collector.read(file.arrow()?)?;
        }
        Ok(collector.finish())
    }
}
