//! `image`, `caption`, `image_id`, `split`.

use std::path::Path;

use arrow_array::ArrayRef;
use arrow_array::builder::{BinaryBuilder, ListBuilder, StringBuilder};

use super::{TakeArray, picture_column, text_column, texts_column};
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
            picture_column("image"),
            texts_column("caption"),
            text_column("image_id"),
            text_column("split"),
        ]
    }

    fn on(file: TableFile) -> Self {
        Self {
            file,
            image: BinaryBuilder::new(),
            caption: ListBuilder::new(StringBuilder::new()),
            image_id: StringBuilder::new(),
            split: StringBuilder::new(),
        }
    }

    /// Begins the file `path`. Nothing has that name before [`Self::finish`].
    ///
    /// # Errors
    /// [`crate::DataError::Io`] if the folder does not exist or cannot be written.
    pub fn create(path: impl AsRef<Path>) -> Result<Self> {
        Ok(Self::on(TableFile::create(path.as_ref(), &Self::columns())?))
    }

    /// Goes on with a file that an earlier writer, also from here, left behind the given batches ([`Self::blocks`]); without any, begins.
    /// What is written stays, under a hidden name, if this writer too is dropped.
    ///
    /// # Errors
    /// As [`Self::create`]; [`crate::DataError::Format`] if that file is not as long as its batches.
    pub fn resume(path: impl AsRef<Path>, blocks: Vec<BatchBlock>) -> Result<Self> {
        Ok(Self::on(TableFile::resume(path.as_ref(), &Self::columns(), blocks)?))
    }

    /// Adds a picture (the bytes of its file) with its captions.
    ///
    /// # Errors
    /// A picture of 2 GiB or more; a disk that is full.
    pub fn push<S: AsRef<str>>(&mut self, image: &[u8], captions: &[S], image_id: &str, split: &str) -> Result<()> {
        let text: usize = captions.iter().map(|c| c.as_ref().len()).sum();
        make_room!(self, image.len() + text + image_id.len() + split.len());
        self.image.append_value(image);
        self.caption.append_value(captions.iter().map(|c| Some(c.as_ref())));
        self.image_id.append_value(image_id);
        self.split.append_value(split);
        Ok(())
    }

    finish!(image, caption, image_id, split);
}
