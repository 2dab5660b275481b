//! One writer for files of any columns.

use std::path::Path;

use crate::plan::{RowText, Schema};
use crate::{DataError, Result};
use vlct_data::arrow::{BatchBlock, CaptionWriter, Nlvr2Row, Nlvr2Writer, VgWriter, VqaRow, VqaWriter};

/// A file being written that a later process can go on with.
#[allow(clippy::large_enum_variant, reason = "there is one at a time")]
pub enum ArrowFileWriter {
    /// Captions.
    Captions(CaptionWriter),
    /// Regions.
    Regions(VgWriter),
    /// Questions.
    Questions(VqaWriter),
    /// Pairs.
    ImagePairs(Nlvr2Writer),
}

/// Calls the same method of whichever writer it is.
macro_rules! of_any {
    ($self:expr, $writer:ident => $call:expr) => {
        match $self {
            ArrowFileWriter::Captions($writer) => $call,
            ArrowFileWriter::Regions($writer) => $call,
            ArrowFileWriter::Questions($writer) => $call,
            ArrowFileWriter::ImagePairs($writer) => $call,
        }
    };
}

impl ArrowFileWriter {
    /// Goes on behind the given batches of a file, or begins it if there are none.
    ///
    /// # Errors
    /// [`DataError`] if the file cannot be written or is not as long as its batches.
    pub fn resume(path: &Path, schema: Schema, blocks: Vec<BatchBlock>) -> Result<Self> {
        Ok(match schema {
            Schema::Captions => Self::Captions(CaptionWriter::resume(path, blocks)?),
            Schema::Regions => Self::Regions(VgWriter::resume(path, blocks)?),
            Schema::Questions(kind) => Self::Questions(VqaWriter::resume(path, kind, blocks)?),
            Schema::ImagePairs => Self::ImagePairs(Nlvr2Writer::resume(path, blocks)?),
        })
    }

    /// Adds a row.
    ///
    /// # Errors
    /// [`DataError`] for a full disk, an image of 2 GiB or more, or a row of other columns.
    pub fn push(&mut self, images: &[Vec<u8>], text: &RowText<'_>) -> Result<()> {
        match (self, text, images) {
            (
                Self::Captions(writer),
                RowText::Captions {
                    captions,
                    image_id,
                    split,
                },
                [image],
            ) => writer.push(image, captions, image_id, split),
            (Self::Regions(writer), RowText::Regions { regions, image_id }, [image]) => {
                writer.push(image, regions, image_id)
            }
            (
                Self::Questions(writer),
                RowText::Questions {
                    questions,
                    image_id,
                    split,
                },
                [image],
            ) => writer.push(VqaRow {
                image,
                questions,
                image_id: *image_id,
                split,
            }),
            (Self::ImagePairs(writer), RowText::ImagePair { sentences, identifier }, [image_0, image_1]) => writer
                .push(Nlvr2Row {
                    image_0,
                    image_1,
                    sentences,
                    identifier,
                }),
            _ => Err(DataError::Invalid("a row does not fit the columns of its file".into())),
        }
    }

    /// The batches written so far.
    pub fn blocks(&self) -> &[BatchBlock] {
        of_any!(self, writer => writer.blocks())
    }

    /// Makes sure that they are on the disk.
    ///
    /// # Errors
    /// [`DataError::Io`] if the disk refuses.
    pub fn sync(&mut self) -> Result<()> {
        of_any!(self, writer => writer.sync())
    }

    /// Completes the file and gives it its name. Returns the number of rows.
    ///
    /// # Errors
    /// [`DataError::Io`] if the disk is full or refuses.
    pub fn finish(self) -> Result<u64> {
        of_any!(self, writer => writer.finish())
    }
}
