//! Files that are cut out of others, as VQA's two parts of the validation questions are.

use std::path::Path;

use crate::Result;
use vlct_data::arrow::{ArrowTable, VqaKind, VqaRow, VqaWriter};

/// Bytes of pictures read before their pages are given back to the system.
const RELEASE_BYTES: usize = 64 << 20;

/// Two files of questions with answers that are cut out of another one when that is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Name of the file that is cut.
    pub from: String,
    /// Name of the file that gets all rows but the last `count`.
    pub head: String,
    /// Name of the file that gets the last `count` rows.
    pub tail: String,
    /// How many.
    pub count: usize,
}

impl Cut {
    /// Cuts the file in the folder `out`.
    ///
    /// # Errors
    /// A file that is damaged; a full disk.
    pub(super) fn make(&self, out: &Path) -> Result<()> {
        let path = |name: &str| out.join(format!("{name}.arrow"));
        let table = ArrowTable::open(path(&self.from))?;
        let head = table.rows().saturating_sub(self.count);
        for (name, rows) in [(&self.head, 0..head), (&self.tail, head..table.rows())] {
            if rows.is_empty() {
                VqaWriter::write_none(path(name))?;
                continue;
            }
            let mut writer = VqaWriter::create(path(name), VqaKind::Answered)?;
            let mut since_release = 0;
            for row in rows {
                let image = table.image(row, "image")?;
                let (image_id, split) = (table.integer(row, "image_id")?, table.string(row, "split")?);
                writer.push(VqaRow {
                    image,
                    questions: &table.questions(row)?,
                    image_id: image_id.unwrap_or_default(),
                    split: split.unwrap_or_default(),
                })?;
                since_release += image.len();
                if since_release > RELEASE_BYTES {
                    table.release_pages();
                    since_release = 0;
                }
            }
            writer.finish()?;
        }
        Ok(())
    }
}
