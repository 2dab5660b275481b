//! Visual Genome: `image`, `caption`, `width`, `height`, `x`, `y`, `image_id`.

use std::path::Path;

use arrow_array::ArrayRef;
use arrow_array::builder::{BinaryBuilder, Int64Builder, ListBuilder, StringBuilder};

use super::{TakeArray, image_column, integers_column, text_column, texts_column};
use crate::Result;
use crate::arrow::write::{BatchBlock, ColumnSpec, TableFile};

/// A described region of a Visual Genome image. Position and size are in pixels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// The description of the region.
    pub phrase: String,
    /// Width of the region.
    pub width: i64,
    /// Height of the region.
    pub height: i64,
    /// x coordinate of the left edge; may be negative.
    pub x: i64,
    /// y coordinate of the top edge; may be negative.
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
            image_column("image"),
            texts_column("caption"),
            integers_column("width"),
            integers_column("height"),
            integers_column("x"),
            integers_column("y"),
            text_column("image_id"),
        ]
    }

    fn with_file(file: TableFile) -> Self {
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

    /// Adds an image (the bytes of its file) with its regions.
    ///
    /// # Errors
    /// Returns [`crate::DataError::RowTooLarge`] if the row has about 2 GiB or more, [`crate::DataError::Io`] if writing fails.
    pub fn push(&mut self, image: &[u8], regions: &[Region], image_id: &str) -> Result<()> {
        // The four integers of a region take 32 bytes.
        let region_bytes: usize = regions.iter().map(|r| r.phrase.len() + 32).sum();
        make_room!(self, image.len() + region_bytes + image_id.len());
        self.image.append_value(image);
        self.caption.append_value(regions.iter().map(|r| Some(&r.phrase)));
        self.width.append_value(regions.iter().map(|r| Some(r.width)));
        self.height.append_value(regions.iter().map(|r| Some(r.height)));
        self.x.append_value(regions.iter().map(|r| Some(r.x)));
        self.y.append_value(regions.iter().map(|r| Some(r.y)));
        self.image_id.append_value(image_id);
        Ok(())
    }

    writer_methods!(image, caption, width, height, x, y, image_id);
}
