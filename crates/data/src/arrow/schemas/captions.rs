//! Caption datasets: `image`, `caption`, `image_id`, `split`.

use arrow_array::ArrayRef;
use arrow_array::builder::{BinaryBuilder, ListBuilder, StringBuilder};

use super::{TakeArray, image_column, text_column, texts_column};
use crate::Result;
use crate::arrow::write::{ColumnSpec, TableFile};

/// Writes files of the caption datasets: `image`, `caption`, `image_id`, `split`.
pub struct CaptionWriter {
    file: TableFile,
    image: BinaryBuilder,
    caption: ListBuilder<StringBuilder>,
    image_id: StringBuilder,
    split: StringBuilder,
}

impl CaptionWriter {
    fn columns() -> [ColumnSpec; 4] {
        [
            image_column("image"),
            texts_column("caption"),
            text_column("image_id"),
            text_column("split"),
        ]
    }

    fn with_file(file: TableFile) -> Self {
        Self {
            file,
            image: BinaryBuilder::new(),
            caption: ListBuilder::new(StringBuilder::new()),
            image_id: StringBuilder::new(),
            split: StringBuilder::new(),
        }
    }

    writer_constructors!();

    /// Adds an image (the bytes of its file) with its captions.
    ///
    /// # Errors
    /// Returns [`crate::DataError::RowTooLarge`] if the row has about 2 GiB or more, [`crate::DataError::Io`] if writing fails.
    pub fn push<S: AsRef<str>>(&mut self, image: &[u8], captions: &[S], image_id: &str, split: &str) -> Result<()> {
        let text_bytes: usize = captions.iter().map(|c| c.as_ref().len()).sum();
        make_room!(self, image.len() + text_bytes + image_id.len() + split.len());
        self.image.append_value(image);
        self.caption.append_value(captions.iter().map(|c| Some(c.as_ref())));
        self.image_id.append_value(image_id);
        self.split.append_value(split);
        Ok(())
    }

    writer_methods!(image, caption, image_id, split);
}
