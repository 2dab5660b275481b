//! Arrow IPC files in ViLT's layout: one row per image, captions as a list, images as the bytes of their files.
//!
//! [`ArrowTable`] reads them in place: the file is mapped into memory and nothing is copied. [`CaptionWriter`], [`VgWriter`],
//! [`VqaWriter`] and [`Nlvr2Writer`] write files with the columns, types and pandas metadata of the original writers, in batches of
//! bounded size. [`LabelWriter`] writes files with class labels, which the original does not have.
//!
//! Input is untrusted: a file may be truncated, have another format, or be malicious. `layout.rs` checks, when a file is opened, that
//! every buffer lies inside the file; `table.rs` checks every offset when a value is read. No allocation is sized by an unchecked
//! field.

mod cell;
mod column_type;
mod kinds;
mod layout;
mod schemas;
mod table;
mod write;

pub use column_type::ColumnType;
pub use schemas::{
    AnsweredQuestion, CaptionWriter, LabelKind, LabelRow, LabelWriter, Nlvr2Row, Nlvr2Writer, Region, VgWriter,
    VqaKind, VqaRow, VqaWriter,
};
pub use table::ArrowTable;
pub use write::{BatchBlock, partial_path};

#[cfg(test)]
pub(crate) mod tests;
