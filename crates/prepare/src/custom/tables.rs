//! Reads the tables (JSONL, CSV, TSV and Parquet) of a custom dataset.

use std::path::{Path, PathBuf};

use super::dataset::{AnnotationTable, CustomDataset, SPLITS, split_of};
use super::images::Images;
use super::metadata::MetadataTable;
use crate::malformed::MalformedRows;
use crate::tables::{self, ImageSource, Record, TableContents, TableFormat};
use crate::{PrepareError, Result};
use vlct_util::at;

/// The tables of a custom dataset.
pub(super) struct Tables<'a> {
    pub dataset: &'a CustomDataset,
    format: TableFormat,
    /// The contents of the rows of all tables.
    pub contents: TableContents,
    annotations: Vec<AnnotationTable>,
    /// For each table, the directory that its paths of images are relative to, relative to the root of the dataset.
    directories: Vec<String>,
}

/// Lists the tables in `root` whose names begin with the name of a split, such as `val-00000-of-00002.parquet`, sorted by path.
fn find_tables(root: &Path, format: TableFormat) -> Result<Vec<AnnotationTable>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root).map_err(at::<PrepareError>(root))? {
        let file = entry.map_err(at::<PrepareError>(root))?.path();
        let (Some(stem), Some(extension)) = (file.file_stem().and_then(|s| s.to_str()), file.extension()) else {
            continue;
        };
        let word = stem
            .split(|c: char| !c.is_ascii_alphabetic())
            .next()
            .unwrap_or_default();
        if extension == format.extension()
            && let Some(split) = split_of(word)
        {
            let split = Some(split.to_string());
            found.push(AnnotationTable { split, file });
        }
    }
    if found.is_empty() {
        return Err(PrepareError::MissingTable {
            root: root.to_path_buf(),
            extension: format.extension(),
        });
    }
    found.sort_by(|a, b| a.file.cmp(&b.file));
    Ok(found)
}

/// Returns the contents of the rows of all tables. A table may lack the labels, or the truths of statements, that another table has.
///
/// # Errors
/// Returns an error if a table cannot be read, lacks another necessary column, or has other contents than another table.
fn contents_of_all(
    dataset: &CustomDataset,
    format: TableFormat,
    annotations: &[AnnotationTable],
) -> Result<TableContents> {
    let columns = &dataset.columns;
    let files = annotations.iter().map(|table| table.file.as_path());
    let found: Vec<(&Path, Result<TableContents>)> = files
        .map(|file| (file, tables::contents(file, format, columns)))
        .collect();
    let readable = || {
        found
            .iter()
            .filter_map(|(file, found)| Some((*file, *found.as_ref().ok()?)))
    };
    let first = readable().find(|(_, contents)| *contents != TableContents::Texts);
    let (first_file, contents) = first
        .or_else(|| readable().next())
        .unwrap_or((&dataset.root, TableContents::Texts));
    for (file, found) in found {
        match found {
            Ok(found) if found == contents => {}
            Ok(TableContents::Texts) if matches!(contents, TableContents::Labels(_)) => {}
            Ok(found) => {
                let reason = format!("it has {found}, but {} has {contents}", first_file.display());
                return Err(PrepareError::malformed(file, reason));
            }
            Err(_) if first.is_some() && tables::check_without_labels(file, format, columns, contents).is_ok() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(contents)
}

impl<'a> Tables<'a> {
    /// Finds the tables and reads their columns.
    ///
    /// # Errors
    /// Returns an error if a table is missing or cannot be read, lacks a necessary column, or has other contents than another table.
    pub fn open(dataset: &'a CustomDataset, format: TableFormat) -> Result<Self> {
        let annotations = if dataset.annotations.is_empty() {
            find_tables(&dataset.root, format)?
        } else {
            dataset.annotations.clone()
        };
        let directories = vec![String::new(); annotations.len()];
        Self::new(dataset, format, annotations, directories)
    }

    /// Reads the columns of the tables in directories of images.
    ///
    /// # Errors
    /// Returns the errors of [`Self::open`].
    pub fn of_metadata(dataset: &'a CustomDataset, format: TableFormat, tables: Vec<MetadataTable>) -> Result<Self> {
        let (annotations, directories) = tables.into_iter().map(|table| (table.table, table.directory)).unzip();
        Self::new(dataset, format, annotations, directories)
    }

    fn new(
        dataset: &'a CustomDataset,
        format: TableFormat,
        annotations: Vec<AnnotationTable>,
        directories: Vec<String>,
    ) -> Result<Self> {
        Ok(Self {
            dataset,
            format,
            contents: contents_of_all(dataset, format, &annotations)?,
            annotations,
            directories,
        })
    }

    /// Number of tables.
    pub fn len(&self) -> usize {
        self.annotations.len()
    }

    /// Reads table number `table`. The split of each record is one of [`SPLITS`]. Rows that cannot be used are left out, with a remark.
    ///
    /// # Errors
    /// Returns an error if the table cannot be read, or if at least half of its rows cannot be used.
    pub fn records(&self, table: usize, remarks: &mut Vec<String>) -> Result<Vec<Record>> {
        let AnnotationTable { split, file } = &self.annotations[table];
        let mut malformed = MalformedRows::default();
        let mut usable = Vec::new();
        for record in tables::read_without_images(file, self.format, &self.dataset.columns, self.contents)? {
            let record = record.and_then(|mut record| {
                let word = split.as_deref().or(record.split.as_deref()).unwrap_or(SPLITS[0]);
                let split = split_of(word.trim()).ok_or_else(|| PrepareError::UnknownRowSplit {
                    path: file.clone(),
                    row: self.format.row_name(record.row),
                    split: word.to_string(),
                })?;
                record.split = Some(split.to_string());
                let directory = &self.directories[table];
                for image in record.images.iter_mut().flatten() {
                    if let (false, ImageSource::File(path)) = (directory.is_empty(), image) {
                        *path = format!("{directory}/{path}");
                    }
                }
                Ok(record)
            });
            match record {
                Ok(record) => {
                    malformed.keep();
                    usable.push(record);
                }
                Err(error) => malformed.leave_out(error)?,
            }
        }
        let remark = malformed.remark(file)?;
        if usable.is_empty() && remark.is_none() {
            let name = file.file_name().unwrap_or(file.as_os_str()).to_string_lossy();
            remarks.push(format!("{name} has no rows"));
        }
        remarks.extend(remark);
        Ok(usable)
    }

    /// Returns the name of a row in remarks.
    pub fn row_name(&self, table: usize, row: u64) -> String {
        let file = &self.annotations[table].file;
        let name = file.file_name().unwrap_or(file.as_os_str()).to_string_lossy();
        format!("{name}, {}", self.format.row_name(row))
    }

    /// Returns the reader of the images of all rows.
    pub fn images(&self) -> Images {
        let files: Vec<PathBuf> = self.annotations.iter().map(|table| table.file.clone()).collect();
        Images::new(
            &self.dataset.root,
            files,
            self.format,
            &self.dataset.columns,
            self.contents,
        )
    }
}

/// Returns the index in [`SPLITS`] of a record that [`Tables::records`] returned.
pub(super) fn split_index(record: &Record) -> usize {
    let split = record.split.as_deref();
    SPLITS.iter().position(|known| Some(*known) == split).unwrap_or(0)
}
