//! Raw downloads to Arrow files.
//!
//! ```text
//! annotations, folders ── datasets::… ──▶ Plan ── write ──▶ Arrow files, report
//! ```
//!
//! A [`Plan`] says which files there will be and what the rows of each are, before the first picture is read. [`write()`] reads the
//! pictures on all cores, leaves out those that cannot be decoded, and writes the files; killed and called again it goes on
//! where it was. The files are those of the original's writers (`vlc/utils/write_*.py`), in an order that is a function of
//! the seed instead of random.

mod cut;
pub mod datasets;
mod find;
mod journal;
mod ordered;
pub mod own;
mod picture;
mod plan;
mod report;
mod table;
mod write;

pub use cut::Cut;
pub use datasets::{Dataset, ROWS_PER_FILE, Raw};
pub(crate) use journal::unfinished;
pub use picture::{Shrink, Treatment};
pub use plan::{Columns, Coverage, Plan, PlannedFile, RowSource, RowText};
pub use report::{LeftOut, Report, WrittenFile};
pub use write::{Outcome, Progress, Target, write};

#[cfg(test)]
mod tests;
