//! The schemas of ViLT's files and of files with class labels, with a writer for each.

use std::sync::Arc;

use arrow_array::ArrayRef;
use arrow_array::builder::ArrayBuilder;
use arrow_schema::{DataType, Field};

use super::write::ColumnSpec;

fn list(item: DataType) -> DataType {
    DataType::List(Arc::new(Field::new_list_field(item, true)))
}

fn column(name: &str, data_type: DataType, pandas_type: &'static str) -> ColumnSpec {
    let numpy_type = if pandas_type == "int64" { "int64" } else { "object" };
    ColumnSpec {
        field: Field::new(name, data_type, true),
        pandas_type,
        numpy_type,
    }
}

fn image_column(name: &str) -> ColumnSpec {
    column(name, DataType::Binary, "bytes")
}

fn text_column(name: &str) -> ColumnSpec {
    column(name, DataType::Utf8, "unicode")
}

fn texts_column(name: &str) -> ColumnSpec {
    column(name, list(DataType::Utf8), "list[unicode]")
}

fn integers_column(name: &str) -> ColumnSpec {
    column(name, list(DataType::Int64), "list[int64]")
}

/// Counts the next row, of about `$bytes` bytes, into the batch. If the row would make the batch too large, first writes the
/// buffered rows of `$self`.
macro_rules! make_room {
    ($self:ident, $bytes:expr) => {
        let bytes: usize = $bytes;
        if !$self.file.try_add_row(bytes)? {
            let columns = $self.take_columns();
            $self.file.write(columns)?;
            $self.file.try_add_row(bytes)?;
        }
    };
}

/// Defines the constructors of writers whose columns do not depend on the content.
macro_rules! writer_constructors {
    () => {
        /// Creates a writer of the file `path`, which appears when [`Self::finish`] succeeds.
        ///
        /// # Errors
        /// Returns [`crate::DataError::Io`] if the directory does not exist or cannot be written.
        pub fn create(path: impl AsRef<std::path::Path>) -> $crate::Result<Self> {
            Ok(Self::with_file(TableFile::create(
                path.as_ref(),
                &Self::columns(),
            )?))
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
        pub fn resume(
            path: impl AsRef<std::path::Path>,
            blocks: Vec<$crate::arrow::BatchBlock>,
        ) -> $crate::Result<Self> {
            Ok(Self::with_file(TableFile::resume(
                path.as_ref(),
                &Self::columns(),
                blocks,
            )?))
        }
    };
}

/// Defines the methods that all writers share.
macro_rules! writer_methods {
    ($($builder:ident),*) => {
        /// Takes the buffered rows as columns.
        fn take_columns(&mut self) -> Vec<ArrayRef> {
            vec![$(self.$builder.take_array()),*]
        }

        /// Positions of the written batches. Buffered rows are not included.
        pub fn blocks(&self) -> &[$crate::arrow::BatchBlock] {
            self.file.blocks()
        }

        /// Flushes the written batches to the disk.
        ///
        /// # Errors
        /// Returns [`crate::DataError::Io`] if writing fails.
        pub fn sync(&mut self) -> $crate::Result<()> {
            self.file.sync()
        }

        /// Sets how the images of the file become pixels. Readers find it in the metadata of the file.
        pub fn set_reading(&mut self, reading: vlct_image::Reading) {
            self.file.set_reading(reading);
        }

        /// Completes the file and renames it to its final name, replacing an existing file. Returns the number of rows.
        ///
        /// # Errors
        /// Returns [`crate::DataError::Io`] if writing fails; an existing file is then unchanged.
        pub fn finish(self) -> $crate::Result<u64> {
            self.finish_after(|_| Ok(()))
        }

        /// Like [`Self::finish`], but calls `before_rename` with the size of the file in bytes when the file is complete and flushed to
        /// the disk. If the process ends after that call, the complete file may still have its temporary name.
        ///
        /// # Errors
        /// Returns the errors of [`Self::finish`] and of `before_rename`.
        pub fn finish_after(mut self, before_rename: impl FnOnce(u64) -> $crate::Result<()>) -> $crate::Result<u64> {
            let columns = self.take_columns();
            self.file.write(columns)?;
            self.file.finish(before_rename)
        }
    };
}

/// An [`ArrayBuilder`] that returns its values as a shared array and can be filled again.
trait TakeArray: ArrayBuilder {
    fn take_array(&mut self) -> ArrayRef {
        ArrayBuilder::finish(self)
    }
}
impl<B: ArrayBuilder> TakeArray for B {}

// These modules use the macros above.
mod captions;
mod labels;
mod pairs;
mod questions;
mod regions;

pub use captions::CaptionWriter;
pub use labels::{LabelKind, LabelRow, LabelWriter};
pub use pairs::{Nlvr2Row, Nlvr2Writer};
pub use questions::{AnsweredQuestion, VqaKind, VqaRow, VqaWriter};
pub use regions::{Region, VgWriter};
