//! Caption datasets: `image`, `caption`, `image_id`, `split`.

use std::path::Path;

use arrow_array::ArrayRef;
use arrow_array::builder::{BinaryBuilder, ListBuilder, StringBuilder};

use super::{TakeArray, image_column, text_column, texts_column};
use crate::Result;
use crate::arrow::write::{BatchBlock, ColumnSpec, TableFile};

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

    /// Creates a writer of the file `path`, which appears when [`Self::finish`] succeeds.
    ///
    /// # Errors
    /// Returns [`crate::DataError::Io`] if the directory does not exist or cannot be written.
    pub fn create(path: impl AsRef<Path>) -> Result<Self> {
        Ok(Self::with_file(TableFile::create(path.as_ref(), &Self::columns())?))
    }

    /// Continues the file of an earlier writer, or starts a new file if `blocks` is empty. `blocks` are the batches that the earlier
    /// writer recorded ([`Self::blocks`]): the file at [`partial_path`] is truncated after the last of them, and rows are appended. If
    /// this writer is dropped before [`Self::finish`], the file at `partial_path` is kept.
    ///
    /// [`partial_path`]: crate::arrow::partial_path
    ///
    /// # Errors
    /// Returns the errors of [`Self::create`], and [`crate::DataError::Format`] if `blocks` are inconsistent or
    /// the file ends before the end of the last batch.
    pub fn resume(path: impl AsRef<Path>, blocks: Vec<BatchBlock>) -> Result<Self> {
        Ok(Self::with_file(TableFile::resume(
            path.as_ref(),
            &Self::columns(),
            blocks,
        )?))
    }

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
