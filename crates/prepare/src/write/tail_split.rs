//! Divides the rows of a written file between two files.

use std::path::Path;

use super::arrow_file::arrow_path;
use crate::Result;
use crate::plan::TailSplit;
use vlct_data::arrow::{ArrowTable, VqaKind, VqaRow, VqaWriter};

/// Number of bytes of images that are read before the pages of the mapped file are released.
const RELEASE_BYTES: usize = 64 << 20;

impl TailSplit {
    /// Writes the two parts of the file in the directory `out`.
    ///
    /// # Errors
    /// Returns an error if the file is damaged, or if writing fails.
    pub(super) fn write(&self, out: &Path) -> Result<()> {
        let table = ArrowTable::open(arrow_path(out, &self.from))?;
        let head = table.rows().saturating_sub(self.count);
        for (name, rows) in [(&self.head, 0..head), (&self.tail, head..table.rows())] {
            if rows.is_empty() {
                VqaWriter::write_empty(arrow_path(out, name))?;
                continue;
            }
            let mut writer = VqaWriter::create(arrow_path(out, name), VqaKind::Answered)?;
            let mut unreleased_bytes = 0;
            for row in rows {
                let image = table.image(row, "image")?;
                let (image_id, split) = (table.integer(row, "image_id")?, table.string(row, "split")?);
                writer.push(VqaRow {
                    image,
                    questions: &table.questions(row)?,
                    image_id: image_id.unwrap_or_default(),
                    split: split.unwrap_or_default(),
                })?;
                unreleased_bytes += image.len();
                if unreleased_bytes > RELEASE_BYTES {
                    table.release_pages();
                    unreleased_bytes = 0;
                }
            }
            writer.finish()?;
        }
        Ok(())
    }
}
