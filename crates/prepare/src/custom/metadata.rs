//! Finds the tables `metadata.jsonl`, `metadata.csv` or `metadata.parquet` of Hugging Face's `imagefolder`.

use std::path::Path;

use super::dataset::{AnnotationTable, split_of};
use super::directories::{collect_directories, relative};
use crate::tables::TableFormat;
use crate::{PrepareError, Result};

/// The formats of the tables.
const FORMATS: [TableFormat; 3] = [TableFormat::Jsonl, TableFormat::Csv, TableFormat::Parquet];

/// A table, and the directory that its paths of images are relative to.
pub(super) struct MetadataTable {
    pub table: AnnotationTable,
    /// Path relative to the root; empty for the root.
    pub directory: String,
}

/// Returns the tables in `root` and the directories in it, and their format. A directory with the name of a split, such as
/// `validation`, determines the split of the tables in it. Returns `None` if there is no such table.
///
/// # Errors
/// Returns an error if a directory cannot be read, or if the tables have different formats.
pub(super) fn find(root: &Path) -> Result<Option<(TableFormat, Vec<MetadataTable>)>> {
    let mut directories = Vec::new();
    collect_directories(root, &mut directories)?;
    let mut tables: Vec<(TableFormat, MetadataTable)> = Vec::new();
    for (directory, files) in directories {
        for file in files {
            let is_metadata = |format: &&TableFormat| {
                let name = format!("metadata.{}", format.extension());
                file.eq_ignore_ascii_case(&name)
            };
            let Some(format) = FORMATS.iter().find(is_metadata) else {
                continue;
            };
            let path = directory.join(&file);
            if let Some((other, earlier)) = tables.first().filter(|(other, _)| other != format) {
                let earlier = earlier.table.file.display();
                let reason = format!(
                    "{earlier} is a table in {}, this one in {format}; use one format",
                    other
                );
                return Err(PrepareError::malformed(path, reason));
            }
            let directory = relative(&directory, root);
            let split = directory.split('/').find_map(split_of).map(str::to_string);
            let table = AnnotationTable { split, file: path };
            tables.push((*format, MetadataTable { table, directory }));
        }
    }
    let format = tables.first().map(|(format, _)| *format);
    Ok(format.map(|format| (format, tables.into_iter().map(|(_, table)| table).collect())))
}
