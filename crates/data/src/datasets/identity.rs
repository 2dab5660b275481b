//! What identifies the files of a dataset, so that a resumed run can tell whether they have changed.

use serde::{Deserialize, Serialize};

use super::index::TableIndex;
use super::items::TableDataset;
use crate::Result;

/// What identifies the content of a file of a dataset, without a pass over its images. The directory of the file is not part of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileIdentity {
    /// Name of the dataset.
    pub dataset: String,
    /// Name of the file, with extension.
    pub file: String,
    /// Number of rows in use.
    pub rows: u64,
    /// Number of items of these rows.
    pub items: u64,
    /// Size of the file in bytes.
    pub bytes: u64,
    /// Hash of the texts of these rows, in order; in a dataset of labels, of the labels of all rows.
    pub digest: u64,
}

impl FileIdentity {
    /// Whether two files have the same content, under any names.
    pub fn has_content_of(&self, other: &Self) -> bool {
        let content = |file: &Self| (file.rows, file.items, file.bytes, file.digest);
        content(self) == content(other)
    }
}

impl TableDataset {
    /// Returns what identifies each file, in reading order. Reads all labels of a dataset of labels, and nothing of other datasets.
    ///
    /// # Errors
    /// Returns an error if labels are damaged.
    pub fn identities(&self) -> Result<Vec<FileIdentity>> {
        let identity = |(dataset, index): (&str, &TableIndex)| {
            let path = index.table.path();
            Ok(FileIdentity {
                dataset: dataset.to_owned(),
                file: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
                rows: index.rows.len() as u64,
                items: index.items as u64,
                bytes: index.table.bytes(),
                digest: index.digest()?,
            })
        };
        self.indices().map(identity).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{Contents, Split};
    use super::*;
    use crate::arrow::{CaptionWriter, LabelKind, LabelRow, LabelWriter};

    fn identity(root: &Path, contents: Contents) -> FileIdentity {
        let dataset = TableDataset::open(contents, root, &["photos"], Split::Train).unwrap();
        let mut identities = dataset.identities().unwrap();
        assert_eq!(identities.len(), 1);
        identities.remove(0)
    }

    fn captions(rows: &[&[&str]]) -> FileIdentity {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = CaptionWriter::create(directory.path().join("photos_train.arrow")).unwrap();
        for texts in rows {
            writer.push(b"image", texts, "1.jpg", "train").unwrap();
        }
        writer.finish().unwrap();
        identity(directory.path(), Contents::Captions)
    }

    fn labels(rows: &[&str]) -> FileIdentity {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("photos_train.arrow");
        let mut writer = LabelWriter::create(&path, LabelKind::Single).unwrap();
        for label in rows {
            let row = LabelRow {
                image: Some(b"image"),
                text: None,
                labels: Some(&[(*label).to_owned()]),
                image_id: None,
                split: "train",
            };
            writer.push(row).unwrap();
        }
        writer.finish().unwrap();
        identity(directory.path(), Contents::Labels)
    }

    #[test]
    fn equal_files_in_other_directories_are_the_same_and_changed_ones_differ() {
        let first = captions(&[&["a cat", "a dog"], &["a bird"]]);
        assert_eq!(first, captions(&[&["a cat", "a dog"], &["a bird"]]));
        assert_eq!((first.rows, first.items, &first.file[..]), (2, 3, "photos_train.arrow"));
        // These have the same number of bytes.
        for other in [
            captions(&[&["a bat", "a dog"], &["a bird"]]),
            captions(&[&["a bird"], &["a cat", "a dog"]]),
            captions(&[&["a cat"], &["a dog", "a bird"]]),
        ] {
            assert!(!first.has_content_of(&other), "{other:?}");
            assert_eq!(
                (first.rows, first.items, first.bytes),
                (other.rows, other.items, other.bytes)
            );
        }
        assert_eq!(labels(&["a", "b"]), labels(&["a", "b"]));
        assert_ne!(labels(&["a", "b"]).digest, labels(&["b", "a"]).digest);
    }
}
