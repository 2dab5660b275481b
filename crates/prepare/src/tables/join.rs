//! Joins rows of the same image.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use super::record::{ImageSource, Record};

/// Joins the rows that name the same image file in the same split: the first of these rows gets the captions and questions of all, in
/// order. Rows that hold the bytes of their image, or have no image, are not joined.
pub fn join(records: impl IntoIterator<Item = Record>) -> Vec<Record> {
    let mut rows: Vec<Record> = Vec::new();
    let mut indices: HashMap<(PathBuf, Option<String>), usize> = HashMap::new();
    for record in records {
        let Some(ImageSource::File(path)) = &record.images[0] else {
            rows.push(record);
            continue;
        };
        let index = *indices
            .entry((normal_path(path), record.split.clone()))
            .or_insert(rows.len());
        match rows.get_mut(index) {
            Some(first) => {
                first.captions.extend(record.captions);
                first.questions.extend(record.questions);
                first.image_id = first.image_id.take().or(record.image_id);
            }
            None => rows.push(record),
        }
    }
    rows
}

/// Returns the path without `.` and repeated separators: `./a//b` and `a/b` are the same file.
pub(crate) fn normal_path(path: &str) -> PathBuf {
    let components = Path::new(path).components();
    components.filter(|part| *part != Component::CurDir).collect()
}
