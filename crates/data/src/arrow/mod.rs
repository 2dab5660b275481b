//! Arrow IPC files in ViLT's layout: one row per picture, captions as a list, pictures as the bytes of their files.
//!
//! [`ArrowTable`] reads them where they lie: the file is mapped into memory, nothing is copied, and opening costs
//! the same for ten rows and for ten million. [`CaptionWriter`], [`VgWriter`], [`VqaWriter`] and [`Nlvr2Writer`] write files
//! with the columns, types and pandas metadata of the original writers, in batches of bounded size.
//!
//! Trust: a file may be truncated, of another kind or made to do harm. `layout.rs` checks once, when a file is
//! opened, that every buffer lies inside the file; `table.rs` checks every offset when a value is read. Neither
//! allocates by numbers found in the file.

mod layout;
mod schemas;
mod table;
mod write;

pub use schemas::{
    AnsweredQuestion, CaptionWriter, Nlvr2Row, Nlvr2Writer, Region, VgWriter, VqaKind, VqaRow, VqaWriter,
};
pub use table::{ArrowTable, Values};
pub use write::{BatchBlock, partial};

#[cfg(test)]
pub(crate) mod tests;
