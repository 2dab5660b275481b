//! Visual Genome: `image`, `caption`, `width`, `height`, `x`, `y`, `image_id`.

use std::path::Path;

use arrow_array::ArrayRef;
use arrow_array::builder::{BinaryBuilder, Int64Builder, ListBuilder, StringBuilder};

use super::{TakeArray, integers_column, picture_column, text_column, texts_column};
use crate::Result;
use crate::arrow::write::{BatchBlock, ColumnSpec, TableFile};

/// A described region of a Visual Genome picture, in pixels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// The description.
    pub phrase: String,
    /// Width of the region.
    pub width: i64,
    /// Height of the region.
    pub height: i64,
    /// Left edge; negative values occur.
    pub x: i64,
    /// Upper edge; negative values occur.
    pub y: i64,
}

/// Writes the Visual Genome file: `image`, `caption`, `width`, `height`, `x`, `y`, `image_id`.
pub struct VgWriter {
    file: TableFile,
    image: BinaryBuilder,
    caption: ListBuilder<StringBuilder>,
    width: ListBuilder<Int64Builder>,
    height: ListBuilder<Int64Builder>,
    x: ListBuilder<Int64Builder>,
    y: ListBuilder<Int64Builder>,
    image_id: StringBuilder,
}

impl VgWriter {
    fn columns() -> [ColumnSpec; 7] {
        [
            picture_column("image"),
            texts_column("caption"),
            integers_column("width"),
            integers_column("height"),
            integers_column("x"),
            integers_column("y"),
            text_column("image_id"),
        ]
    }

    fn on(file: TableFile) -> Self {
        let integers = || ListBuilder::new(Int64Builder::new());
        Self {
            file,
            image: BinaryBuilder::new(),
            caption: ListBuilder::new(StringBuilder::new()),
            width: integers(),
            height: integers(),
            x: integers(),
            y: integers(),
            image_id: StringBuilder::new(),
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

    /// Adds a picture (the bytes of its file) with its regions.
    ///
    /// # Errors
    /// A picture of 2 GiB or more; a disk that is full.
    pub fn push(&mut self, image: &[u8], regions: &[Region], image_id: &str) -> Result<()> {
        let text: usize = regions.iter().map(|r| r.phrase.len() + 32).sum();
        make_room!(self, image.len() + text + image_id.len());
        self.image.append_value(image);
        self.caption.append_value(regions.iter().map(|r| Some(&r.phrase)));
        self.width.append_value(regions.iter().map(|r| Some(r.width)));
        self.height.append_value(regions.iter().map(|r| Some(r.height)));
        self.x.append_value(regions.iter().map(|r| Some(r.x)));
        self.y.append_value(regions.iter().map(|r| Some(r.y)));
        self.image_id.append_value(image_id);
        Ok(())
    }

    finish!(image, caption, width, height, x, y, image_id);
}
