//! The class labels of a split, with their numbers of rows.

use std::collections::BTreeMap;
use std::path::Path;

use rayon::prelude::*;

use super::contents::Contents;
use super::items::TableDataset;
use super::table::Table;
use crate::arrow::{ArrowTable, LabelKind};
use crate::webdataset::TarTable;
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
            labels.into_iter().for_each(|label| self.count(label));
            Ok(())
        })
    }

    fn count(&mut self, label: &str) {
        match self.counts.get_mut(label) {
            Some(count) => *count += 1,
            None => drop(self.counts.insert(label.to_string(), 1)),
        }
    }

    /// Adds the captions of a file. It is an error if a row has several.
    fn read_captions(&mut self, table: &ArrowTable) -> Result<()> {
        table.for_each_row(|row| {
            match table.captions(row)?.as_slice() {
                [] => {}
                [caption] => self.count(caption),
                several => {
                    let reason = format!("it has {} captions, but an image has one class", several.len());
                    return Err(table.row_error(row, &reason));
                }
            }
            Ok(())
        })
    }

    /// Adds the classes of tars.
    fn read_tars(&mut self, tars: &[&TarTable]) -> Result<()> {
        let counts_of = |tar: &&TarTable| -> Result<BTreeMap<String, u64>> {
            let mut counts = BTreeMap::new();
            tar.for_each_class(|class| {
                if let Some(class) = class {
                    *counts.entry(class.to_owned()).or_default() += 1;
                }
            })?;
            Ok(counts)
        };
        let all: Vec<_> = tars.par_iter().map(counts_of).collect::<Result<_>>()?;
        for (class, count) in all.into_iter().flatten() {
            *self.counts.entry(class).or_default() += count;
        }
        Ok(())
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
        let (mut collector, mut tars) = (Collector::default(), Vec::new());
        for file in self.files() {
            match file {
                Table::Arrow(table) => collector.read(table)?,
                Table::Tar(tar) => tars.push(tar),
            }
        }
        collector.read_tars(&tars)?;
        Ok(collector.finish())
    }

    /// Collects the captions of all rows as labels, for captions that are the names of classes. Images are not read.
    ///
    /// # Errors
    /// Returns [`DataError::Format`] if a row has several captions, a file is a tar, or a value is damaged.
    pub fn caption_names(&self) -> Result<LabelNames> {
        let mut collector = Collector::default();
        for file in self.files() {
            collector.read_captions(file.arrow()?)?;
        }
        Ok(collector.finish())
    }
}
