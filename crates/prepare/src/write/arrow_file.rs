//! A writer for files of any [`Schema`].

use std::path::{Path, PathBuf};

use crate::plan::{RowText, Schema};
use crate::{PrepareError, Result};
use vlct_data::arrow::{
    BatchBlock, CaptionWriter, LabelRow, LabelWriter, Nlvr2Row, Nlvr2Writer, VgWriter, VqaRow, VqaWriter,
};
use vlct_image::Reading;

/// Returns the path of the file `name` in the directory `out`.
pub fn arrow_path(out: &Path, name: &str) -> PathBuf {
    out.join(format!("{name}.arrow"))
}

/// A writer of an Arrow file. A later process can resume an unfinished file.
#[allow(clippy::large_enum_variant, reason = "only one writer exists at a time")]
pub enum ArrowFileWriter {
    Captions(CaptionWriter),
    Regions(VgWriter),
    Questions(VqaWriter),
    ImagePairs(Nlvr2Writer),
    Labels(LabelWriter),
}

/// Calls the same method on the writer of any schema.
macro_rules! with_any_writer {
    ($self:expr, $writer:ident => $call:expr) => {
        match $self {
            ArrowFileWriter::Captions($writer) => $call,
            ArrowFileWriter::Regions($writer) => $call,
            ArrowFileWriter::Questions($writer) => $call,
            ArrowFileWriter::ImagePairs($writer) => $call,
            ArrowFileWriter::Labels($writer) => $call,
        }
    };
}

impl ArrowFileWriter {
    /// Resumes a file after the batches `blocks`. If `blocks` is empty, creates the file.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written, or ends before the last of `blocks`.
    pub fn resume(path: &Path, schema: Schema, blocks: Vec<BatchBlock>) -> Result<Self> {
        Ok(match schema {
            Schema::Captions => Self::Captions(CaptionWriter::resume(path, blocks)?),
            Schema::Regions => Self::Regions(VgWriter::resume(path, blocks)?),
            Schema::Questions(kind) => Self::Questions(VqaWriter::resume(path, kind, blocks)?),
            Schema::ImagePairs => Self::ImagePairs(Nlvr2Writer::resume(path, blocks)?),
            Schema::Labels(kind) => Self::Labels(LabelWriter::resume(path, kind, blocks)?),
        })
    }

    /// Records how the images become pixels.
    pub fn set_reading(&mut self, reading: Reading) {
        with_any_writer!(self, writer => writer.set_reading(reading));
    }

    /// Adds a row.
    ///
    /// # Errors
    /// Returns an error if writing fails, if the row is too large, or if it does not fit the schema.
    pub fn push(&mut self, images: &[Vec<u8>], text: &RowText<'_>) -> Result<()> {
        let written = match (self, text, images) {
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
            (
                Self::ImagePairs(writer),
                RowText::ImagePair {
                    sentences,
                    has_truths,
                    identifier,
                },
                [image_0, image_1],
            ) => {
                let row = Nlvr2Row {
                    image_0,
                    image_1,
                    sentences,
                    identifier,
                };
                match has_truths {
                    true => writer.push(row),
                    false => writer.push_without_answers(row),
                }
            }
            (
                Self::Labels(writer),
                RowText::Labels {
                    text,
                    labels,
                    image_id,
                    split,
                },
                [] | [_],
            ) => writer.push(LabelRow {
                image: images.first().map(Vec::as_slice),
                text: *text,
                labels: *labels,
                image_id: image_id.as_deref(),
                split,
            }),
            _ => return Err(PrepareError::SchemaMismatch),
        };
        Ok(written?)
    }

    /// Returns the positions of the written batches.
    pub fn blocks(&self) -> &[BatchBlock] {
        with_any_writer!(self, writer => writer.blocks())
    }

    /// Flushes the written batches to the disk.
    ///
    /// # Errors
    /// Returns an error if writing fails.
    pub fn sync(&mut self) -> Result<()> {
        Ok(with_any_writer!(self, writer => writer.sync())?)
    }

    /// Completes the file, calls `before_rename` with its size in bytes, and renames the file to its final name. Returns the number of
    /// rows.
    ///
    /// # Errors
    /// Returns an error if writing fails, and the error of `before_rename`.
    pub fn finish(self, before_rename: impl FnOnce(u64) -> vlct_data::Result<()>) -> Result<u64> {
        Ok(with_any_writer!(self, writer => writer.finish_after(before_rename))?)
    }
}
