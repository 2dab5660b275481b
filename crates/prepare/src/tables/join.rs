//! Rows about the same image as one.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use super::{ImageSource, Record};
use crate::Result;

/// Joins the rows that name the same file in the same split, wherever they stand: captions and questions are collected, in
/// order, at the place of the first. Rows that hold their image's bytes stay as they are.
///
/// # Errors
/// The first error among the rows.
pub fn join(records: impl Iterator<Item = Result<Record>>) -> Result<Vec<Record>> {
    let mut rows: Vec<Record> = Vec::new();
    let mut places: HashMap<(PathBuf, Option<String>), usize> = HashMap::new();
    for record in records {
        let record = record?;
        let ImageSource::File(path) = &record.image else {
            rows.push(record);
            continue;
        };
        // `./a//b` is `a/b`.
        let components = Path::new(path).components().filter(|part| *part != Component::CurDir);
        let file = components.collect::<PathBuf>();
        let place = *places.entry((file, record.split.clone())).or_insert(rows.len());
        match rows.get_mut(place) {
            Some(first) => {
                first.captions.extend(record.captions);
                first.questions.extend(record.questions);
                first.image_id = first.image_id.take().or(record.image_id);
            }
            None => rows.push(record),
        }
    }
    Ok(rows)
}
