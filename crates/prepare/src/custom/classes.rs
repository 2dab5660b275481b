//! Folders of classes: the name of the class is the caption.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use super::Own;
use crate::datasets::{numbered, read_picture};
use crate::plan::{Columns, Plan, RowSource, RowText};
use crate::records::{ClassFolders, class_folders, split_folders};
use crate::{DataError, Result};
use vlct_data::manifest::Coverage;

/// Rows of one split.
struct Rows {
    folders: Arc<ClassFolders>,
    range: Range<usize>,
    split: &'static str,
}

pub(super) fn plan(own: &Own) -> Result<Plan> {
    let mut plan = Plan::default();
    let mut first: Option<Arc<ClassFolders>> = None;
    for (split, folder) in split_folders(&own.root)? {
        if !own.wants(split) {
            continue;
        }
        let folders = Arc::new(class_folders(&folder)?);
        let known = first.get_or_insert_with(|| folders.clone());
        if let Some(class) = folders.classes.iter().find(|class| !known.classes.contains(class)) {
            return Err(DataError::Format {
                path: folder,
                reason: format!("class {class:?} is in no earlier split; classes of all splits must be those of train"),
            });
        }
        let count = folders.pictures.len();
        plan.coverage.push(Coverage {
            part: split.to_string(),
            found: count,
            kept: count,
            annotated: count,
            ..Coverage::default()
        });
        plan.remarks.push(format!("{split}: {} classes", folders.classes.len()));
        plan.files.extend(numbered(
            &own.prefix(split),
            count,
            own.rows_per_file,
            Columns::Captions,
            |range| Rows {
                folders: folders.clone(),
                range,
                split,
            },
        ));
    }
    own.refuse_nothing(&plan, "there are no pictures in folders of classes")?;
    Ok(plan)
}

impl RowSource for Rows {
    fn rows(&self) -> usize {
        self.range.len()
    }

    fn label(&self, row: usize) -> String {
        self.folders.pictures[self.range.start + row].path.display().to_string()
    }

    fn text(&self, row: usize) -> Result<RowText<'_>> {
        let picture = &self.folders.pictures[self.range.start + row];
        let name = picture.path.file_name().unwrap_or_default();
        Ok(RowText::Captions {
            captions: vec![Cow::Borrowed(&self.folders.classes[picture.class])],
            image_id: name.to_string_lossy(),
            split: Cow::Borrowed(self.split),
        })
    }

    fn pictures(&self, row: usize) -> Result<Vec<Vec<u8>>> {
        Ok(vec![read_picture(&self.folders.pictures[self.range.start + row].path)?])
    }
}
