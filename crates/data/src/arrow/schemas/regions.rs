//! Visual Genome: `image`, `caption`, `width`, `height`, `x`, `y`, `image_id`.

use arrow_array::ArrayRef;
use arrow_array::builder::{BinaryBuilder, Int64Builder, ListBuilder, StringBuilder};

use super::{TakeArray, image_column, integers_column, text_column, texts_column};
use crate::Result;
use crate::arrow::write::{ColumnSpec, TableFile};

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

    writer_constructors!();

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
